"""What FFmpeg does for us, through PyAV: samples in, one container's bytes out as they are made.

It must not know formats' names, voices or threads.
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

# Every filter graph starts a thread for each core, and PyAV puts a graph into every audio encoder:
# hundreds of calls would be thousands of idle threads. libavutil/cpu.h; holds for the process.
ctypes.CDLL(av._core.__file__).av_cpu_force_count(1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one codec is made: the names and options are FFmpeg's.

    `input_hz` is the rate of the samples that go in, `sample_format` their form in there.
    """

    muxer: str
    encoder: str
    input_hz: int
    sample_format: str = "s16"
    bitrate_kbps: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    muxer_options: Mapping[str, str] = field(default_factory=dict)


class Muxed:
    """One stream of mono sound in one container. It begins with the first samples.

    The cutting of the input changes no byte: codec frames have their own size.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._sink = _Sink()
        self._open: tuple[OutputContainer, AudioStream] | None = None
        self._n_samples = 0

    def encode(self, pcm: NDArray[np.int16]) -> bytes:
        """Return the bytes that follow from these samples: maybe none yet."""
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
        """Return what the codec and the container still hold. Nothing where nothing came."""
        if self._open is None:
            return b""
        container, stream = self._open
        container.mux(stream.encode(None))
        container.close()
        return self._sink.take()

    def _begin(self) -> tuple[OutputContainer, AudioStream]:
        recipe = self._recipe
        # Flushing after every packet, or up to 32 KiB would wait in FFmpeg's own buffer. Bit
        # exact is without version names, the time of day and a random Ogg serial number.
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
        """Return [1, samples] in the codec's own form; floats are within [-1, 1)."""
        if self._recipe.sample_format == "s16":
            return pcm[np.newaxis]
        return pcm[np.newaxis].astype(np.float32) / np.float32(32_768)


class _Sink:
    """The file that FFmpeg writes to; it cannot seek, so what is written stays as it is."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = bytes(self._written)
        self._written.clear()
        return taken
