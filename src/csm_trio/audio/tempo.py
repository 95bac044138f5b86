"""Streaming tempo change: faster or slower speech at the same pitch.

FFmpeg's `atempo` (WSOLA: overlapped windows of 43 ms, each aligned for the best overlap). The
module must not know frames, codecs or formats.
"""

import math
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

# One filter goes down to half the speed; above double it would drop sound instead of blending it.
_SLOWEST, _FASTEST = 0.5, 2.0

# Seconds of audio fed to the filter at a time. Its output chunks have the length of its input's, so
# short ones have a low delay. All are equal, since their length changes the output.
_CHUNK_S = 0.02
# Seconds of silence fed at the end: a filter discards up to a window there.
_TAIL_S = 0.2


class Tempo:
    """Play one mono stream `speed` times as fast; at 1.0 it passes through untouched.

    The output does not depend on how the input is divided, and the whole output is
    `input / speed` samples long, to the nearest one. At most 60 ms of the input are held
    back at ordinary speeds, 200 ms at less than half or more than double.
    """

    def __init__(self, sample_rate_hz: int, speed: float) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._chunk_samples = round(sample_rate_hz * _CHUNK_S)
        self._speed = speed
        self._graph = None if speed == 1.0 else _atempo(sample_rate_hz, speed)
        self._waiting = np.zeros(0, dtype=np.int16)
        self._n_fed = self._n_pushed = self._n_returned = 0

    def feed(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Take samples [n]; return the output samples that they complete, possibly none."""
        if self._graph is None:
            return pcm
        self._n_fed += len(pcm)
        return self._count_output(self._change(self._graph, pcm))

    def finish(self) -> NDArray[np.int16]:
        """Return the samples held back and end the stream; no call may follow."""
        if self._graph is None:
            return np.zeros(0, dtype=np.int16)
        silence = np.zeros(round(self._sample_rate_hz * _TAIL_S), dtype=np.int16)
        tail = self._change(self._graph, silence)
        self._graph.push(None)
        tail = np.concatenate([tail, _output(self._graph)])
        missing = max(0, round(self._n_fed / self._speed) - self._n_returned)
        return self._count_output(tail[:missing])

    def _count_output(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        self._n_returned += len(pcm)
        return pcm

    def _change(self, graph: Graph, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        waiting = np.concatenate([self._waiting, pcm])
        n_whole = len(waiting) // self._chunk_samples * self._chunk_samples
        for start in range(0, n_whole, self._chunk_samples):
            chunk = waiting[np.newaxis, start : start + self._chunk_samples]
            frame = av.AudioFrame.from_ndarray(chunk, format="s16", layout="mono")
            frame.sample_rate = self._sample_rate_hz
            frame.time_base = Fraction(1, self._sample_rate_hz)
            frame.pts = self._n_pushed
            self._n_pushed += self._chunk_samples
            graph.push(frame)
        self._waiting = waiting[n_whole:]
        return _output(graph)


def _output(graph: Graph) -> NDArray[np.int16]:
    """Return the samples that the graph has ready."""
    chunks = [np.zeros(0, dtype=np.int16)]
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return np.concatenate(chunks)
        assert isinstance(frame, av.AudioFrame)
        chunks.append(frame.to_ndarray()[0])


def _atempo(sample_rate_hz: int, speed: float) -> Graph:
    """Return a graph of as many filters as it takes, each with an equal share of the change."""
    limit = _FASTEST if speed > 1 else _SLOWEST
    n_filters = max(1, math.ceil(math.log(speed) / math.log(limit)))
    graph = Graph()
    graph.threads = 1  # otherwise one thread per core
    source = graph.add_abuffer(
        sample_rate=sample_rate_hz,
        format="s16",
        layout="mono",
        time_base=Fraction(1, sample_rate_hz),
    )
    share = repr(speed ** (1 / n_filters))
    filters = [graph.add("atempo", share) for _ in range(n_filters)]
    graph.link_nodes(source, *filters, graph.add("abuffersink")).configure()
    return graph
