"""FFmpeg encoding through PyAV: samples in, the bytes of one container out as they are made.

The module must not know formats' names, voices or threads.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import av
import av._core
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray

from csm_trio.audio.pcm import to_float

# Every filter graph starts a thread for each core, and PyAV puts a graph into every audio encoder:
# hundreds of streams would be thousands of idle threads. libavutil/cpu.h; holds for the process.
ctypes.CDLL(av._core.__file__).av_cpu_force_count(1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """FFmpeg's names and options for one codec and container.

    `input_hz` is the rate of the input samples, `sample_format` the codec's form of them.
    """

    muxer: str
    encoder: str
    input_hz: int
    sample_format: str = "s16"
    bitrate_kbps: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    muxer_options: Mapping[str, str] = field(default_factory=dict)


class Muxed:
    """One stream of mono audio in one container, which begins with the first samples.

    The bytes do not depend on how the input is divided: codec frames have their own size.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._sink = _Sink()
        self._open: tuple[OutputContainer, AudioStream] | None = None
        self._n_samples = 0

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        """Take samples [n]; return the bytes that they complete, possibly none."""
        if not pcm.size:
            return b""
        container, stream = self._open = self._open or self._begin()
        rate_hz = self._recipe.input_hz
        frame = av.AudioFrame.from_ndarray(
            self._samples(pcm), format=self._recipe.sample_format, layout="mono"
        )
        frame.sample_rate = rate_hz
        frame.time_base = Fraction(1, rate_hz)
        frame.pts = self._n_samples
        self._n_samples += len(pcm)
        container.mux(stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        """Return the bytes that the codec and container still hold; none without samples."""
        if self._open is None:
            return b""
        container, stream = self._open
        container.mux(stream.encode(None))
        container.close()
        return self._sink.take()

    def _begin(self) -> tuple[OutputContainer, AudioStream]:
        recipe = self._recipe
        # Without flush_packets, up to 32 KiB would wait in FFmpeg's buffer. bitexact omits version
        # names, the time of day and a random Ogg serial number.
        options = {"flush_packets": "1", "fflags": "bitexact", **recipe.muxer_options}
        container = av.open(self._sink, "w", format=recipe.muxer, options=options)
        stream = container.add_stream(
            recipe.encoder, rate=recipe.input_hz, layout="mono", options=dict(recipe.options)
        )
        assert isinstance(stream, AudioStream)
        stream.codec_context.format = av.AudioFormat(recipe.sample_format)
        if recipe.bitrate_kbps is not None:
            stream.codec_context.bit_rate = recipe.bitrate_kbps * 1000
        return container, stream

    def _samples(self, pcm: NDArray[np.int16]) -> NDArray[np.int16] | NDArray[np.float32]:
        """Return samples [1, n] in the codec's sample format."""
        if self._recipe.sample_format == "s16":
            return pcm[np.newaxis]
        return to_float(pcm[np.newaxis])


class _Sink:
    """The file that FFmpeg writes to; without `seek`, so written bytes never change."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        taken = bytes(self._written)
        self._written.clear()
        return taken
