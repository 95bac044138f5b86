"""Loudness by EBU R128: measure speech and bring it to a target without clipping.

ITU-R BS.1770-5 for one channel; EBU Tech 3341 names its scale LUFS. The module must not know
formats.
"""

import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.pcm import to_float, to_int16

MAX_TRUE_PEAK_DBTP = -1.0
"""Highest true peak of a normalized file, after EBU R128."""

# BS.1770-5, annex 1, tables 1 and 2: the two filters of the K weighting, defined at 48 kHz.
_TABLES_HZ = 48_000
_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285),
          (1.0, -1.69065929318241, 0.73248077421585))  # fmt: skip
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_OFFSET_LU = -0.691
_BLOCK_S, _HOP_S = 0.4, 0.1
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
# The filters' response has decayed by 100 dB within it, so the transform does not wrap around.
_TAIL_S = 0.2

_OVERSAMPLING = 4
_PEAK_BLOCK_SAMPLES, _PEAK_MARGIN_SAMPLES = 1 << 15, 1 << 9


def loudness_lufs(pcm: NDArray[np.int16], sample_rate_hz: int) -> float | None:
    """Return the gated loudness of mono samples [n]; None for silence.

    Less than one block of 400 ms is measured as a whole.
    """
    energies = _block_energies(pcm, sample_rate_hz)
    energies = energies[energies > _energy(_ABSOLUTE_GATE_LUFS)]
    if not energies.size:
        return None
    relative = _lufs(float(energies.mean())) + _RELATIVE_GATE_LU
    return _lufs(float(energies[energies > _energy(relative)].mean()))


def normalize_loudness(
    pcm: NDArray[np.int16], sample_rate_hz: int, target_lufs: float
) -> tuple[NDArray[np.int16], float | None]:
    """Return samples [n] at the target's loudness, and the loudness they have now.

    It is lower than the target where a true peak would pass -1 dBTP, and None for silence, which
    is returned as it is.
    """
    measured = loudness_lufs(pcm, sample_rate_hz)
    if measured is None:
        return pcm, None
    headroom_db = MAX_TRUE_PEAK_DBTP - 20 * np.log10(true_peak(pcm))
    gain_db = min(target_lufs - measured, headroom_db)
    louder = to_int16(pcm.astype(np.float64) * 10 ** (gain_db / 20))
    return louder, float(measured + gain_db)


def true_peak(pcm: NDArray[np.int16]) -> float:
    """Return the largest magnitude between and at the samples [n]; full scale is 1."""
    margin = _PEAK_MARGIN_SAMPLES
    padded = np.pad(to_float(pcm), margin)
    peak = 0.0
    for start in range(0, len(pcm), _PEAK_BLOCK_SAMPLES):
        block = padded[start : start + _PEAK_BLOCK_SAMPLES + 2 * margin]
        fine_samples = len(block) * _OVERSAMPLING
        fine = np.fft.irfft(np.fft.rfft(block), fine_samples) * _OVERSAMPLING
        inner = fine[margin * _OVERSAMPLING : -margin * _OVERSAMPLING]
        peak = max(peak, float(np.abs(inner).max()))
    return peak


def _block_energies(pcm: NDArray[np.int16], sample_rate_hz: int) -> NDArray[np.float64]:
    """Return the mean square of the weighted samples in each block."""
    squares = _weighted(to_float(pcm), sample_rate_hz) ** 2
    block = min(round(_BLOCK_S * sample_rate_hz), len(pcm))
    hop = round(_HOP_S * sample_rate_hz)
    if not block:
        return np.zeros(0)
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    energies: NDArray[np.float64] = (sums[block:] - sums[:-block])[::hop] / block
    return energies


def _weighted(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float64]:
    # By the response of the filters at 48 kHz, so every sample rate gets the very same weighting.
    n_samples = len(samples) + round(_TAIL_S * sample_rate_hz)
    hz = np.fft.rfftfreq(n_samples, 1 / sample_rate_hz)
    delay = np.exp(-2j * np.pi * hz / _TABLES_HZ)
    response = np.ones_like(delay)
    for numerator, denominator in (_SHELF, _HIGH_PASS):
        response *= np.polyval(numerator[::-1], delay) / np.polyval(denominator[::-1], delay)
    weighted = np.fft.irfft(np.fft.rfft(samples, n_samples) * response, n_samples)
    return weighted[: len(samples)]


def _lufs(energy: float) -> float:
    return float(_OFFSET_LU + 10 * np.log10(energy))


def _energy(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET_LU) / 10))
