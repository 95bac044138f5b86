"""Speech activity: where a recording of one speaker holds speech, by its level alone.

The module must not know files or transcripts.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.mixdown import high_pass

HOP_S = 0.01
"""Length of a frame of activity."""
LONGEST_COUNTED_PAUSE_S = 0.5
"""Of a pause within speech, this much counts as time spent speaking."""

_CORNER_HZ = 100.0  # mains hum and rumble lie below; enough of a low voice lies above
_SMOOTHING_FRAMES = 3
_UNCOUNTED_LOUDEST_FRAMES = 8  # a click is shorter; it must not set the level of the speech
_GATE = 0.1  # of the mean energy, as in BS.1770-5: what is more than 10 dB lower is no speech
_DIGITAL_SILENCE = 1e-7  # of the loudest energy
_MOST_BELOW_SPEECH_OF_SOUND_DB = 70.0
_FLOOR_PERCENTILE = 5.0
_OVER_FLOOR_DB = 8.0
_MOST_BELOW_SPEECH_DB, _LEAST_BELOW_SPEECH_DB = 35.0, 12.0
_SHORTEST_SPEECH_FRAMES = 6
_STEADY_FRAMES = 5  # 50 ms, shorter than a syllable
_STEADY_PERCENTILES = (5.0, 95.0)


@dataclass(frozen=True, slots=True)
class Pause:
    """A stretch without speech, between speech: frames [start, end)."""

    start: int
    end: int

    @property
    def duration_s(self) -> float:
        return (self.end - self.start) * HOP_S


@dataclass(frozen=True, eq=False)
class SpeechActivity:
    """Activity in frames of 10 ms: the energy [frames] of each, and what follows from it.

    A frame holds speech where it is louder than a threshold between the level of the speech
    and that of the noise.
    """

    energies: NDArray[np.float64]

    @classmethod
    def measure(cls, samples: NDArray[np.float32], sample_rate_hz: int) -> "SpeechActivity":
        """Measure samples [n]; what is left after the last whole frame does not count."""
        hop = round(HOP_S * sample_rate_hz)
        band = high_pass(samples, sample_rate_hz, _CORNER_HZ, order=8)
        squares = band[: len(band) // hop * hop].astype(np.float64).reshape(-1, hop) ** 2
        return cls(squares.mean(axis=1))

    def part(self, start: int, end: int) -> "SpeechActivity":
        """Return the activity of frames [start, end), by their own levels."""
        return SpeechActivity(self.energies[start:end])

    @cached_property
    def speech_db(self) -> float:
        """Mean level of the speech, relative to full scale; less than -150 for silence."""
        energies = np.sort(self.energies)[: max(1, len(self.energies) - _UNCOUNTED_LOUDEST_FRAMES)]
        sounding = energies[energies > _DIGITAL_SILENCE * energies.max(initial=0.0)]
        if not sounding.size:
            return _db(0.0)
        return _db(float(sounding[sounding > _GATE * sounding.mean()].mean()))

    @cached_property
    def floor_db(self) -> float:
        """Level of the background, relative to full scale.

        Digital silence around a recording is none of its background.
        """
        levels = self._smoothed_db
        sounding = np.flatnonzero(levels > self.speech_db - _MOST_BELOW_SPEECH_OF_SOUND_DB)
        if not sounding.size:
            return _db(0.0)
        return float(np.percentile(levels[sounding[0] : sounding[-1] + 1], _FLOOR_PERCENTILE))

    @cached_property
    def active(self) -> NDArray[np.bool_]:
        """Whether each frame holds speech."""
        threshold_db = np.clip(
            self.floor_db + _OVER_FLOOR_DB,
            self.speech_db - _MOST_BELOW_SPEECH_DB,
            self.speech_db - _LEAST_BELOW_SPEECH_DB,
        )
        active: NDArray[np.bool_] = self._smoothed_db > threshold_db
        for start, end in _runs(active):
            if end - start < _SHORTEST_SPEECH_FRAMES:
                active[start:end] = False
        return active

    @cached_property
    def span(self) -> tuple[int, int]:
        """The frames [start, end) from the first speech to the last; (0, 0) without any."""
        at = np.flatnonzero(self.active)
        return (int(at[0]), int(at[-1]) + 1) if at.size else (0, 0)

    @cached_property
    def pauses(self) -> list[Pause]:
        """The pauses between speech, in order."""
        start, end = self.span
        return [Pause(start + a, start + b) for a, b in _runs(~self.active[start:end])]

    @cached_property
    def spoken_s(self) -> NDArray[np.float64]:
        """Seconds of speech before each frame, and in all: [frames + 1]; of long pauses a part."""
        start, end = self.span
        counts = np.zeros(len(self.energies))
        counts[start:end] = HOP_S
        counted_frames = round(LONGEST_COUNTED_PAUSE_S / HOP_S)
        for pause in self.pauses:
            counts[min(pause.start + counted_frames, pause.end) : pause.end] = 0.0
        return np.concatenate([[0.0], np.cumsum(counts)])

    @property
    def range_db(self) -> float:
        """How much the level changes from the first speech to the last: 15 dB and more in speech.

        A tone or a noise has less than 3.
        """
        start, end = self.span
        rows = self.energies[start:end]
        rows = rows[: len(rows) // _STEADY_FRAMES * _STEADY_FRAMES].reshape(-1, _STEADY_FRAMES)
        if not rows.size:
            return 0.0
        low, high = np.percentile(rows.mean(axis=1), _STEADY_PERCENTILES)
        return _db(float(high)) - _db(float(low))

    @cached_property
    def _smoothed_db(self) -> NDArray[np.float64]:
        window = np.full(_SMOOTHING_FRAMES, 1 / _SMOOTHING_FRAMES)
        edge = _SMOOTHING_FRAMES // 2
        smooth = np.convolve(np.pad(self.energies, edge, mode="edge"), window, mode="valid")
        levels: NDArray[np.float64] = 10 * np.log10(np.maximum(smooth, 1e-20))
        return levels


def _db(energy: float) -> float:
    return float(10 * np.log10(max(energy, 1e-20)))


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the [start, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
