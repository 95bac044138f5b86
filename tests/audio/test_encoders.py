"""Properties of every format's byte stream: division, header, tail, joints, frames."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.audio.g711 import encode_alaw, encode_ulaw
from csm_trio.audio.resample import Resampler
from csm_trio.audio.wav import read_wav, wav_header, with_true_lengths

FRAME_SAMPLES = 1_920
NAMES = [*FORMATS, "aac", "flac"]  # two of OpenAI's codecs have no name at ElevenLabs
MP3_FORMATS = [name for name in FORMATS if name.startswith("mp3")]
PCM16_FORMATS = [name for name in FORMATS if name.startswith(("pcm", "wav"))]
SAMPLE_FORMATS = [*PCM16_FORMATS, "ulaw_8000", "alaw_8000"]
# Their codec frames overlap: what leaves with a frame of ours is what the one before began.
ONE_FRAME_LATE = ["m4a_aac_44100_128", "aac"]

# ISO/IEC 11172-3 2.4.2.3 and 13818-3: layer III bit rates in kbit/s and sample rates in Hz.
V1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
V2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
V1_HZ, V2_HZ = (44_100, 48_000, 32_000), (22_050, 24_000, 16_000)
LAME_DELAY_SAMPLES = 576

Pcm = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class MpegFrame:
    samples: int
    sample_rate_hz: int
    bitrate_kbps: int
    mono: bool


def mpeg_frames(data: bytes) -> list[MpegFrame]:
    """Walk a bare layer III stream by its headers; any gap between frames fails."""
    frames, position = [], 0
    while position < len(data):
        header = int.from_bytes(data[position : position + 4])
        assert header >> 21 == 0x7FF, f"no sync at byte {position} of {len(data)}"
        version_bits, layer_bits = header >> 19 & 3, header >> 17 & 3
        assert layer_bits == 1  # layer III
        assert version_bits in (2, 3)  # MPEG-2, MPEG-1
        v1 = version_bits == 3
        samples = 1_152 if v1 else 576
        kbps = (V1_KBPS if v1 else V2_KBPS)[header >> 12 & 15]
        rate_hz = (V1_HZ if v1 else V2_HZ)[header >> 10 & 3]
        frames.append(MpegFrame(samples, rate_hz, kbps, header >> 6 & 3 == 3))
        position += samples // 8 * kbps * 1000 // rate_hz + (header >> 9 & 1)
    assert position == len(data), "the last frame is cut short"
    return frames


def speech_like(n_samples: int) -> Pcm:
    """Return a gliding tone with noise: nothing in it repeats."""
    time_s = np.arange(n_samples) / 24_000
    sound = 9_000 * np.sin(2 * np.pi * (200 + 300 * time_s) * time_s)
    return np.rint(sound + np.random.default_rng(5).normal(0, 300, n_samples)).astype(np.int16)


def format_named(name: str) -> AudioFormat:
    return AudioFormat.parse(name) if name in FORMATS else AudioFormat.parse_openai(name)


def encoded(name: str, parts: Iterable[Pcm]) -> bytes:
    encoder = make_encoder(format_named(name))
    chunks = [encoder.encode(part) for part in parts]
    return b"".join([*chunks, encoder.finish()])


def by_frame(pcm: Pcm) -> list[Pcm]:
    return [pcm[start : start + FRAME_SAMPLES] for start in range(0, len(pcm), FRAME_SAMPLES)]


def decoded(name: str, data: bytes) -> Pcm:
    """Return the samples of a pcm or wav stream."""
    return read_wav(data)[0] if name.startswith("wav") else np.frombuffer(data, dtype="<i2")


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9_000), st.lists(st.integers(0, 9_000), max_size=6))
def test_dividing_the_input_changes_no_byte(name: str, n_samples: int, cuts: list[int]) -> None:
    pcm = speech_like(n_samples)
    assert encoded(name, np.split(pcm, sorted(cuts))) == encoded(name, [pcm])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SAMPLE_FORMATS])
def test_dividing_a_long_stream_into_single_samples_changes_no_byte(name: str) -> None:
    pcm = speech_like(20 * FRAME_SAMPLES)
    parts = [*by_frame(pcm[: 19 * FRAME_SAMPLES]), *np.split(pcm[19 * FRAME_SAMPLES :], 1_920)]
    assert encoded(name, parts) == encoded(name, [pcm])


@pytest.mark.parametrize("name", SAMPLE_FORMATS)
@pytest.mark.parametrize("frames", [1, 2, 13, 25])
def test_the_tail_is_flushed_to_the_last_sample(name: str, frames: int) -> None:
    audio_format = AudioFormat.parse(name)
    data = encoded(name, by_frame(speech_like(frames * FRAME_SAMPLES)))
    assert audio_format.duration_s(len(data)) == pytest.approx(frames * 0.08, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_compressing_encoders_run_in_a_thread(name: str) -> None:
    assert make_encoder(format_named(name)).heavy == (name not in SAMPLE_FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_without_sound_is_a_bare_header_or_nothing(name: str) -> None:
    nothing = np.zeros(0, dtype=np.int16)
    rate_hz = format_named(name).sample_rate_hz
    header = wav_header(rate_hz, data_bytes=None) if name.startswith("wav") else b""
    assert encoded(name, []) == header
    assert encoded(name, [nothing, nothing]) == header


@pytest.mark.parametrize("name", [name for name in FORMATS if name.startswith("wav")])
def test_one_header_precedes_the_first_samples(name: str) -> None:
    encoder = make_encoder(AudioFormat.parse(name))
    first, *later = [encoder.encode(part) for part in by_frame(speech_like(4 * FRAME_SAMPLES))]
    header = wav_header(AudioFormat.parse(name).sample_rate_hz, data_bytes=None)
    assert first.startswith(header)
    assert len(first) > len(header)
    assert all(b"RIFF" not in chunk for chunk in [*later, encoder.finish()])


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_wav_is_its_header_and_then_the_pcm_of_that_rate(rate_hz: int) -> None:
    parts = by_frame(speech_like(5_000))
    pcm_stream = encoded(f"pcm_{rate_hz}", parts)
    wav_stream = encoded(f"wav_{rate_hz}", parts)
    assert wav_stream == wav_header(rate_hz, data_bytes=None) + pcm_stream
    body = with_true_lengths(wav_stream)
    assert body == wav_header(rate_hz, data_bytes=len(pcm_stream)) + pcm_stream


def test_g711_codes_the_audio_at_8_khz() -> None:
    pcm = speech_like(5 * FRAME_SAMPLES)
    resampler = Resampler(24_000, 8_000)
    at_8_khz = np.concatenate([resampler.feed(pcm), resampler.finish()])
    assert encoded("ulaw_8000", by_frame(pcm)) == encode_ulaw(at_8_khz)
    assert encoded("alaw_8000", by_frame(pcm)) == encode_alaw(at_8_khz)


@pytest.mark.parametrize("name", PCM16_FORMATS)
def test_no_chunk_ends_in_half_a_sample(name: str) -> None:
    encoder = make_encoder(AudioFormat.parse(name))
    sizes = itertools.cycle([1, 2, 3, 641, 1_920])
    parts = np.split(speech_like(9_000), np.cumsum([next(sizes) for _ in range(15)]))
    chunks = [*(encoder.encode(part) for part in parts), encoder.finish()]
    assert all(len(chunk) % 2 == 0 for chunk in chunks)


@pytest.mark.parametrize("name", PCM16_FORMATS)
def test_a_tone_has_no_click_at_any_chunk_joint(name: str) -> None:
    rate_hz = AudioFormat.parse(name).sample_rate_hz
    phase = 2 * np.pi * 440 * np.arange(13 * FRAME_SAMPLES) / 24_000
    tone = np.rint(12_000 * np.sin(phase)).astype(np.int16)
    sound = decoded(name, encoded(name, by_frame(tone)))
    inner = sound[rate_hz // 20 : -rate_hz // 20].astype(np.int32)
    steepest_bend = 12_000 * (2 * np.pi * 440 / rate_hz) ** 2
    assert (
        np.abs(np.diff(inner, n=2)).max() <= steepest_bend + 4
    )  # 4: three samples, rounded in and out


@pytest.mark.parametrize("name", PCM16_FORMATS)
@pytest.mark.parametrize("extreme", [-32_768, 32_767])
def test_int16_extremes_saturate(name: str, extreme: int) -> None:
    pcm = np.full(5 * FRAME_SAMPLES, extreme, dtype=np.int16)
    inner = decoded(name, encoded(name, by_frame(pcm)))[1_000:-1_000].astype(np.int32)
    assert np.abs(inner - extreme).max() <= 1


@pytest.mark.parametrize("name", MP3_FORMATS)
@pytest.mark.parametrize("frames", [1, 2, 25])
def test_mp3_is_contiguous_frames_of_its_rate_that_hold_all_sound(name: str, frames: int) -> None:
    audio_format = AudioFormat.parse(name)
    data = encoded(name, by_frame(speech_like(frames * FRAME_SAMPLES)))
    mpeg = mpeg_frames(data)
    assert {frame.sample_rate_hz for frame in mpeg} == {audio_format.sample_rate_hz}
    assert {frame.bitrate_kbps for frame in mpeg} == {audio_format.bitrate_kbps}
    assert all(frame.mono for frame in mpeg)
    held = sum(frame.samples for frame in mpeg)
    sound = frames * FRAME_SAMPLES * audio_format.sample_rate_hz / 24_000
    assert LAME_DELAY_SAMPLES <= held - sound <= LAME_DELAY_SAMPLES + 2 * 1_152
    # Frames are whole bytes: each is up to one byte from its share of the bit rate.
    assert audio_format.duration_s(len(data)) == pytest.approx(
        held / audio_format.sample_rate_hz, rel=0.01
    )


@pytest.mark.parametrize("name", MP3_FORMATS)
def test_mp3_begins_with_sound_and_no_tag(name: str) -> None:
    data = encoded(name, by_frame(speech_like(3 * FRAME_SAMPLES)))
    assert all(tag not in data for tag in (b"ID3", b"Xing", b"Info", b"VBRI"))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_or_second_frame_returns_bytes(name: str) -> None:
    encoder = make_encoder(format_named(name))
    first, second = (encoder.encode(part) for part in by_frame(speech_like(2 * FRAME_SAMPLES)))
    assert second
    assert bool(first) == (name not in ONE_FRAME_LATE)


@pytest.mark.parametrize("name", NAMES)
def test_streams_do_not_disturb_each_other(name: str) -> None:
    loud, quiet = speech_like(4 * FRAME_SAMPLES), speech_like(4 * FRAME_SAMPLES) // 8
    one, other = make_encoder(format_named(name)), make_encoder(format_named(name))
    pairs = [
        (one.encode(left), other.encode(right))
        for left, right in zip(by_frame(loud), by_frame(quiet), strict=True)
    ]
    pairs.append((one.finish(), other.finish()))
    assert b"".join(left for left, _ in pairs) == encoded(name, [loud])
    assert b"".join(right for _, right in pairs) == encoded(name, [quiet])


@pytest.mark.parametrize("name", MP3_FORMATS)
def test_lame_prints_nothing(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    encoded(name, by_frame(speech_like(2 * FRAME_SAMPLES)))
    assert capfd.readouterr() == ("", "")
