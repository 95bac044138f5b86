"""Audio formats: look up the codec, rates and content type of a format's name.

The module must not know encoders. A new format is a new row of `_ROWS`; a new codec is also a row
of `_CODECS` and a case of `encoders.make_encoder`.
"""

from dataclasses import dataclass
from typing import Literal, Self

from csm_trio.audio.wav import HEADER_BYTES
from csm_trio.errors import UnknownFormat

Codec = Literal["pcm", "wav", "ulaw", "alaw", "mp3", "opus", "m4a", "aac", "flac"]


@dataclass(frozen=True, slots=True)
class _CodecFacts:
    """Properties shared by all formats of one codec.

    `bytes_per_sample` is None for codecs with a bit rate; `constant`: the rate is constant.
    """

    content_type: str
    bytes_per_sample: int | None = None
    header_bytes: int = 0
    constant: bool = True


_CODECS: dict[Codec, _CodecFacts] = {
    "pcm": _CodecFacts("audio/pcm", bytes_per_sample=2),
    "wav": _CodecFacts("audio/wav", bytes_per_sample=2, header_bytes=HEADER_BYTES),
    "ulaw": _CodecFacts("audio/basic", bytes_per_sample=1),
    # RFC 4856 §2.1.2; audio/basic is mu-law alone (RFC 2046 §4.3).
    "alaw": _CodecFacts("audio/PCMA", bytes_per_sample=1),
    "mp3": _CodecFacts("audio/mpeg"),
    "opus": _CodecFacts("audio/opus", constant=False),
    "m4a": _CodecFacts("audio/mp4", constant=False),
    "aac": _CodecFacts("audio/aac", constant=False),
    "flac": _CodecFacts("audio/flac", constant=False),
}

# Codec, sample rate in Hz, bit rate in kbit/s.
_Row = tuple[Codec, int, int | None]

_PCM_RATES_HZ = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_KBPS = (32, 64, 96, 128, 192)

_ROWS: tuple[_Row, ...] = (
    *(("pcm", rate_hz, None) for rate_hz in _PCM_RATES_HZ),
    ("ulaw", 8_000, None),
    ("alaw", 8_000, None),
    *(("wav", rate_hz, None) for rate_hz in _PCM_RATES_HZ),
    ("mp3", 22_050, 32),
    ("mp3", 24_000, 48),
    *(("mp3", 44_100, kbps) for kbps in _KBPS),
    *(("opus", 48_000, kbps) for kbps in _KBPS),
    ("m4a", 44_100, 128),
)

# OpenAI's `response_format` is a codec's name; its pcm is 24 kHz, the model's rate, so
# the others are too: no resampling.
_OPENAI_ROWS: dict[str, _Row] = {
    "mp3": ("mp3", 24_000, 128),
    "opus": ("opus", 48_000, 64),
    "aac": ("aac", 24_000, 96),
    "flac": ("flac", 24_000, None),
    "wav": ("wav", 24_000, None),
    "pcm": ("pcm", 24_000, None),
}


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One audio format on the wire, always mono; get it by name with `parse` or `parse_openai`.

    `bitrate_kbps` is None for the codecs whose size follows from the samples.
    """

    name: str
    codec: Codec
    sample_rate_hz: int
    bitrate_kbps: int | None
    content_type: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the format of an `output_format` of ElevenLabs, one of `FORMATS`.

        `mp3_44100`, their sockets' documented default, is `mp3_44100_128`. Raises
        `UnknownFormat` for any other name.
        """
        row = _ROW_OF_NAME.get(_ALIASES.get(name, name))
        if row is None:
            raise UnknownFormat(name, FORMATS)
        return cls._of(_name(*row), row)

    @classmethod
    def parse_openai(cls, name: str) -> Self:
        """Return the format of a `response_format` of OpenAI, one of `OPENAI_FORMATS`.

        Raises `UnknownFormat`, with `response_format` as its `param`, for any other name.
        """
        row = _OPENAI_ROWS.get(name)
        if row is None:
            raise UnknownFormat(name, OPENAI_FORMATS, param="response_format")
        return cls._of(name, row)

    @classmethod
    def _of(cls, name: str, row: _Row) -> Self:
        codec, sample_rate_hz, bitrate_kbps = row
        return cls(name, codec, sample_rate_hz, bitrate_kbps, _CODECS[codec].content_type)

    @property
    def has_constant_rate(self) -> bool:
        """Whether `duration_s` can derive the duration from a number of bytes."""
        return _CODECS[self.codec].constant

    def duration_s(self, n_bytes: int) -> float | None:
        """Return how long the first `n_bytes` of a stream in this format play, in seconds.

        None for codecs of variable bit rate. A WAV header has no duration.
        For mp3 it is the constant bit rate's time, which includes the codec's own padding.
        """
        facts = _CODECS[self.codec]
        if not facts.constant:
            return None
        audio_bytes = max(0, n_bytes - facts.header_bytes)
        if facts.bytes_per_sample is not None:
            return audio_bytes / (facts.bytes_per_sample * self.sample_rate_hz)
        assert self.bitrate_kbps is not None
        return audio_bytes * 8 / (self.bitrate_kbps * 1000)


def _name(codec: Codec, sample_rate_hz: int, bitrate_kbps: int | None) -> str:
    if codec == "m4a":
        return f"m4a_aac_{sample_rate_hz}_{bitrate_kbps}"
    rate = f"{codec}_{sample_rate_hz}"
    return rate if bitrate_kbps is None else f"{rate}_{bitrate_kbps}"


_ROW_OF_NAME = {_name(*row): row for row in _ROWS}
_ALIASES = {"mp3_44100": "mp3_44100_128"}

FORMATS: tuple[str, ...] = tuple(_ROW_OF_NAME)
OPENAI_FORMATS: tuple[str, ...] = tuple(_OPENAI_ROWS)
