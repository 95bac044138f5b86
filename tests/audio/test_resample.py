"""Properties of the streaming resampler: length, division, joints, level, full scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.audio.resample import Resampler

RATES_HZ = [
    (24_000, 8_000),
    (24_000, 16_000),
    (24_000, 22_050),
    (24_000, 24_000),
    (24_000, 44_100),
    (8_000, 24_000),
    (44_100, 24_000),
    (48_000, 24_000),
]

Pcm = NDArray[np.int16]


def noise(n_samples: int, *, level: int = 9_000) -> Pcm:
    rng = np.random.default_rng(n_samples)
    return rng.integers(-level, level, n_samples).astype(np.int16)


def tone(n_samples: int, rate_hz: int, *, hz: float = 440.0, level: float = 12_000.0) -> Pcm:
    phase = 2 * np.pi * hz * np.arange(n_samples) / rate_hz
    return np.rint(level * np.sin(phase)).astype(np.int16)


def resampled(pcm: Pcm, source_hz: int, target_hz: int, cuts: list[int]) -> Pcm:
    resampler = Resampler(source_hz, target_hz)
    parts = [resampler.feed(part) for part in np.split(pcm, sorted(cuts))]
    return np.concatenate([*parts, resampler.finish()])


@pytest.mark.parametrize(("source_hz", "target_hz"), RATES_HZ)
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 6_000), st.lists(st.integers(0, 6_000), max_size=8))
def test_dividing_the_input_changes_no_sample_and_the_length_is_exact(
    source_hz: int, target_hz: int, n_samples: int, cuts: list[int]
) -> None:
    pcm = noise(n_samples)
    whole = resampled(pcm, source_hz, target_hz, [])
    np.testing.assert_array_equal(resampled(pcm, source_hz, target_hz, cuts), whole)
    assert abs(len(whole) - n_samples * target_hz / source_hz) <= 0.5


@pytest.mark.parametrize(("source_hz", "target_hz"), RATES_HZ)
def test_a_tone_keeps_its_phase_and_level_across_joints(source_hz: int, target_hz: int) -> None:
    pcm = tone(source_hz, source_hz)
    sound = resampled(pcm, source_hz, target_hz, list(range(1_920, source_hz, 1_920)))
    expected = 12_000 * np.sin(2 * np.pi * 440 * np.arange(target_hz) / target_hz)
    inner = slice(target_hz // 20, -target_hz // 20)  # the tone's own ends are steps, which ring
    error = sound[inner] - expected[inner]
    assert np.abs(error).max() <= 2
    # Rounding in and out leaves sqrt(1/12 + 1/12) = 0.41; truncation would leave 0.65.
    assert np.sqrt(np.mean(error**2)) < 0.5


@pytest.mark.parametrize(("source_hz", "target_hz"), RATES_HZ)
def test_a_tone_has_no_click_at_any_joint(source_hz: int, target_hz: int) -> None:
    sound = resampled(tone(source_hz, source_hz), source_hz, target_hz, list(range(0, 9_000, 97)))
    inner = sound[target_hz // 20 : -target_hz // 20].astype(np.int32)
    steepest_bend = 12_000 * (2 * np.pi * 440 / target_hz) ** 2
    assert (
        np.abs(np.diff(inner, n=2)).max() <= steepest_bend + 4
    )  # 4: three samples, rounded in and out


@pytest.mark.parametrize(("source_hz", "target_hz"), RATES_HZ)
def test_full_scale_saturates_and_never_wraps(source_hz: int, target_hz: int) -> None:
    # A full-scale square wave rings above full scale behind any band limit.
    high = np.arange(source_hz // 2) // (source_hz // 400) % 2 == 0
    square = np.where(high, 32_767, -32_768).astype(np.int16)
    sound = resampled(square, source_hz, target_hz, [1_000, 1_001]).astype(np.int32)
    assert (sound.max(), sound.min()) == (32_767, -32_768)
    time_s = (np.arange(len(sound)) + 0.5) / target_hz
    half_wave_s = source_hz // 400 / source_hz
    middle = np.abs(time_s % half_wave_s - half_wave_s / 2) < half_wave_s / 4
    expected_sign = np.where(time_s // half_wave_s % 2 == 0, 1, -1)
    assert np.all(sound[middle] * expected_sign[middle] > 30_000)


def test_equal_rates_hold_nothing_back() -> None:
    resampler = Resampler(24_000, 24_000)
    pcm = noise(7)
    np.testing.assert_array_equal(resampler.feed(pcm), pcm)
    assert len(resampler.finish()) == 0


@pytest.mark.parametrize("target_hz", [8_000, 16_000, 22_050, 44_100])
def test_the_first_frame_returns_samples(target_hz: int) -> None:
    held_back_s = (1_920 / 24_000) - len(
        Resampler(24_000, target_hz).feed(noise(1_920))
    ) / target_hz
    assert 0 <= held_back_s < 0.02
