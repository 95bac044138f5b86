"""Character timeline: assign a start time to each character as the position passes it."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Path(NamedTuple):
    """The position's path over some windows: where it was, then where each window takes it.

    It begins at `from_ms` of the stream and moves linearly within a window, which takes
    `window_ms`. No character begins before the sentence, which has begun at `begun_ms`.
    """

    positions: Sequence[float]
    from_ms: float
    window_ms: float
    begun_ms: float

    def passes(self, position: float) -> float:
        """Return when it passes a position, which must be before its last one."""
        window = bisect_right(self.positions, position, lo=1)
        before, after = self.positions[window - 1 : window + 1]
        windows = window - 1 + (position - before) / (after - before)
        return max(self.from_ms + windows * self.window_ms, self.begun_ms)


class CharTimeline:
    """Start times of the characters of a stream's sentences, as written or as spoken.

    Every sentence is followed by white space: its own, or one space that `close` adds.
    """

    def __init__(self) -> None:
        self._chars = ""
        self._positions: Sequence[float] = ()
        self._next = 0
        self._begun: list[str] = []
        self._starts_ms: list[float] = []

    @property
    def begun(self) -> tuple[list[str], list[float]]:
        """The characters begun that were not taken yet, and their starts in ms."""
        return self._begun, self._starts_ms

    def copy(self) -> "CharTimeline":
        """Return a timeline with the same begun characters, between two sentences."""
        other = CharTimeline()
        other._begun, other._starts_ms = self._begun.copy(), self._starts_ms.copy()
        return other

    def begin(self, chars: str, positions: Sequence[float]) -> None:
        """Start a sentence; `positions` places its characters in the spoken text, ascending."""
        self._chars, self._positions, self._next = chars, positions, 0

    def follow(self, path: Path) -> None:
        """Start the characters that the position passes on its path."""
        begun, end = self._next, path.positions[-1]
        self._next = bisect_left(self._positions, end, begun, len(self._chars))
        self._begun += self._chars[begun : self._next]
        self._starts_ms += map(path.passes, self._positions[begun : self._next])

    def close(self, now_ms: float) -> None:
        """End the sentence: characters that have not begun begin at `now_ms`."""
        if not self._chars[-1:].isspace():
            self._chars += " "
        left = self._chars[self._next :]
        self._begun += left
        self._starts_ms += [now_ms] * len(left)
        self._next = len(self._chars)

    def ready(self, *, over: bool) -> int:
        """Return how many begun characters `take` may return.

        Until the sentence is `over`, trailing white space waits for the character after it.
        """
        count = len(self._begun)
        while count and not over and self._begun[count - 1].isspace():
            count -= 1
        return count

    def take(self, count: int) -> tuple[list[str], list[float]]:
        """Remove and return the first `count` begun characters and their starts in ms."""
        chars, starts_ms = self._begun[:count], self._starts_ms[:count]
        del self._begun[:count], self._starts_ms[:count]
        return chars, starts_ms
