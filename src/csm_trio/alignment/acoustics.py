"""Acoustic model: turn samples into likelihoods of the phone classes, one row every 20 ms.

Two acoustic features separate the classes for any voice: loudness relative to the voice's loudest
window, and brightness, the energy of the samples' first differences over that of the samples (high
for a sibilant, low for a vowel). The module must not know the text.
"""

import numpy as np
from numpy.typing import NDArray

from csm_trio.timebase import SAMPLE_RATE_HZ

WINDOW_MS = 20
_WINDOW_SAMPLES = SAMPLE_RATE_HZ * WINDOW_MS // 1000

DEFAULT_LOUDEST_DB = 60.0
"""Mean square in dB of a voice's loudest window, in 16-bit units, before one is measured."""
_LOUDEST_DECAY_DB = 0.02  # per window: one loud window must not depress all later ones

# Mean, spread and correlation of (loudness, brightness) in dB for the classes in `PhoneClass`'s
# order, measured over the windows of 160 forced alignments of the embedded voice's four speakers.
_MEANS = np.array([(-44.3, -7.1), (-23.3, -13.6), (-13, -3.9), (-19.9, -11), (-6.3, -21.3),
                   (-4.6, -18.7)])  # fmt: skip
_SPREADS = np.array([(14.5, 5.8), (13, 10.4), (8.1, 8.5), (12, 10.4), (9.2, 5.7), (7.3, 4.6)])
_CORRELATIONS = np.array([-0.7, -0.47, -0.17, -0.65, -0.57, -0.43])

_LIKELIHOOD_EXPONENT = 0.35
"""Exponent below 1, since windows are correlated and spelling predicts sounds imperfectly."""
_LIKELIHOOD_FLOOR = 1e-3
_MIN_SQUARES = np.array([[1.0], [0.1]]) * _WINDOW_SAMPLES
"""Added to the squares of a window's samples and of their differences: silence has logarithms."""
_WINDOW_DB = 10 * np.log10(_WINDOW_SAMPLES)
_CLASSES = len(_MEANS)


class AcousticModel:
    """Acoustic model of one utterance; `loudest_db` comes from the voice profile."""

    def __init__(self, loudest_db: float) -> None:
        self.loudest_db = loudest_db
        # The last sample of the last window (for its difference), then an incomplete window.
        self._rest = np.zeros(1, dtype=np.float32)

    def feed(self, pcm: NDArray[np.int16]) -> NDArray[np.float64]:
        """Return the likelihoods [windows, classes] of the windows that `pcm` completes.

        `pcm` is mono at 24 kHz. Values are relative to each window's likeliest class.
        """
        samples = np.concatenate((self._rest, pcm), dtype=np.float32)
        windows = (len(samples) - 1) // _WINDOW_SAMPLES
        end = windows * _WINDOW_SAMPLES + 1
        self._rest = samples[end - 1 :].copy()  # a view would keep all samples alive
        if not windows:
            return np.empty((0, _CLASSES))
        squares = np.empty((2, windows))
        squares[0] = _sums_of_squares(samples[1:end])
        squares[1] = _sums_of_squares(samples[1:end] - samples[: end - 1])
        squares += _MIN_SQUARES
        energies, differences = np.log10(squares, squares) * 10 - _WINDOW_DB
        features = np.empty((6, windows))
        features[0] = 1.0
        features[1] = self._loudness(energies)
        np.subtract(differences, energies, features[2])
        np.multiply(features[1], features[1:3], features[3:5])
        np.multiply(features[2], features[2], features[5])
        logs = _LOG_LIKELIHOODS @ features  # [classes, windows]
        logs -= np.maximum.reduce(logs)
        likelihoods: NDArray[np.float64] = np.exp(logs, logs)
        likelihoods += _LIKELIHOOD_FLOOR
        return likelihoods.T

    def _loudness(self, energies: NDArray[np.float64]) -> list[float]:
        """Return energies relative to the loudest window so far, in dB."""
        loudness = []
        for db in energies.tolist():
            self.loudest_db = max(self.loudest_db - _LOUDEST_DECAY_DB, db)
            loudness.append(db - self.loudest_db)
        return loudness


def _sums_of_squares(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = samples.reshape(-1, _WINDOW_SAMPLES)
    sums: NDArray[np.float32] = np.vecdot(rows, rows)
    return sums


def _log_likelihoods() -> NDArray[np.float64]:
    """Return the log-densities of the classes' Gaussians as weights [classes, 6 features]."""
    variances = 1 - _CORRELATIONS**2
    loud, bright = 1 / (_SPREADS**2 * variances[:, None]).T / 2
    both = -_CORRELATIONS / (_SPREADS.prod(axis=1) * variances)
    at_loud, at_bright = _MEANS.T
    constant = -np.log(_SPREADS.prod(axis=1) * np.sqrt(variances))
    constant -= loud * at_loud**2 + both * at_loud * at_bright + bright * at_bright**2
    return np.stack(
        (
            constant,
            2 * loud * at_loud + both * at_bright,
            2 * bright * at_bright + both * at_loud,
            -loud,
            -both,
            -bright,
        ),
        axis=1,
    )


_LOG_LIKELIHOODS = _LIKELIHOOD_EXPONENT * _log_likelihoods()
