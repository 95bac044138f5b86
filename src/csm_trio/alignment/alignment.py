"""Characters with times, as endpoints send them; the module must not know audio or estimation."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub


@dataclass(frozen=True, slots=True)
class Alignment:
    """Characters in the order they are spoken, each with its start and its duration.

    They tile their part of the audio: the first starts at 0, each ends where the next starts, and
    the last where the part ends. So durations add up to the audio's, and a client that adds up
    the durations of a stream, as Pipecat does, gets the stream's clock.
    """

    chars: tuple[str, ...]
    starts_ms: tuple[int, ...]
    durations_ms: tuple[int, ...]

    @property
    def end_ms(self) -> int:
        """End of the last character in ms; 0 without characters."""
        return self.starts_ms[-1] + self.durations_ms[-1] if self.chars else 0

    def shifted(self, by_ms: int) -> "Alignment":
        """Return the same characters, `by_ms` later."""
        if not by_ms:
            return self
        starts = tuple([start + by_ms for start in self.starts_ms])
        return Alignment(self.chars, starts, self.durations_ms)

    def since(self, from_ms: int) -> "Alignment":
        """Return the same characters with starts relative to `from_ms`, none below 0.

        The end stays `end_ms`: the last character lasts `from_ms` longer.
        """
        starts = tuple([max(start - from_ms, 0) for start in self.starts_ms])
        ends = (*starts[1:], self.end_ms)
        return Alignment(self.chars, starts, tuple(map(sub, ends, starts)))

    def split(self, count: int, at_ms: int) -> tuple["Alignment", "Alignment"]:
        """Return the first `count` characters up to `at_ms`, and the rest relative to `at_ms`.

        Neither part may be empty.
        """
        if self.starts_ms[count] == at_ms:
            starts = tuple([start - at_ms for start in self.starts_ms[count:]])
            return (
                Alignment(self.chars[:count], self.starts_ms[:count], self.durations_ms[:count]),
                Alignment(self.chars[count:], starts, self.durations_ms[count:]),
            )
        return (
            tile(self.chars[:count], self.starts_ms[:count], 0, at_ms),
            tile(self.chars[count:], self.starts_ms[count:], at_ms, self.end_ms),
        )


@dataclass(frozen=True, slots=True)
class Aligned:
    """One part of a stream's alignment, in the characters as written and as spoken.

    Where both texts are equal, as in most sentences, the two are one object, so that no work on
    them is done twice. Times are relative to `from_ms` of the stream, the end of the part before.
    `late_ms` is how much earlier `from_ms` is than the audio delivered with this part: audio
    delivered in between started no new character.
    """

    written: Alignment
    spoken: Alignment
    from_ms: int
    late_ms: int = 0


def tile(chars: Sequence[str], starts_ms: Sequence[float], from_ms: int, to_ms: int) -> Alignment:
    """Tile [from_ms, to_ms) with characters by their starts, clamped to the range."""
    starts = [0]
    at_ms, span_ms = 0, to_ms - from_ms
    for start in starts_ms[1:]:
        ms = round(start) - from_ms
        if ms > at_ms:
            at_ms = min(ms, span_ms)
        starts.append(at_ms)
    ends = [*starts[1:], span_ms]
    return Alignment(tuple(chars), tuple(starts), tuple(map(sub, ends, starts)))


def join(parts: Sequence[Aligned]) -> Aligned | None:
    """Join consecutive parts of one stream; None if there are none."""
    if not parts:
        return None
    from_ms = parts[0].from_ms
    written = _join([part.written.shifted(part.from_ms - from_ms) for part in parts])
    if all(part.spoken is part.written for part in parts):
        return Aligned(written, written, from_ms)
    spoken = _join([part.spoken.shifted(part.from_ms - from_ms) for part in parts])
    return Aligned(written, spoken, from_ms)


def whole_words(parts: Sequence[Aligned]) -> tuple[Aligned | None, Aligned | None]:
    """Join consecutive parts; return the complete words, and the word that may go on.

    White space ends a word. The second result begins where the first ends.
    """
    whole = join(parts)
    if whole is None:
        return None, None
    written, spoken = whole.written, whole.spoken
    count = _count_in_words(written.chars)
    if count == len(written.chars):
        return whole, None
    at_ms = written.starts_ms[count]
    if spoken is written:
        spoken_count = count
    else:
        near = bisect_right(spoken.starts_ms, at_ms)
        spoken_count = _count_in_words(spoken.chars[:near])
    if not count or not spoken_count or spoken_count == len(spoken.chars):
        return None, whole
    written_over, written_rest = written.split(count, at_ms)
    if spoken is written:
        spoken_over, spoken_rest = written_over, written_rest
    else:
        spoken_over, spoken_rest = spoken.split(spoken_count, at_ms)
    return (
        Aligned(written_over, spoken_over, whole.from_ms, whole.late_ms),
        Aligned(written_rest, spoken_rest, whole.from_ms + at_ms),
    )


def _count_in_words(chars: Sequence[str]) -> int:
    """Return the number of characters up to and including the last white space."""
    count = len(chars)
    while count and not chars[count - 1].isspace():
        count -= 1
    return count


def _join(parts: Sequence[Alignment]) -> Alignment:
    if len(parts) == 1:
        return parts[0]
    return Alignment(
        tuple([char for part in parts for char in part.chars]),
        tuple([ms for part in parts for ms in part.starts_ms]),
        tuple([ms for part in parts for ms in part.durations_ms]),
    )
