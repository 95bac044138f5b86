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
        complete = samples[: windows * _WINDOW_SAMPLES + 1]
        self._rest = samples[windows * _WINDOW_SAMPLES :]
        energy = _mean_squares(complete[1:]) + 1
        brightness = 10 * np.log10((_mean_squares(complete[1:] - complete[:-1]) + 0.1) / energy)
        loudness = 10 * np.log10(energy)
        for i, db in enumerate(loudness.tolist()):
            self.loudest_db = max(self.loudest_db - _LOUDEST_DECAY_DB, db)
            loudness[i] -= self.loudest_db
        products = (loudness**2, loudness * brightness, brightness**2)
        features = np.stack((np.ones(windows), loudness, brightness, *products), axis=1)
        logs = features @ _LOG_LIKELIHOODS
        logs -= logs.max(axis=1, keepdims=True)
        likelihoods: NDArray[np.float64] = np.exp(_LIKELIHOOD_EXPONENT * logs) + _LIKELIHOOD_FLOOR
        return likelihoods


def _mean_squares(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = samples.reshape(-1, _WINDOW_SAMPLES)
    sums: NDArray[np.float32] = np.einsum("ij,ij->i", rows, rows)
    return sums.astype(np.float64) / _WINDOW_SAMPLES


def _log_likelihoods() -> NDArray[np.float64]:
    """Return the log-densities of the classes' Gaussians as weights [6 features, classes]."""
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
        )
    )


_LOG_LIKELIHOODS = _log_likelihoods()
