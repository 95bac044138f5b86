"""Properties of the streaming tempo change: length, division, pitch, joints, delay."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.tempo import Tempo

RATE_HZ = 24_000
FRAME_SAMPLES = 1_920
SPEEDS = [0.25, 0.5, 0.7, 0.95, 1.05, 1.2, 2.0, 4.0]
PITCH_HZ = 125.0

Pcm = NDArray[np.int16]


def vowel(n_samples: int) -> Pcm:
    """Return a steady vowel: twenty harmonics of 125 Hz."""
    time_s = np.arange(n_samples) / RATE_HZ
    sound = sum(np.sin(2 * np.pi * PITCH_HZ * k * time_s) / k for k in range(1, 21))
    return np.rint(6_000 * sound).astype(np.int16)


def noise(n_samples: int) -> Pcm:
    rng = np.random.default_rng(n_samples)
    return rng.integers(-9_000, 9_000, n_samples).astype(np.int16)


def changed(pcm: Pcm, speed: float, cuts: list[int]) -> Pcm:
    tempo = Tempo(RATE_HZ, speed)
    parts = [tempo.feed(part) for part in np.split(pcm, sorted(cuts))]
    return np.concatenate([*parts, tempo.finish()])


def pitch_hz(sound: Pcm) -> float:
    """Return the pitch by autocorrelation, between 80 and 240 Hz."""
    spectrum = np.fft.rfft(sound.astype(np.float64), 2 * len(sound))
    likeness = np.fft.irfft(np.abs(spectrum) ** 2)[:300]
    return float(RATE_HZ / (100 + np.argmax(likeness[100:])))


@pytest.mark.parametrize("speed", SPEEDS)
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9_000), st.lists(st.integers(0, 9_000), max_size=8))
def test_dividing_the_input_changes_no_sample_and_the_length_is_exact(
    speed: float, n_samples: int, cuts: list[int]
) -> None:
    pcm = noise(n_samples)
    whole = changed(pcm, speed, [])
    np.testing.assert_array_equal(changed(pcm, speed, cuts), whole)
    assert abs(len(whole) - n_samples / speed) <= 0.5


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_voice_keeps_its_pitch_and_level_and_does_not_click(speed: float) -> None:
    pcm = vowel(50 * FRAME_SAMPLES)
    sound = changed(pcm, speed, list(range(FRAME_SAMPLES, len(pcm), FRAME_SAMPLES)))
    inner = sound[2_400:-4_800]  # the vowel's own ends are steps
    assert pitch_hz(inner) == pytest.approx(PITCH_HZ, rel=0.01)
    assert np.std(inner) == pytest.approx(np.std(pcm), rel=0.05)
    bend = np.abs(np.diff(inner.astype(np.int32), n=2)).max()
    steepest_bend = np.abs(np.diff(pcm.astype(np.int32), n=2)).max()
    assert bend <= 1.1 * steepest_bend


@pytest.mark.parametrize("speed", SPEEDS)
def test_audio_keeps_its_order(speed: float) -> None:
    """Five consecutive tones of different pitches keep their order."""
    hz = [400, 600, 800, 1_000, 1_200]
    time_s = np.arange(10 * FRAME_SAMPLES) / RATE_HZ
    tones = [9_000 * np.sin(2 * np.pi * one * time_s) for one in hz]
    sound = changed(np.rint(np.concatenate(tones)).astype(np.int16), speed, [])
    for index, one in enumerate(hz):
        middle = int((index + 0.5) * 0.8 / speed * RATE_HZ)
        part = sound[middle - 1_200 : middle + 1_200]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        assert np.argmax(spectrum) * RATE_HZ / len(part) == pytest.approx(one, abs=15)


def test_normal_speed_is_untouched_and_holds_nothing_back() -> None:
    tempo = Tempo(RATE_HZ, 1.0)
    pcm = noise(7)
    assert tempo.feed(pcm) is pcm
    assert len(tempo.finish()) == 0


@pytest.mark.parametrize(
    ("speed", "held_back_s"), [(0.25, 0.06), (0.7, 0.06), (0.9, 0.06), (1.2, 0.06), (4.0, 0.2)]
)
def test_the_delay_is_bounded(speed: float, held_back_s: float) -> None:
    tempo = Tempo(RATE_HZ, speed)
    given_s = taken_s = 0.0
    for frame in itertools.repeat(vowel(FRAME_SAMPLES), 12):
        taken_s += 0.08
        given_s += len(tempo.feed(frame)) * speed / RATE_HZ
        if 0.6 < speed < 1.3:
            assert given_s > 0  # the first frame already sounds
        assert taken_s - given_s <= held_back_s + 1e-3


def test_full_scale_saturates_and_never_wraps() -> None:
    for extreme in (-32_768, 32_767):
        sound = changed(np.full(20_000, extreme, dtype=np.int16), 0.9, [])
        inner = sound[2_000:-4_000].astype(np.int32)
        assert np.abs(inner - extreme).max() < 100  # two windows blended are not quite one


def test_an_encoder_changes_the_tempo() -> None:
    pcm = noise(5_000)
    audio_format = AudioFormat.parse("pcm_24000")
    encoder = make_encoder(audio_format, speed=1.2)
    data = encoder.encode(pcm[:1_000]) + encoder.encode(pcm[1_000:]) + encoder.finish()
    assert data == changed(pcm, 1.2, []).astype("<i2").tobytes()
    assert encoder.heavy
    plain = make_encoder(audio_format, speed=1.0)
    assert plain.encode(pcm) + plain.finish() == pcm.astype("<i2").tobytes()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists threads on Linux only")
def test_tempo_starts_no_thread() -> None:
    before = len(os.listdir("/proc/self/task"))
    tempo = Tempo(RATE_HZ, 0.9)
    tempo.feed(noise(FRAME_SAMPLES))
    assert len(os.listdir("/proc/self/task")) == before
