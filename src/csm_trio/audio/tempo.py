"""Faster or slower speech at the same pitch, while it is still being made.

FFmpeg's `atempo` (WSOLA: overlapped windows of 43 ms, each put where it fits best). It must not
know frames, codecs or formats.
"""

import math
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

# One filter goes down to half the speed; above double it would drop sound instead of blending it.
_SLOWEST, _FASTEST = 0.5, 2.0

# The filter hands its output on in pieces as long as its input's: short ones are sooner out. All
# are equal, since their length changes the output.
_PIECE_S = 0.02
# A filter swallows up to a window at its end. It gets silence to swallow.
_TAIL_S = 0.2


class Tempo:
    """Play one mono stream `speed` times as fast; at 1.0 it passes through untouched.

    Any cutting of the same input gives exactly the same output, and the whole output is
    `input / speed` samples long, to the nearest one. At most 60 ms of the input are held
    back at ordinary speeds, 200 ms at less than half or more than double.
    """

    def __init__(self, sample_rate_hz: int, speed: float) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._piece_samples = round(sample_rate_hz * _PIECE_S)
        self._speed = speed
        self._graph = None if speed == 1.0 else _atempo(sample_rate_hz, speed)
        self._waiting = np.zeros(0, dtype=np.int16)
        self._n_taken = self._n_pushed = self._n_given = 0

    def feed(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return what can be known of the output after these samples: any number, also none."""
        if self._graph is None:
            return pcm
        self._n_taken += len(pcm)
        return self._given(self._change(self._graph, pcm))

    def finish(self) -> NDArray[np.int16]:
        """Return what was held back. This ends the stream: call nothing after it."""
        if self._graph is None:
            return np.zeros(0, dtype=np.int16)
        silence = np.zeros(round(self._sample_rate_hz * _TAIL_S), dtype=np.int16)
        tail = self._change(self._graph, silence)
        self._graph.push(None)
        tail = np.concatenate([tail, _output(self._graph)])
        missing = max(0, round(self._n_taken / self._speed) - self._n_given)
        return self._given(tail[:missing])

    def _given(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        self._n_given += len(pcm)
        return pcm

    def _change(self, graph: Graph, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        waiting = np.concatenate([self._waiting, pcm])
        n_whole = len(waiting) // self._piece_samples * self._piece_samples
        for start in range(0, n_whole, self._piece_samples):
            piece = waiting[np.newaxis, start : start + self._piece_samples]
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate = self._sample_rate_hz
            frame.time_base = Fraction(1, self._sample_rate_hz)
            frame.pts = self._n_pushed
            self._n_pushed += self._piece_samples
            graph.push(frame)
        self._waiting = waiting[n_whole:]
        return _output(graph)


def _output(graph: Graph) -> NDArray[np.int16]:
    """Return what the graph has ready."""
    pieces = [np.zeros(0, dtype=np.int16)]
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return np.concatenate(pieces)
        assert isinstance(frame, av.AudioFrame)
        pieces.append(frame.to_ndarray()[0])


def _atempo(sample_rate_hz: int, speed: float) -> Graph:
    """Return a graph of as many filters as it takes, each with an equal share of the change."""
    limit = _FASTEST if speed > 1 else _SLOWEST
    n_filters = max(1, math.ceil(math.log(speed) / math.log(limit)))
    graph = Graph()
    graph.threads = 1  # else a thread for each core
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
