"""Characters with times, as doors send them; no audio, no estimate of its own."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alignment:
    """Characters in the order they are spoken, each with its start and its duration.

    They tile their piece of audio: the first starts at 0, each ends where the next starts, and
    the last where the piece ends. So durations add up to the audio's, and whoever adds up the
    pieces of a stream, as Pipecat does, has its clock.
    """

    chars: tuple[str, ...]
    starts_ms: tuple[int, ...]
    durations_ms: tuple[int, ...]

    @property
    def end_ms(self) -> int:
        """Where the last character ends."""
        return self.starts_ms[-1] + self.durations_ms[-1] if self.chars else 0

    def shifted(self, by_ms: int) -> "Alignment":
        """Return the same characters so much later."""
        return Alignment(
            self.chars, tuple(start + by_ms for start in self.starts_ms), self.durations_ms
        )

    def since(self, from_ms: int) -> "Alignment":
        """Return the same, counted from `from_ms`: what began before begins there.

        They still end at `end_ms`: the last lasts `from_ms` longer.
        """
        starts = tuple(max(start - from_ms, 0) for start in self.starts_ms)
        ends = (*starts[1:], self.end_ms)
        durations = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return Alignment(self.chars, starts, durations)

    def parted(self, count: int, at_ms: int) -> tuple["Alignment", "Alignment"]:
        """Return the first `count` characters, up to `at_ms`, and the others, counted from there.

        Neither may be none.
        """
        return (
            tiled(self.chars[:count], self.starts_ms[:count], 0, at_ms),
            tiled(self.chars[count:], self.starts_ms[count:], at_ms, self.end_ms),
        )


@dataclass(frozen=True, slots=True)
class Aligned:
    """One piece of a stream, in the characters as they were written and as they are spoken.

    Times count from `from_ms` of the stream: the end of the piece before, which is earlier than
    the audio it comes with, by `late_ms`, where that before brought no new character.
    """

    written: Alignment
    spoken: Alignment
    from_ms: int
    late_ms: int = 0


def tiled(chars: Sequence[str], starts_ms: Sequence[float], from_ms: int, to_ms: int) -> Alignment:
    """Lay characters over [from_ms, to_ms) by where they start; what starts outside is moved."""
    starts = [min(max(round(start) - from_ms, 0), to_ms - from_ms) for start in starts_ms]
    starts[0] = 0
    for i in range(1, len(starts)):
        starts[i] = max(starts[i], starts[i - 1])
    ends = [*starts[1:], to_ms - from_ms]
    durations = (end - start for start, end in zip(starts, ends, strict=True))
    return Alignment(tuple(chars), tuple(starts), tuple(durations))


def joined(pieces: Sequence[Aligned]) -> Aligned | None:
    """Return consecutive pieces of one stream as one; None if there are none."""
    if not pieces:
        return None
    from_ms = pieces[0].from_ms
    return Aligned(
        _joined([piece.written.shifted(piece.from_ms - from_ms) for piece in pieces]),
        _joined([piece.spoken.shifted(piece.from_ms - from_ms) for piece in pieces]),
        from_ms,
    )


def whole_words(pieces: Sequence[Aligned]) -> tuple[Aligned | None, Aligned | None]:
    """Join consecutive pieces; return the words that are over, and the one that may not be.

    White space ends a word. The rest begins where what is over ends.
    """
    piece = joined(pieces)
    if piece is None:
        return None, None
    written, spoken = piece.written, piece.spoken
    count = _words_chars(written.chars)
    if count == len(written.chars):
        return piece, None
    at_ms = written.starts_ms[count]
    near = bisect_right(spoken.starts_ms, at_ms)
    spoken_count = _words_chars(spoken.chars[:near])
    if not count or not spoken_count or spoken_count == len(spoken.chars):
        return None, piece
    written_over, written_rest = written.parted(count, at_ms)
    spoken_over, spoken_rest = spoken.parted(spoken_count, at_ms)
    return (
        Aligned(written_over, spoken_over, piece.from_ms, piece.late_ms),
        Aligned(written_rest, spoken_rest, piece.from_ms + at_ms),
    )


def _words_chars(chars: Sequence[str]) -> int:
    """Return how many characters there are up to the last white space, that included."""
    return next((i for i in range(len(chars), 0, -1) if chars[i - 1].isspace()), 0)


def _joined(parts: Sequence[Alignment]) -> Alignment:
    return Alignment(
        tuple(char for part in parts for char in part.chars),
        tuple(ms for part in parts for ms in part.starts_ms),
        tuple(ms for part in parts for ms in part.durations_ms),
    )
