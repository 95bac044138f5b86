"""Samples in, how likely each kind of sound is out, every 20 ms; it must not know the text.

Two figures tell the kinds apart, whatever the voice: loudness below the voice's own loudest, and
brightness, the energy of the samples' differences over that of the samples (a hiss is bright, a
vowel is not).
"""

import numpy as np
from numpy.typing import NDArray

from csm_trio.timebase import SAMPLE_RATE_HZ

WINDOW_MS = 20
_WINDOW_SAMPLES = SAMPLE_RATE_HZ * WINDOW_MS // 1000

USUAL_LOUDEST_DB = 60.0
"""Of 16-bit samples, mean square; what is expected before a voice has been heard."""
_FORGOTTEN_DB = 0.02  # a window, so that one shout does not hush the rest

# Mean, spread and correlation of (loudness, brightness) in dB for the classes in `PhoneClass`'s
# order: the windows of 160 forced alignments of the embedded voice's four speakers.
_MEANS = np.array([(-44.3, -7.1), (-23.3, -13.6), (-13, -3.9), (-19.9, -11), (-6.3, -21.3),
                   (-4.6, -18.7)])  # fmt: skip
_SPREADS = np.array([(14.5, 5.8), (13, 10.4), (8.1, 8.5), (12, 10.4), (9.2, 5.7), (7.3, 4.6)])
_CORRELATIONS = np.array([-0.7, -0.47, -0.17, -0.65, -0.57, -0.43])

_TEMPER = 0.35
"""Windows are not independent, and letters lie about sounds: evidence counts this much."""
_LEAST = 1e-3


class AcousticModel:
    """Hears one utterance; `loudest_db` is what its voice was like before."""

    def __init__(self, loudest_db: float) -> None:
        self.loudest_db = loudest_db
        # The sample before the first window, for its difference, and what is short of a window.
        self._rest = np.zeros(1, dtype=np.float32)

    def feed(self, pcm: NDArray[np.int16]) -> NDArray[np.float64]:
        """Return the likelihoods [windows, kinds] of the windows that `pcm` completes.

        At most 1 each, relative to the window's likeliest kind.
        """
        samples = np.concatenate((self._rest, pcm), dtype=np.float32)
        windows = (len(samples) - 1) // _WINDOW_SAMPLES
        heard = samples[: windows * _WINDOW_SAMPLES + 1]
        self._rest = samples[windows * _WINDOW_SAMPLES :]
        energy = _mean_squares(heard[1:]) + 1
        brightness = 10 * np.log10((_mean_squares(heard[1:] - heard[:-1]) + 0.1) / energy)
        loudness = 10 * np.log10(energy)
        for i, db in enumerate(loudness.tolist()):
            self.loudest_db = max(self.loudest_db - _FORGOTTEN_DB, db)
            loudness[i] -= self.loudest_db
        products = (loudness**2, loudness * brightness, brightness**2)
        features = np.stack((np.ones(windows), loudness, brightness, *products), axis=1)
        logs = features @ _LOG_LIKELIHOODS
        logs -= logs.max(axis=1, keepdims=True)
        likelihoods: NDArray[np.float64] = np.exp(_TEMPER * logs) + _LEAST  # [windows, kinds]
        return likelihoods


def _mean_squares(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = samples.reshape(-1, _WINDOW_SAMPLES)
    sums: NDArray[np.float32] = np.einsum("ij,ij->i", rows, rows)
    return sums.astype(np.float64) / _WINDOW_SAMPLES


def _log_likelihoods() -> NDArray[np.float64]:
    """Return the Gaussians' logarithms [6, kinds], by the features of `Ear.feed`."""
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
