"""The RIFF/WAVE container: write headers, read files.

The module must not know voices, formats' names or resampling. Layout after Microsoft and IBM,
"Multimedia Programming Interface and Data Specifications 1.0" (1991), and RFC 2361.
"""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER_BYTES = 44

_SAMPLE_BYTES = 2
_UNKNOWN_LENGTH = 0xFFFF_FFFF
_TAG_PCM = 0x0001
_TAG_EXTENSIBLE = 0xFFFE
_CHUNK_HEADER_BYTES = 8
# The rest of a WAVE_FORMAT_EXTENSIBLE sub-format GUID, after its two bytes of format tag.
_SUBFORMAT_TAIL = bytes.fromhex("0000 0000 1000 8000 00aa00389b71")


class UnreadableWav(ValueError):
    """The bytes are no 16-bit PCM WAV file; the message is the reason in one sentence."""


def wav_header(sample_rate_hz: int, *, data_bytes: int | None) -> bytes:
    """Return the 44 bytes that precede mono, 16-bit, little-endian samples.

    With `data_bytes` None the audio is a stream: both lengths are 0xFFFFFFFF. Raises `ValueError`
    where the length does not fit a RIFF length.
    """
    riff_bytes = _UNKNOWN_LENGTH
    if data_bytes is None:
        data_bytes = _UNKNOWN_LENGTH
    else:
        riff_bytes = HEADER_BYTES - _CHUNK_HEADER_BYTES + data_bytes
        if not 0 <= data_bytes <= riff_bytes < _UNKNOWN_LENGTH:
            raise ValueError(f"A WAV file cannot hold {data_bytes} bytes of audio.")
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        riff_bytes,
        b"WAVE",
        b"fmt ",
        16,
        _TAG_PCM,
        1,
        sample_rate_hz,
        sample_rate_hz * _SAMPLE_BYTES,
        _SAMPLE_BYTES,
        8 * _SAMPLE_BYTES,
        b"data",
        data_bytes,
    )


def with_true_lengths(body: bytes) -> bytes:
    """Return a whole streamed WAV body with its true lengths in the header.

    `body` begins with `wav_header`'s 44 bytes. Raises `ValueError` where it does not.
    """
    if len(body) < HEADER_BYTES or body[:4] != b"RIFF" or body[36:40] != b"data":
        raise ValueError("The body does not begin with a 44-byte WAV header.")
    (sample_rate_hz,) = struct.unpack_from("<I", body, 24)
    data_bytes = len(body) - HEADER_BYTES
    return wav_header(sample_rate_hz, data_bytes=data_bytes) + body[HEADER_BYTES:]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Channels and sample rate of a data chunk, from the `fmt ` chunk."""

    channels: int
    sample_rate_hz: int

    @classmethod
    def parse(cls, chunk: memoryview) -> Self:
        if len(chunk) < 16:
            raise UnreadableWav("The WAV file's 'fmt ' chunk is cut short.")
        tag, channels, sample_rate_hz, _, block_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
        if tag == _TAG_EXTENSIBLE and len(chunk) >= 40 and chunk[26:40] == _SUBFORMAT_TAIL:
            (tag,) = struct.unpack_from("<H", chunk, 24)
        if tag != _TAG_PCM or bits != 8 * _SAMPLE_BYTES:
            raise UnreadableWav(
                f"The WAV file must hold 16-bit PCM samples, but its format tag is {tag:#06x} "
                f"with {bits} bits."
            )
        if not channels or not sample_rate_hz or block_bytes != channels * _SAMPLE_BYTES:
            raise UnreadableWav("The WAV file's 'fmt ' chunk contradicts itself.")
        return cls(channels, sample_rate_hz)

    def read(self, chunk: memoryview) -> "NDArray[np.int16]":
        """Return the mean over channels, samples [n]; an incomplete last row is ignored."""
        # Imported here: `csm-trio say` only writes headers, and numpy is slow to import.
        import numpy as np

        from csm_trio.audio.pcm import to_int16

        rows = len(chunk) // (_SAMPLE_BYTES * self.channels)
        samples = np.frombuffer(chunk, dtype="<i2", count=rows * self.channels)
        if self.channels == 1:
            return samples.astype(np.int16)
        mean: NDArray[np.float64] = samples.reshape(rows, self.channels).mean(axis=1)  # [rows]
        return to_int16(mean)


def read_wav(data: bytes) -> "tuple[NDArray[np.int16], int]":
    """Return a WAV file's samples as mono, and its sample rate in Hz.

    Chunks other than `fmt ` and `data` are skipped. A data length that reaches beyond the bytes
    at hand, as a stream's 0xFFFFFFFF does, means "to the end". Raises `UnreadableWav` for
    anything but 16-bit PCM.
    """
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise UnreadableWav("The file is not a RIFF/WAVE file.")
    view = memoryview(data)
    layout: _Layout | None = None
    position = 12
    while position + _CHUNK_HEADER_BYTES <= len(data):
        kind, length_bytes = struct.unpack_from("<4sI", data, position)
        position += _CHUNK_HEADER_BYTES
        chunk = view[position : position + length_bytes]
        if kind == b"fmt ":
            layout = _Layout.parse(chunk)
        elif kind == b"data":
            if layout is None:
                raise UnreadableWav("The WAV file's samples come before their format.")
            return layout.read(chunk), layout.sample_rate_hz
        position += length_bytes + length_bytes % 2  # a chunk of odd length has one byte of padding
    raise UnreadableWav("The WAV file has no 'data' chunk.")
