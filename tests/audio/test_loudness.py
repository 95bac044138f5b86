"""Loudness after EBU R128: the calibration signals of EBU Tech 3341, gating, targets and peaks."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from csm_trio.audio.loudness import loudness_lufs, normalize_loudness, true_peak


def sine(peak_dbfs: float, seconds: float, rate_hz: int, hz: float = 997.0) -> NDArray[np.int16]:
    at = np.arange(round(seconds * rate_hz))
    wave = 32_767 * 10 ** (peak_dbfs / 20) * np.sin(2 * math.pi * hz / rate_hz * at)
    pcm: NDArray[np.int16] = np.rint(wave).astype(np.int16)
    return pcm


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("peak_dbfs", [0.0, -23.0, -33.0])
def test_a_sine_of_997_hz_has_3_lu_less_than_its_peak(peak_dbfs: float, rate_hz: int) -> None:
    # BS.1770-5: 0 dBFS in one channel is -3.01 LKFS.
    measured = loudness_lufs(sine(peak_dbfs, 3.0, rate_hz), rate_hz)
    assert measured == pytest.approx(peak_dbfs - 3.01, abs=0.1)


def test_quiet_passages_are_gated() -> None:
    # EBU Tech 3341, case 3: 10 s at -36, 60 s at -23, 10 s at -36 are -23 LUFS.
    levels = [(-36.0, 10), (-23.0, 60), (-36.0, 10)]
    pcm = np.concatenate([sine(level + 3.01, s, 24_000) for level, s in levels])
    assert loudness_lufs(pcm, 24_000) == pytest.approx(-23.0, abs=0.1)


def test_silence_and_nothing_have_no_loudness() -> None:
    assert loudness_lufs(np.zeros(48_000, dtype=np.int16), 24_000) is None
    assert loudness_lufs(np.zeros(0, dtype=np.int16), 24_000) is None
    silence = np.zeros(100, dtype=np.int16)
    unchanged, reached = normalize_loudness(silence, 24_000, -16.0)
    assert unchanged is silence
    assert reached is None


@pytest.mark.parametrize("seconds", [0.08, 0.4, 5.0])
def test_a_file_gets_the_target(seconds: float) -> None:
    pcm, reached = normalize_loudness(sine(-30.0, seconds, 24_000), 24_000, -16.0)
    assert reached == pytest.approx(-16.0)
    assert loudness_lufs(pcm, 24_000) == pytest.approx(-16.0, abs=0.05)


def test_no_true_peak_passes_the_limit() -> None:
    pcm = np.zeros(48_000, dtype=np.int16)
    pcm[::4_800] = 20_000
    louder, reached = normalize_loudness(pcm, 24_000, -5.0)
    assert true_peak(louder) <= 10 ** (-1 / 20) + 1e-3
    assert reached is not None
    assert reached < -5.0


def test_a_peak_between_samples_counts() -> None:
    # A quarter of the sample rate at 45 degrees: the samples are 3 dB below the peak.
    at = np.arange(40_000)
    pcm = np.rint(20_000 * np.sin(math.pi / 2 * at + math.pi / 4)).astype(np.int16)
    assert true_peak(pcm) == pytest.approx(20_000 / 32_768, rel=0.02)
