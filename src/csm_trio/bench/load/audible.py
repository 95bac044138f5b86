"""Find the first audible sample of a stream, and the moment at which a player reaches it.

The windows are those of nari-labs/benchmarks, so that figures compare: the first of two windows of
20 ms, 10 ms apart, whose level is at least -45 dBFS without their mean. The audible sample is the
first one of that window; if the window's first 10 ms alone are below the level, it is the first
sample after them that stands out. (There it is always the first of the window, which may lie
before an underrun that the listener heard as silence.)
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.formats import AudioFormat, Codec
from csm_trio.audio.g711 import decode_alaw, decode_ulaw
from csm_trio.audio.wav import HEADER_BYTES

THRESHOLD_DBFS: Final = -45.0
HOP_S: Final = 0.01

DECODABLE: Final[frozenset[Codec]] = frozenset({"pcm", "wav", "ulaw", "alaw"})
"""Codecs that are decoded sample by sample, without a codec's delay."""

_THRESHOLD = 32_768 * 10 ** (THRESHOLD_DBFS / 20)
_BLOCKS_PER_WINDOW = 2
_BLOCKS = 3
"""Blocks of 10 ms that two windows cover, the second one block after the first."""


class AudibleStart:
    """The first audible sample of one stream, fed chunk by chunk; `at_s` is None before it."""

    def __init__(self, audio_format: AudioFormat) -> None:
        if audio_format.codec not in DECODABLE:
            raise ValueError(f"{audio_format.name} is not decoded sample by sample")
        self.at_s: float | None = None
        self.leading_silence_s: float | None = None
        self._codec = audio_format.codec
        self._rate_hz = audio_format.sample_rate_hz
        self._block = round(self._rate_hz * HOP_S)
        self._bytes = b""
        self._header_bytes = HEADER_BYTES if audio_format.codec == "wav" else 0
        self._samples: NDArray[np.int16] = np.empty(0, np.int16)
        self._n_samples = 0
        self._plays: list[tuple[int, float]] = []
        self._blocks: list[NDArray[np.int16]] = []
        self._next_window = 0

    def feed(self, chunk: bytes, plays_at_s: float) -> None:
        """Add a chunk whose first sample plays at `plays_at_s`."""
        if self.at_s is not None:
            return
        samples = self._decode(chunk)
        if not samples.size:
            return
        self._plays.append((self._n_samples, plays_at_s))
        self._n_samples += samples.size
        self._samples = np.concatenate([self._samples, samples])
        self._add_blocks()
        self._look()

    def _decode(self, chunk: bytes) -> NDArray[np.int16]:
        skipped = min(self._header_bytes, len(chunk))
        self._header_bytes -= skipped
        data = self._bytes + chunk[skipped:]
        match self._codec:
            case "ulaw":
                return decode_ulaw(data)
            case "alaw":
                return decode_alaw(data)
        whole = len(data) // 2 * 2
        self._bytes = data[whole:]
        return np.frombuffer(data[:whole], "<i2")

    def _add_blocks(self) -> None:
        """Split off the whole blocks of the samples held, and keep the rest."""
        whole = self._samples.size // self._block * self._block
        self._blocks.extend(self._samples[:whole].reshape(-1, self._block))
        self._samples = self._samples[whole:]

    def _look(self) -> None:
        """Set the result at the first window that is followed by a second loud one."""
        while self._next_window + _BLOCKS <= len(self._blocks):
            first = self._next_window
            if self._loud(first) and self._loud(first + 1):
                self._found(first)
                return
            self._next_window += 1

    def _loud(self, block: int) -> bool:
        return bool(self._window(block).std() >= _THRESHOLD)

    def _window(self, block: int) -> NDArray[np.int16]:
        return np.concatenate(self._blocks[block : block + _BLOCKS_PER_WINDOW])

    def _found(self, block: int) -> None:
        sample = block * self._block
        quiet, loud = self._blocks[block], self._blocks[block + 1]
        if quiet.std() < _THRESHOLD:
            stands_out = np.abs(loud - quiet.mean()) >= _THRESHOLD
            sample += self._block + int(np.argmax(stands_out))
        start, plays_at_s = max(entry for entry in self._plays if entry[0] <= sample)
        self.at_s = plays_at_s + (sample - start) / self._rate_hz
        self.leading_silence_s = sample / self._rate_hz
