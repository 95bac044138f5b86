"""What callers may ask sound to be: a format's name comes in, its facts go out.

It must not know how anything is encoded. A further format is a further row of `_ROWS`; a further
codec is also a row of `_CODECS` and a case of `encoders.make_encoder`.
"""

from dataclasses import dataclass
from typing import Literal, Self

from csm_trio.audio.wav import HEADER_BYTES
from csm_trio.errors import UnknownFormat

Codec = Literal["pcm", "wav", "ulaw", "mp3"]


@dataclass(frozen=True, slots=True)
class _CodecFacts:
    """What all formats of one codec share; `bytes_per_sample` is None where a bit rate rules."""

    content_type: str
    bytes_per_sample: int | None
    header_bytes: int = 0


_CODECS: dict[Codec, _CodecFacts] = {
    "pcm": _CodecFacts("audio/pcm", bytes_per_sample=2),
    "ulaw": _CodecFacts("audio/basic", bytes_per_sample=1),
    "wav": _CodecFacts("audio/wav", bytes_per_sample=2, header_bytes=HEADER_BYTES),
    "mp3": _CodecFacts("audio/mpeg", bytes_per_sample=None),
}

# Codec, sample rate in Hz, bit rate in kbit/s. Names follow ElevenLabs' `output_format`.
_ROWS: tuple[tuple[Codec, int, int | None], ...] = (
    ("pcm", 16_000, None),
    ("pcm", 22_050, None),
    ("pcm", 24_000, None),
    ("pcm", 44_100, None),
    ("ulaw", 8_000, None),
    ("wav", 16_000, None),
    ("wav", 22_050, None),
    ("wav", 24_000, None),
    ("wav", 44_100, None),
    ("mp3", 22_050, 32),
    ("mp3", 44_100, 32),
    ("mp3", 44_100, 64),
    ("mp3", 44_100, 96),
    ("mp3", 44_100, 128),
    ("mp3", 44_100, 192),
)


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One form of sound on the wire, always mono; get it by name with `parse`.

    `bitrate_kbps` is None for the codecs whose size follows from the sample rate.
    """

    name: str
    codec: Codec
    sample_rate_hz: int
    bitrate_kbps: int | None
    content_type: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the format of this exact name, one of `FORMATS`.

        Raises `UnknownFormat` for any other name.
        """
        row = _ROW_OF_NAME.get(name)
        if row is None:
            raise UnknownFormat(name, FORMATS)
        codec, sample_rate_hz, bitrate_kbps = row
        return cls(name, codec, sample_rate_hz, bitrate_kbps, _CODECS[codec].content_type)

    def duration_s(self, n_bytes: int) -> float:
        """Return how long the first `n_bytes` of a stream in this format play, in seconds.

        A WAV header plays for no time. For mp3 it is the constant bit rate's time, which
        includes the codec's own padding.
        """
        facts = _CODECS[self.codec]
        sound_bytes = max(0, n_bytes - facts.header_bytes)
        if facts.bytes_per_sample is not None:
            return sound_bytes / (facts.bytes_per_sample * self.sample_rate_hz)
        assert self.bitrate_kbps is not None
        return sound_bytes * 8 / (self.bitrate_kbps * 1000)


def _name(codec: Codec, sample_rate_hz: int, bitrate_kbps: int | None) -> str:
    rate = f"{codec}_{sample_rate_hz}"
    return rate if bitrate_kbps is None else f"{rate}_{bitrate_kbps}"


_ROW_OF_NAME = {_name(*row): row for row in _ROWS}

FORMATS: tuple[str, ...] = tuple(_ROW_OF_NAME)
