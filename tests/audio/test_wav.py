"""RIFF headers against the standard library's reader, and `read_wav` on many files."""

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.audio.wav import HEADER_BYTES, UnreadableWav, read_wav, wav_header, with_true_lengths

SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def chunk(kind: bytes, body: bytes, *, length_bytes: int | None = None) -> bytes:
    length_bytes = len(body) if length_bytes is None else length_bytes
    return kind + struct.pack("<I", length_bytes) + body + b"\0" * (len(body) % 2)


def fmt(*, tag: int = 1, channels: int = 1, rate_hz: int = 24_000, bits: int = 16) -> bytes:
    block_bytes = channels * bits // 8
    return chunk(
        b"fmt ",
        struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * block_bytes, block_bytes, bits),
    )


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pcm_of(*samples: int) -> NDArray[np.int16]:
    return np.array(samples, dtype=np.int16)


@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000, 22_050, 24_000, 44_100])
@pytest.mark.parametrize("data_bytes", [None, 0, 2, 3_840])
def test_header_fields_are_those_of_mono_16_bit_pcm(
    sample_rate_hz: int, data_bytes: int | None
) -> None:
    header = wav_header(sample_rate_hz, data_bytes=data_bytes)
    assert len(header) == HEADER_BYTES == 44
    assert (header[:4], header[8:16], header[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
    riff_bytes, fmt_bytes = struct.unpack_from("<I8xI", header, 4)
    assert fmt_bytes == 16
    fields = struct.unpack_from("<HHIIHH", header, 20)
    assert fields == (1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
    (length_bytes,) = struct.unpack_from("<I", header, 40)
    if data_bytes is None:
        assert riff_bytes == length_bytes == 0xFFFF_FFFF
    else:
        assert (riff_bytes, length_bytes) == (36 + data_bytes, data_bytes)


@pytest.mark.parametrize("data_bytes", [-1, 0xFFFF_FFFF, 0xFFFF_FFFF - 36])
def test_a_length_beyond_riff_is_rejected(data_bytes: int) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        wav_header(24_000, data_bytes=data_bytes)


@given(st.lists(st.integers(-32_768, 32_767), max_size=200))
def test_a_streamed_body_with_true_lengths_reads_in_the_standard_library(
    samples: list[int],
) -> None:
    pcm = pcm_of(*samples)
    body = with_true_lengths(wav_header(22_050, data_bytes=None) + pcm.tobytes())
    with wave.open(io.BytesIO(body)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22_050)
        assert file.getnframes() == len(samples)
        assert file.readframes(len(samples)) == pcm.tobytes()


@pytest.mark.parametrize("body", [b"", b"RIFF", b"\0" * 60])
def test_true_lengths_need_a_header(body: bytes) -> None:
    with pytest.raises(ValueError, match="44-byte"):
        with_true_lengths(body)


@given(st.lists(st.integers(-32_768, 32_767), max_size=200), st.booleans())
def test_reading_returns_the_written_samples(samples: list[int], streamed: bool) -> None:
    pcm = pcm_of(*samples)
    header = wav_header(44_100, data_bytes=None if streamed else pcm.nbytes)
    read, sample_rate_hz = read_wav(header + pcm.tobytes())
    assert sample_rate_hz == 44_100
    assert read.dtype == np.int16
    np.testing.assert_array_equal(read, pcm)


def test_read_samples_are_a_writable_copy() -> None:
    read, _ = read_wav(wav_header(24_000, data_bytes=4) + pcm_of(1, 2).tobytes())
    read[0] = 7  # raises where the array is a view of the file's bytes


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        (
            "unknown chunks, one of odd length",
            riff(
                chunk(b"JUNK", b"abc"),
                fmt(),
                chunk(b"LIST", b"x" * 10),
                chunk(b"data", pcm_of(5, -6).tobytes()),
            ),
            [5, -6],
        ),
        (
            "a chunk behind the samples",
            riff(fmt(), chunk(b"data", pcm_of(5).tobytes()), chunk(b"id3 ", b"tag!")),
            [5],
        ),
        (
            "stereo, mixed by the mean without overflow",
            riff(
                fmt(channels=2),
                chunk(b"data", pcm_of(10, 20, 32_767, 32_767, -32_768, -32_768, 1, -1).tobytes()),
            ),
            [15, 32_767, -32_768, 0],
        ),
        (
            "three channels, the last row cut short",
            riff(fmt(channels=3), chunk(b"data", pcm_of(1, 2, 3, 4).tobytes())),
            [2],
        ),
        ("half a sample at the end", riff(fmt(), chunk(b"data", b"\x01\x00\x02")), [1]),
        (
            "fewer bytes than promised",
            riff(fmt(), chunk(b"data", pcm_of(9).tobytes(), length_bytes=1_000)),
            [9],
        ),
        (
            "extensible PCM",
            riff(
                chunk(
                    b"fmt ",
                    struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 24_000, 48_000, 2, 16, 22, 16, 4, 1)
                    + SUBFORMAT_TAIL,
                ),
                chunk(b"data", pcm_of(3, 4).tobytes()),
            ),
            [3, 4],
        ),
        ("no sound at all", riff(fmt(), chunk(b"data", b"")), []),
    ],
)
def test_files_of_other_programs_are_read(name: str, file: bytes, expected: list[int]) -> None:
    read, sample_rate_hz = read_wav(file)
    assert read.tolist() == expected, name
    assert sample_rate_hz == 24_000


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "not a RIFF"),
        (b"ID3\x04" + b"\0" * 60, "not a RIFF"),
        (b"RIFX" + riff(fmt())[4:], "not a RIFF"),
        (riff(), "no 'data' chunk"),
        (riff(fmt()), "no 'data' chunk"),
        (riff(fmt(), chunk(b"JUNK", b"", length_bytes=0xFFFF_FFFF)), "no 'data' chunk"),
        (riff(chunk(b"data", b"\0\0"), fmt()), "before their format"),
        (riff(chunk(b"fmt ", b"\x01\x00")), "cut short"),
        (riff(fmt(bits=8), chunk(b"data", b"\0\0")), "16-bit PCM"),
        (riff(fmt(bits=24), chunk(b"data", b"\0\0\0")), "16-bit PCM"),
        (riff(fmt(tag=3, bits=32), chunk(b"data", b"\0" * 4)), "0x0003 with 32 bits"),
        (riff(fmt(tag=0xFFFE), chunk(b"data", b"\0\0")), "0xfffe"),
        (riff(fmt(channels=0), chunk(b"data", b"\0\0")), "contradicts itself"),
        (riff(fmt(rate_hz=0), chunk(b"data", b"\0\0")), "contradicts itself"),
    ],
)
def test_an_unreadable_file_is_rejected_with_its_reason(file: bytes, reason: str) -> None:
    with pytest.raises(UnreadableWav, match=reason):
        read_wav(file)


@given(st.binary(max_size=120))
def test_garbage_behind_a_riff_mark_never_breaks_the_reader(garbage: bytes) -> None:
    try:
        read, sample_rate_hz = read_wav(b"RIFF\0\0\0\0WAVE" + garbage)
    except UnreadableWav:
        return
    assert read.dtype == np.int16
    assert sample_rate_hz > 0
