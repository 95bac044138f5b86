"""Character timeline: assign a start time to each character as the position passes it."""

from collections.abc import Sequence


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

    def begin(self, chars: str, positions: Sequence[float]) -> None:
        """Start a sentence; `positions` places its characters in the spoken text, ascending."""
        self._chars, self._positions, self._next = chars, positions, 0

    def reach(self, from_ms: float, from_position: float, to_ms: float, to_position: float) -> None:
        """Advance the position linearly in time; start the characters that it passes."""
        while self._next < len(self._chars) and self._positions[self._next] < to_position:
            share = max(self._positions[self._next] - from_position, 0.0) / (
                to_position - from_position
            )
            self._begin_next(from_ms + share * (to_ms - from_ms))

    def close(self, now_ms: float) -> None:
        """End the sentence: characters that have not begun begin at `now_ms`."""
        if not self._chars[-1:].isspace():
            self._chars += " "
        while self._next < len(self._chars):
            self._begin_next(now_ms)

    def _begin_next(self, start_ms: float) -> None:
        self._begun.append(self._chars[self._next])
        self._starts_ms.append(start_ms)
        self._next += 1

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
