"""A sentence's characters and where they lie in what is said in, those that have begun out."""

from collections.abc import Sequence


class CharTimeline:
    """One spelling of a stream: the characters of its sentence to come, and those begun.

    Every sentence is followed by white space: its own, or one space that `close` adds.
    """

    def __init__(self) -> None:
        self._coming = ""
        self._places: Sequence[float] = ()
        self._next = 0
        self._begun: list[str] = []
        self._starts_ms: list[float] = []

    def begin(self, chars: str, places: Sequence[float]) -> None:
        """Take the next sentence; each character begins where the speaker passes its place."""
        self._coming, self._places, self._next = chars, places, 0

    def reach(self, from_ms: float, from_place: float, to_ms: float, to_place: float) -> None:
        """Note that the speaker went from one place to another, evenly."""
        while self._next < len(self._coming) and self._places[self._next] < to_place:
            way = max(self._places[self._next] - from_place, 0.0) / (to_place - from_place)
            self._begin_next(from_ms + way * (to_ms - from_ms))

    def close(self, now_ms: float) -> None:
        """Note that the sentence is over: all that has not begun begins now."""
        if not self._coming[-1:].isspace():
            self._coming += " "
        while self._next < len(self._coming):
            self._begin_next(now_ms)

    def _begin_next(self, start_ms: float) -> None:
        self._begun.append(self._coming[self._next])
        self._starts_ms.append(start_ms)
        self._next += 1

    def ready(self, *, over: bool) -> int:
        """Return how many characters can be taken: white space waits for what follows it."""
        count = len(self._begun)
        while count and not over and self._begun[count - 1].isspace():
            count -= 1
        return count

    def take(self, count: int) -> tuple[list[str], list[float]]:
        """Return so many of the characters that have begun, and their starts."""
        chars, starts_ms = self._begun[:count], self._starts_ms[:count]
        del self._begun[:count], self._starts_ms[:count]
        return chars, starts_ms
