"""Expected sounds and heard ones in, the place in the text out: a hidden Markov model run forward.

Every sound is two states in a row; time in a state is geometric, gaps may be skipped. What is
known at a window is what was heard up to it: nothing is ever taken back.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csm_trio.alignment.acoustics import WINDOW_MS
from csm_trio.alignment.phonetics import PhoneClass, Unit

_LAG_MS = 20
"""How late the model notices a sound, on average."""
_MOST_LEFT = 0.9  # of a state in a window: even the shortest may last longer
_ATTENDED_SPREAD_CHARS = 2.0
_MIN_ATTENDED_WEIGHT = 0.02


class ForwardAligner:
    """Follows one utterance; `pace` is how much slower than usual its voice speaks."""

    def __init__(self, units: Sequence[Unit], pace: float) -> None:
        states = [_halves(unit) for unit in units]
        flat = [state for halves in states for state in halves]
        self._sounds = np.array([state.sound for state in flat])
        self._starts = np.array([state.start for state in flat], dtype=np.float64)
        self._widths = np.array([state.end - state.start for state in flat], dtype=np.float64)
        durations = np.array([state.duration_ms for state in flat]) * pace
        leaving = np.minimum(WINDOW_MS / durations, _MOST_LEFT)
        leaving[-1] = 0.0
        skipped = np.array([state.skipped for state in flat[1:]])
        self._staying = 1 - leaving
        self._stepping = leaving[:-1] * (1 - skipped)
        self._leaping = leaving[:-2] * skipped[:-1]
        self._chance = np.zeros(len(flat))
        self._chance[0] = 1.0
        self._place = 0.0
        self._now_ms = 0

    def advance(
        self, likelihoods: NDArray[np.float64], attended_char: float | None = None
    ) -> list[tuple[int, float]]:
        """Take windows [windows, kinds]; return the time and place (ms, characters) after each.

        `glance` is the character that the model looked at while it made them, where known.
        Places never decrease.
        """
        evidence = likelihoods[:, self._sounds]  # [windows, states]
        if attended_char is not None:
            away = np.abs(self._starts + self._widths / 2 - attended_char)
            evidence = evidence * (np.exp(-away / _ATTENDED_SPREAD_CHARS) + _MIN_ATTENDED_WEIGHT)
        chance = self._chance
        for row in evidence:
            moved = chance * self._staying
            moved[1:] += chance[:-1] * self._stepping
            moved[2:] += chance[:-2] * self._leaping
            row *= moved
            chance = row
        self._chance = chance / chance.sum()
        return [self._noted(sums) for sums in evidence.cumsum(axis=1)]

    def _noted(self, sums: NDArray[np.float64]) -> tuple[int, float]:
        """Return the median of where the speaker is; `sums` are of weights of any scale."""
        half = sums[-1] / 2
        state = min(int(sums.searchsorted(half)), len(sums) - 1)
        below = sums[state - 1] if state else 0.0
        inside = sums[state] - below
        share = (half - below) / inside if inside else 0.0
        place = self._starts[state] + self._widths[state] * min(max(share, 0.0), 1.0)
        self._place = max(self._place, float(place))
        self._now_ms += WINDOW_MS
        return max(0, self._now_ms - _LAG_MS), self._place


def _halves(unit: Unit) -> list[Unit]:
    if unit.sound is PhoneClass.PAUSE:
        return [unit]
    middle = (unit.start + unit.end) / 2
    half_ms = unit.duration_ms / 2
    return [
        Unit(unit.start, middle, unit.sound, half_ms),
        Unit(middle, unit.end, unit.sound, half_ms),
    ]
