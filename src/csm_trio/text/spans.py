"""Span map: which spoken characters stand for which written ones.

The module must not know why the two differ.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Replacement = tuple[str, int, int]
"""A new text, and the characters [start, end) it replaces."""


@dataclass(frozen=True, slots=True)
class Run:
    """Spoken characters that stand, as a whole, for written ones; either side may be empty.

    Both sides are [start, end). Where they are of one length they correspond one to one.
    """

    spoken_start: int
    spoken_end: int
    written_start: int
    written_end: int


@dataclass(frozen=True, slots=True)
class SpokenText:
    """A spoken text, the written text it stands for, and the map between them.

    The runs tile both texts in order: the first begins at 0 and 0, each begins where the one
    before it ends on both sides, and the last ends where both texts end.
    """

    text: str
    written: str
    runs: tuple[Run, ...]

    def spoken_positions(self) -> list[float]:
        """Return the position in `text` of each written character, then of the end.

        Never decreasing, from 0 to len(text), in spoken characters; linear within a run.
        """
        positions: list[float] = []
        for run in self.runs:
            chars = run.written_end - run.written_start
            step = (run.spoken_end - run.spoken_start) / (chars or 1)
            positions += [run.spoken_start + step * i for i in range(chars)]
        return [*positions, len(self.text)]

    def word_spaces(self) -> dict[int, int]:
        """Return the positions in `text` of spaces that were written, and theirs in `written`."""
        return {
            run.spoken_start + i: run.written_start + i
            for run in self.runs
            if _one_to_one(run)
            for i, char in enumerate(self.text[run.spoken_start : run.spoken_end])
            if char == " " and self.written[run.written_start + i].isspace()
        }

    def part(self, start: int, end: int) -> "SpokenText":
        """Return the spoken text [start, end) with the written characters it stands for.

        Where `start` or `end` splits a run that is not one to one, the part with the run's start
        has all its written characters, and the next part none. Parts that omit the spaces between
        them together have all other written characters.
        """
        ends_at_space = self.text[end : end + 1] in ("", " ")
        runs: list[Run] = []
        for run in self.runs:
            begins, ends = max(run.spoken_start, start), min(run.spoken_end, end)
            if begins == ends and run.spoken_start == run.spoken_end:
                if begins < end or ends_at_space:
                    runs.append(run)
            elif begins < ends and _one_to_one(run):
                shift = run.written_start - run.spoken_start
                runs.append(Run(begins, ends, begins + shift, ends + shift))
            elif begins < ends:
                first = run.written_start if begins == run.spoken_start else run.written_end
                runs.append(Run(begins, ends, first, run.written_end))
        first, last = (runs[0].written_start, runs[-1].written_end) if runs else (0, 0)
        moved = (
            Run(
                run.spoken_start - start, run.spoken_end - start,
                run.written_start - first, run.written_end - first,
            )
            for run in runs
        )  # fmt: skip
        return SpokenText(self.text[start:end], self.written[first:last], tuple(moved))


class TracedText:
    """A text under rewriting that maps each of its characters to the original ones.

    Spans stay ordered: neither their starts nor their ends ever decrease along the text.
    """

    def __init__(self, written: str) -> None:
        self.text = written
        self._written = written
        self._starts = list(range(len(written)))
        self._ends = list(range(1, len(written) + 1))

    def sub(
        self,
        pattern: re.Pattern[str],
        replace: str | Callable[[re.Match[str]], str | Iterable[Replacement] | None],
    ) -> None:
        """Replace the matches of `pattern` by `replace`; None leaves a match alone.

        A string replaces the whole match. A `Replacement` replaces its own range of the present
        text; ranges must be ascending and not empty. Text that equals its range maps to it one
        to one.
        """
        parts: list[Replacement] = []
        done = 0
        for match in pattern.finditer(self.text):
            new = replace if isinstance(replace, str) else replace(match)
            if new is None or new == match[0]:
                continue
            parts.append((self.text[done : match.start()], done, match.start()))
            parts += [(new, *match.span())] if isinstance(new, str) else new
            done = match.end()
        if parts:
            self._rewrite([*parts, (self.text[done:], done, len(self.text))])

    def _rewrite(self, parts: Iterable[Replacement]) -> None:
        starts: list[int] = []
        ends: list[int] = []
        texts: list[str] = []
        for text, start, end in parts:
            texts.append(text)
            if text == self.text[start:end]:
                starts += self._starts[start:end]
                ends += self._ends[start:end]
            else:
                starts += [self._starts[start]] * len(text)
                ends += [self._ends[end - 1]] * len(text)
        self.text, self._starts, self._ends = "".join(texts), starts, ends

    def finish(self) -> SpokenText:
        """Return the present text with its span map."""
        runs: list[Run] = []
        for at, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            last = runs[-1] if runs else Run(0, 0, 0, 0)
            if start < last.written_end:  # the same characters stand for this one too
                runs[-1] = _extend(last, at + 1, max(end, last.written_end))
                continue
            if start > last.written_end:
                last = Run(at, at, last.written_end, start)
                runs.append(last)
            if _one_to_one(last) and end - start == 1 and not self._shared(at):
                runs[-1] = _extend(last, at + 1, end)
            else:
                runs.append(Run(at, at + 1, start, end))
        written_end = runs[-1].written_end if runs else 0
        if written_end < len(self._written):
            runs.append(Run(len(self.text), len(self.text), written_end, len(self._written)))
        return SpokenText(self.text, self._written, tuple(runs))

    def _shared(self, at: int) -> bool:
        return at + 1 < len(self._starts) and self._starts[at + 1] < self._ends[at]


def _one_to_one(run: Run) -> bool:
    chars = run.spoken_end - run.spoken_start
    return chars > 0 and chars == run.written_end - run.written_start


def _extend(run: Run, spoken_end: int, written_end: int) -> Run:
    return Run(run.spoken_start, spoken_end, run.written_start, written_end)
