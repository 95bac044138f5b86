"""Every compressed format, decoded by FFmpeg, against the samples that were encoded."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import FORMATS, AudioFormat

FRAME_SAMPLES = 1_920
OPUS_FORMATS = [name for name in FORMATS if name.startswith("opus")]
M4A = "m4a_aac_44100_128"

# Minimum signal-to-error ratio of voice-like audio in any 80 ms, at the lowest bit rate.
MIN_SNR_DB = {"opus": 16, "mp3": 16, "m4a": 30, "aac": 30, "flac": 300}
MP3_DELAY_SAMPLES = 576 + 529  # LAME's, and any layer III decoder's (LAME's technical FAQ)
AAC_FRAME_SAMPLES = 1_024

Sound = NDArray[np.float64]


def format_named(name: str) -> AudioFormat:
    return AudioFormat.parse(name) if name in FORMATS else AudioFormat.parse_openai(name)


def voice_like(n_samples: int) -> NDArray[np.int16]:
    """Return a gliding vowel whose loudness goes up and down three times a second."""
    time_s = np.arange(n_samples) / 24_000
    phase = 2 * np.pi * (110 + 30 * time_s) * time_s
    vowel = sum(np.sin(k * phase) / k for k in range(1, 20))
    loudness = 3_500 * (1.1 + np.sin(2 * np.pi * 3 * time_s))
    return np.rint(loudness * vowel).astype(np.int16)


def chunks_of(name: str, pcm: NDArray[np.int16]) -> list[bytes]:
    encoder = make_encoder(format_named(name))
    starts = range(0, len(pcm), FRAME_SAMPLES)
    chunks = [encoder.encode(pcm[start : start + FRAME_SAMPLES]) for start in starts]
    return [*chunks, encoder.finish()]


def decoded(data: bytes) -> tuple[Sound, int]:
    """Return the samples that FFmpeg decodes from `data`, in 16-bit units, and the rate in Hz."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(audio=0))
    scale = 1 if frames[0].format.name.startswith("s16") else 32_768
    blocks = [frame.to_ndarray().astype(np.float64)[0] * scale for frame in frames]
    return np.concatenate(blocks), frames[0].sample_rate


def at_rate(pcm: NDArray[np.int16], rate_hz: int) -> Sound:
    sound: Sound = soxr.resample(pcm.astype(np.float64), 24_000, rate_hz)
    return sound


def delay_of(name: str) -> int:
    codec = format_named(name).codec
    return {"mp3": MP3_DELAY_SAMPLES, "aac": AAC_FRAME_SAMPLES}.get(codec, 0)


CODED = [*(name for name in FORMATS if name.startswith(("mp3", "opus", "m4a"))), "aac", "flac"]


@pytest.mark.parametrize("name", CODED)
def test_decoded_audio_equals_the_input_without_delay(name: str) -> None:
    pcm = voice_like(25 * FRAME_SAMPLES)
    sound, rate_hz = decoded(b"".join(chunks_of(name, pcm)))
    expected = at_rate(pcm, rate_hz)
    error = sound[delay_of(name) :][: len(expected)] - expected
    # In every 80 ms, so that no joint may click; where it is quiet as where it is loud.
    for block in range(24):
        part = slice(block * len(expected) // 25, (block + 1) * len(expected) // 25)
        power = np.mean(expected[part] ** 2)
        snr_db = 10 * np.log10(power / (np.mean(error[part] ** 2) + 1e-30))
        assert snr_db > MIN_SNR_DB[format_named(name).codec], (block, snr_db)


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("name", [*OPUS_FORMATS, "flac"])
def test_opus_and_flac_are_as_long_as_the_audio(name: str, frames: int) -> None:
    sound, rate_hz = decoded(b"".join(chunks_of(name, voice_like(frames * FRAME_SAMPLES))))
    assert len(sound) == frames * FRAME_SAMPLES * rate_hz // 24_000


@pytest.mark.parametrize("frames", [1, 2, 13])
@pytest.mark.parametrize("name", [M4A, "aac"])
def test_aac_is_as_long_as_the_audio_to_whole_codec_frames(name: str, frames: int) -> None:
    sound, rate_hz = decoded(b"".join(chunks_of(name, voice_like(frames * FRAME_SAMPLES))))
    beyond = len(sound) - delay_of(name) - frames * FRAME_SAMPLES * rate_hz // 24_000
    assert 0 <= beyond < AAC_FRAME_SAMPLES


def test_flac_loses_nothing() -> None:
    pcm = voice_like(13 * FRAME_SAMPLES)
    sound, rate_hz = decoded(b"".join(chunks_of("flac", pcm)))
    assert rate_hz == 24_000
    np.testing.assert_array_equal(sound, pcm)


@dataclass(frozen=True, slots=True)
class OggPage:
    flags: int
    granule: int
    serial: int
    sequence: int
    packets: list[bytes]


def ogg_pages(data: bytes) -> Iterator[OggPage]:
    """Walk an Ogg stream (RFC 3533 §6) in which every packet ends on its page."""
    position = 0
    while position < len(data):
        magic, version, flags, granule, serial, sequence, _, n_segments = struct.unpack_from(
            "<4sBBqIIIB", data, position
        )
        assert (magic, version) == (b"OggS", 0)
        lacing = data[position + 27 : position + 27 + n_segments]
        position += 27 + n_segments
        packets, length = [], 0
        for segment in lacing:
            length += segment
            if segment < 255:
                packets.append(data[position : position + length])
                position, length = position + length, 0
        assert not length
        yield OggPage(flags, granule, serial, sequence, packets)


@pytest.mark.parametrize("name", OPUS_FORMATS)
@pytest.mark.parametrize("n_samples", [1, 1_920, 24_961])
def test_ogg_opus_follows_rfc_7845(name: str, n_samples: int) -> None:
    head, tags, *pages = ogg_pages(b"".join(chunks_of(name, voice_like(n_samples))))
    assert [page.sequence for page in (head, tags, *pages)] == list(range(2 + len(pages)))
    assert len({page.serial for page in (head, tags, *pages)}) == 1
    magic, version, channels, pre_skip, input_hz, gain, mapping = struct.unpack(
        "<8sBBHIhB", head.packets[0]
    )
    assert (magic, version, channels, gain, mapping) == (b"OpusHead", 1, 1, 0, 0)
    assert input_hz == 24_000
    assert 120 <= pre_skip <= 960  # libopus' lookahead, a few milliseconds
    assert tags.packets[0].startswith(b"OpusTags")
    assert [page.flags for page in (head, tags, *pages[:-1])] == [2, 0] + [0] * (len(pages) - 1)
    assert pages[-1].flags == 4  # end of stream
    granules = [page.granule for page in pages]
    assert granules[:-1] == [960 * (index + 1) for index in range(len(pages) - 1)]
    assert granules[-1] == pre_skip + 2 * n_samples  # trims the last packet's padding (§4.4)


@pytest.mark.parametrize("name", OPUS_FORMATS)
def test_every_80_ms_of_audio_returns_80_ms_of_opus(name: str) -> None:
    first, *later, _, _ = chunks_of(name, voice_like(10 * FRAME_SAMPLES))
    # The muxer holds its newest page back, which could be the last.
    assert len(list(ogg_pages(first))) == 2 + 3
    assert {len(list(ogg_pages(chunk))) for chunk in later} == {4}


def test_a_truncated_opus_stream_plays_to_its_end() -> None:
    chunks = chunks_of("opus_48000_64", voice_like(10 * FRAME_SAMPLES))
    sound, _ = decoded(b"".join(chunks[:5]))
    assert len(sound) >= 5 * 3_840 - 960 - 960


def boxes(data: bytes) -> list[tuple[bytes, int]]:
    """Return the type and size of every outermost box of an MP4 file."""
    found, position = [], 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        found.append((kind, size))
        position += size
    assert position == len(data)
    return found


def test_m4a_is_a_header_followed_by_fragments() -> None:
    first, *later = chunks_of(M4A, voice_like(10 * FRAME_SAMPLES))
    assert not first
    assert [kind for kind, _ in boxes(later[0])] == [b"ftyp", b"moov", b"moof", b"mdat"]
    for chunk in later[1:-1]:
        kinds = [kind for kind, _ in boxes(chunk)]
        assert kinds
        assert kinds == [b"moof", b"mdat"] * (len(kinds) // 2)
    # A fragment that came plays without those that have not.
    sound, _ = decoded(b"".join(later[:4]))
    assert len(sound) >= 3 * FRAME_SAMPLES * 44_100 // 24_000


def test_encoders_start_no_threads_of_their_own() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("only Linux lists a process's threads there")
    before = {task.name for task in tasks.iterdir()}  # others' threads may end meanwhile
    encoders = [make_encoder(format_named(name)) for name in [*OPUS_FORMATS, M4A, "aac", "flac"]]
    for encoder in encoders:
        encoder.encode(voice_like(2 * FRAME_SAMPLES))
    assert {task.name for task in tasks.iterdir()} <= before
