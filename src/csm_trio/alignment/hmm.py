"""Forward aligner: the forward pass of a left-to-right hidden Markov model over the text.

Every sound is two consecutive states with geometric durations; pauses may be skipped. The position
at a window depends on the audio up to that window only, and is never revised.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csm_trio.alignment.acoustics import WINDOW_MS
from csm_trio.alignment.phonetics import PhoneClass, Unit

LAG_MS = 20
"""Mean delay in ms with which the forward pass detects a sound."""
_MAX_EXIT_PROBABILITY = 0.9  # per window: even the shortest state may last longer
_ATTENDED_SPREAD_CHARS = 2.0
_MIN_ATTENDED_WEIGHT = 0.02
_CLASSES = len(PhoneClass)
_MAX_ADVANCE = 2  # states per window: one step, or a skipped pause
_NEGLIGIBLE_BELIEF = 1e-60  # far below what any evidence could revive


class ForwardAligner:
    """Aligns one utterance; `pace` multiplies the expected durations of its sounds."""

    def __init__(self, units: Sequence[Unit], pace: float) -> None:
        starts, ends, classes, durations, skip = np.array(list(zip(*units, strict=True)))
        halves = np.where(classes == PhoneClass.PAUSE, 1, 2)
        of = np.arange(len(units)).repeat(halves)  # [states]: the unit of each
        widths = ((ends - starts) / halves)[of]
        state_ends = ends[of]
        state_ends[:-1] -= widths[:-1] * (of[:-1] == of[1:])
        self._ends: list[float] = state_ends.tolist()
        self._widths: list[float] = widths.tolist()
        self._middles = state_ends - widths / 2
        self._classes = classes[of].astype(np.intp)
        self._arrivals = _arrivals((durations / halves)[of] * pace, skip[of])
        # [classes, states, 3]: a state's probabilities under its own class, 0 under the others.
        self._class_arrivals = np.zeros((_CLASSES, *self._arrivals.shape))
        self._class_arrivals[self._classes, np.arange(len(of))] = self._arrivals
        self._low = 0
        self._belief = np.ones(1)  # of the states from `_low` on; negligible in all others
        self._position = 0.0

    def advance(
        self, likelihoods: NDArray[np.float64], attended_char: float | None = None
    ) -> list[float]:
        """Run the forward pass over likelihoods [windows, classes].

        Return the position after each window in spoken characters; positions never decrease.
        `attended_char` is the alignment head's position during these windows, or None where it is
        unknown. A call may have a hundred windows: the belief is normalized at its end only.
        """
        windows = len(likelihoods)
        if not windows:
            return []
        low, known = self._low, len(self._belief)
        states = min(known + _MAX_ADVANCE * windows, len(self._classes) - low)
        band = slice(low, low + states)
        class_arrivals = self._class_arrivals[:, band].reshape(_CLASSES, -1)
        weights = (likelihoods @ class_arrivals).reshape(windows, states, -1)
        if attended_char is not None:
            weights *= self._attention(band, attended_char)[:, np.newaxis]
        # A row is the belief after a window, after two states of padding. `sources` is the same
        # memory, [windows, states, 3]: the beliefs, a window earlier, that a state's comes from.
        beliefs = np.zeros((windows + 1, _MAX_ADVANCE + states))
        beliefs[0, _MAX_ADVANCE : _MAX_ADVANCE + known] = self._belief
        row, item = beliefs.strides
        sources = np.ndarray(weights.shape, beliefs.dtype, beliefs, 0, (row, item, item))
        beliefs = beliefs[1:, _MAX_ADVANCE:]
        for weight, source, belief in zip(weights, sources, beliefs, strict=True):
            np.vecdot(weight, source, belief)
        return self._observe(beliefs)

    def _observe(self, beliefs: NDArray[np.float64]) -> list[float]:
        """Return the median position after each window; keep the last belief, normalized."""
        sums = np.add.accumulate(beliefs, axis=1)
        totals = sums[:, -1]
        states = (sums >= totals[:, np.newaxis] / 2).argmax(axis=1)
        low, position = self._low, self._position
        positions: list[float] = []
        for window, (state, total) in enumerate(zip(states.tolist(), totals.tolist(), strict=True)):
            beyond = (sums.item(window, state) - total / 2) / beliefs.item(window, state)
            median = self._ends[low + state] - self._widths[low + state] * beyond
            if median > position:
                position = median
            positions.append(position)
        self._position = position
        belief = beliefs[-1] / total
        (known,) = (belief > _NEGLIGIBLE_BELIEF).nonzero()
        self._belief = belief[known[0] : known[-1] + 1]
        self._low += int(known[0])
        return positions

    def _attention(self, band: slice, attended_char: float) -> NDArray[np.float64]:
        """Return the weight of each state's distance from the attended character."""
        distances = np.abs(self._middles[band] - attended_char)
        near: NDArray[np.float64] = np.exp(-distances / _ATTENDED_SPREAD_CHARS)
        return near + _MIN_ATTENDED_WEIGHT


def _arrivals(durations_ms: NDArray[np.float64], skip: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities [states, 3] of arriving from two states before, one, and itself.

    `skip` are the probabilities of states being skipped. The last state is never left.
    """
    exits = np.minimum(WINDOW_MS / durations_ms, _MAX_EXIT_PROBABILITY)
    exits[-1] = 0.0
    arrivals = np.zeros((len(exits), 1 + _MAX_ADVANCE))
    arrivals[2:, 0] = exits[:-2] * skip[1:-1]
    arrivals[1:, 1] = exits[:-1] * (1 - skip[1:])
    arrivals[:, 2] = 1 - exits
    return arrivals
