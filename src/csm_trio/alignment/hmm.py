"""Forward aligner: the forward pass of a left-to-right hidden Markov model over the text.

Every sound is two consecutive states with geometric durations; pauses may be skipped. The position
at a window depends on the audio up to that window only, and is never revised.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csm_trio.alignment.acoustics import WINDOW_MS
from csm_trio.alignment.phonetics import PhoneClass, Unit

_LAG_MS = 20
"""Mean delay in ms with which the forward pass detects a sound."""
_MAX_EXIT_PROBABILITY = 0.9  # per window: even the shortest state may last longer
_ATTENDED_SPREAD_CHARS = 2.0
_MIN_ATTENDED_WEIGHT = 0.02


class ForwardAligner:
    """Aligns one utterance; `pace` multiplies the expected durations of its sounds."""

    def __init__(self, units: Sequence[Unit], pace: float) -> None:
        states = [_halves(unit) for unit in units]
        flat = [state for halves in states for state in halves]
        self._classes = np.array([state.phone_class for state in flat])
        self._starts = np.array([state.start for state in flat], dtype=np.float64)
        self._widths = np.array([state.end - state.start for state in flat], dtype=np.float64)
        durations = np.array([state.duration_ms for state in flat]) * pace
        exits = np.minimum(WINDOW_MS / durations, _MAX_EXIT_PROBABILITY)
        exits[-1] = 0.0
        skip = np.array([state.skip_probability for state in flat[1:]])
        self._stay = 1 - exits
        self._step = exits[:-1] * (1 - skip)
        self._skip = exits[:-2] * skip[:-1]
        self._belief = np.zeros(len(flat))
        self._belief[0] = 1.0
        self._position = 0.0
        self._now_ms = 0

    def advance(
        self, likelihoods: NDArray[np.float64], attended_char: float | None = None
    ) -> list[tuple[int, float]]:
        """Run the forward pass over likelihoods [windows, classes].

        Return after each window its time in ms and the position in spoken characters; positions
        never decrease. `attended_char` is the alignment head's position during these windows, or
        None where it is unknown.
        """
        evidence = likelihoods[:, self._classes]  # [windows, states]
        if attended_char is not None:
            distances = np.abs(self._starts + self._widths / 2 - attended_char)
            evidence = evidence * (
                np.exp(-distances / _ATTENDED_SPREAD_CHARS) + _MIN_ATTENDED_WEIGHT
            )
        belief = self._belief
        for row in evidence:
            predicted = belief * self._stay
            predicted[1:] += belief[:-1] * self._step
            predicted[2:] += belief[:-2] * self._skip
            row *= predicted
            belief = row
        self._belief = belief / belief.sum()
        return [self._observe(sums) for sums in evidence.cumsum(axis=1)]

    def _observe(self, sums: NDArray[np.float64]) -> tuple[int, float]:
        """Return the time and the median position; `sums` are cumulated unnormalized beliefs."""
        half = sums[-1] / 2
        state = min(int(sums.searchsorted(half)), len(sums) - 1)
        below = sums[state - 1] if state else 0.0
        inside = sums[state] - below
        share = (half - below) / inside if inside else 0.0
        position = self._starts[state] + self._widths[state] * min(max(share, 0.0), 1.0)
        self._position = max(self._position, float(position))
        self._now_ms += WINDOW_MS
        return max(0, self._now_ms - _LAG_MS), self._position


def _halves(unit: Unit) -> list[Unit]:
    if unit.phone_class is PhoneClass.PAUSE:
        return [unit]
    middle = (unit.start + unit.end) / 2
    half_ms = unit.duration_ms / 2
    return [
        Unit(unit.start, middle, unit.phone_class, half_ms),
        Unit(middle, unit.end, unit.phone_class, half_ms),
    ]
