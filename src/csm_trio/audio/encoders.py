"""Streaming encoders: 24 kHz samples in, one continuous stream of bytes out.

One encoder serves a whole stream, however many sentences it has: a new one in mid-stream would
insert a second header, codec padding or a click. The module must not know sentences, sockets or
threads.
"""

from collections.abc import Callable
from typing import Protocol, assert_never

import lameenc  # type: ignore[import-not-found]
import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.ffmpeg import Muxed, Recipe
from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.g711 import encode_alaw, encode_ulaw
from csm_trio.audio.resample import Resampler
from csm_trio.audio.tempo import Tempo
from csm_trio.audio.wav import wav_header
from csm_trio.timebase import SAMPLE_RATE_HZ

# LAME's scale runs from 2 (best) to 7 (fastest). 5 is the fastest that still shapes its noise.
_LAME_QUALITY = 5
# libopus' own scale, 0 to 10. At 32 kbit/s a frame of 80 ms costs 0.16 ms with 5 and 0.56 with 10.
_OPUS_COMPLEXITY = "5"
_MP4_FRAGMENTS = {
    "movflags": "empty_moov+default_base_moof+delay_moov",
    "frag_duration": "40000",
}


class Encoder(Protocol):
    """Encoder of one audio stream; its bytes do not depend on how the samples are divided."""

    @property
    def heavy(self) -> bool:
        """Whether `encode` and `finish` take long enough to need a worker thread."""

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        """Take mono samples [n] at 24 kHz; return the bytes they complete, possibly none."""

    def finish(self) -> bytes:
        """Return the bytes still held and end the stream; no call may follow."""


class SampleEncoder:
    """Encoder for codecs that code each sample on its own, after an optional header.

    The header precedes the first samples, or comes from `finish` where there are none.
    """

    heavy = False

    def __init__(
        self,
        sample_rate_hz: int,
        pack: Callable[[NDArray[np.int16]], bytes],
        *,
        header: bytes = b"",
    ) -> None:
        self._resampler = Resampler(SAMPLE_RATE_HZ, sample_rate_hz)
        self._pack = pack
        self._header = header

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        data = self._pack(self._resampler.feed(pcm))
        return self._with_header(data) if data else b""

    def finish(self) -> bytes:
        return self._with_header(self._pack(self._resampler.finish()))

    def _with_header(self, data: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + data


class Mp3Encoder:
    """MPEG audio, layer III, at a constant bit rate: bare frames without a tag.

    Decoded, the stream is LAME's encoder delay, the audio, and padding to a whole number of
    frames. A stream without samples has no bytes.
    """

    heavy = True

    def __init__(self, sample_rate_hz: int, bitrate_kbps: int) -> None:
        self._resampler = Resampler(SAMPLE_RATE_HZ, sample_rate_hz)
        self._lame = lameenc.Encoder()
        self._lame.silence()
        self._lame.set_channels(1)
        self._lame.set_in_sample_rate(sample_rate_hz)
        self._lame.set_out_sample_rate(sample_rate_hz)
        self._lame.set_bit_rate(bitrate_kbps)
        self._lame.set_quality(_LAME_QUALITY)
        self._begun = False

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        return self._compress(self._resampler.feed(pcm))

    def finish(self) -> bytes:
        data = self._compress(self._resampler.finish())
        # LAME fails to flush an encoder that got no samples.
        return data + bytes(self._lame.flush()) if self._begun else data

    def _compress(self, pcm: NDArray[np.int16]) -> bytes:
        if not pcm.size:
            return b""
        self._begun = True
        return bytes(self._lame.encode(_pack_pcm(pcm)))


class MuxedEncoder:
    """Encoder for FFmpeg's codecs, in containers that are written without seeking.

    A stream without samples has no bytes.
    """

    heavy = True

    def __init__(self, recipe: Recipe) -> None:
        self._resampler = Resampler(SAMPLE_RATE_HZ, recipe.input_hz)
        self._muxed = Muxed(recipe)

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        return self._muxed.encode(self._resampler.feed(pcm))

    def finish(self) -> bytes:
        return self._muxed.encode(self._resampler.finish()) + self._muxed.finish()


class TempoEncoder:
    """Changes the tempo of the audio before another encoder."""

    heavy = True

    def __init__(self, encoder: Encoder, speed: float) -> None:
        self._tempo = Tempo(SAMPLE_RATE_HZ, speed)
        self._encoder = encoder

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        return self._encoder.encode(self._tempo.feed(pcm))

    def finish(self) -> bytes:
        return self._encoder.encode(self._tempo.finish()) + self._encoder.finish()


def _opus(bitrate_kbps: int | None) -> Recipe:
    """Return the recipe of Ogg/Opus (RFC 7845): one page per packet of 20 ms, to limit the delay.

    The muxer holds one page back. Opus takes 24 kHz input; decoders always play at 48 kHz.
    """
    return Recipe(
        "ogg",
        "libopus",
        SAMPLE_RATE_HZ,
        bitrate_kbps=bitrate_kbps,
        options={"frame_duration": "20", "compression_level": _OPUS_COMPLEXITY},
        muxer_options={"page_duration": "20000"},
    )


def _aac(muxer: str, rate_hz: int, bitrate_kbps: int | None) -> Recipe:
    """Return the recipe of AAC-LC; in MP4 in fragments of at least two codec frames.

    The MP4 header waits for the first fragment, since it contains the length of the priming.
    """
    return Recipe(
        muxer,
        "aac",
        rate_hz,
        "fltp",
        bitrate_kbps,
        options={"aac_coder": "fast"},  # the better one above 64 kbit/s (FFmpeg's documentation)
        muxer_options=_MP4_FRAGMENTS if muxer == "mp4" else {},
    )


def _flac(rate_hz: int) -> Recipe:
    """Return the recipe of FLAC of unknown length, in blocks of 24 ms (96 ms above level 2)."""
    return Recipe(
        "flac",
        "flac",
        rate_hz,
        options={"compression_level": "2"},
        muxer_options={"metadata_header_padding": "0"},
    )


def _pack_pcm(pcm: NDArray[np.int16]) -> bytes:
    return pcm.astype("<i2", copy=False).tobytes()


def make_encoder(audio_format: AudioFormat, *, speed: float = 1.0) -> Encoder:
    """Return a new encoder of this format for one stream that plays `speed` times as fast."""
    encoder = _make_encoder(audio_format)
    return encoder if speed == 1.0 else TempoEncoder(encoder, speed)


def _make_encoder(audio_format: AudioFormat) -> Encoder:
    rate_hz = audio_format.sample_rate_hz
    match audio_format.codec:
        case "pcm":
            return SampleEncoder(rate_hz, _pack_pcm)
        case "ulaw":
            return SampleEncoder(rate_hz, encode_ulaw)
        case "alaw":
            return SampleEncoder(rate_hz, encode_alaw)
        case "wav":
            return SampleEncoder(rate_hz, _pack_pcm, header=wav_header(rate_hz, data_bytes=None))
        case "mp3":
            assert audio_format.bitrate_kbps is not None
            return Mp3Encoder(rate_hz, audio_format.bitrate_kbps)
        case "opus":
            return MuxedEncoder(_opus(audio_format.bitrate_kbps))
        case "m4a":
            return MuxedEncoder(_aac("mp4", rate_hz, audio_format.bitrate_kbps))
        case "aac":
            return MuxedEncoder(_aac("adts", rate_hz, audio_format.bitrate_kbps))
        case "flac":
            return MuxedEncoder(_flac(rate_hz))
        case codec:
            assert_never(codec)
