"""A rule: where something is written that is said otherwise, and how it is said."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from csm_trio.text.normalization.numbers import by_digit
from csm_trio.text.spans import Piece, TracedText


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches of `pattern` are said as `say` has it; None leaves one to the rules that follow.

    A pattern must be linear in the text: every repetition bounded or possessive, and where it is
    long, no start within a match that failed.
    """

    pattern: re.Pattern[str]
    say: str | Callable[[re.Match[str]], str | Iterable[Piece] | None]


def apply(rules: Sequence[Rule], traced: TracedText) -> None:
    """Apply each rule to the whole text, in order."""
    for rule in rules:
        traced.sub(rule.pattern, rule.say)


def digits(match: re.Match[str], group: int | str = 0) -> Iterator[Piece]:
    """Say a group digit by digit, each for itself, with a comma between blocks of them."""
    start, end = match.span(group)
    glue = gap = ""
    for at in range(start, end):
        char = match.string[at]
        if char.isdecimal():
            yield f"{gap}{glue}{by_digit(char)}", at, at + 1
            glue, gap = " ", ""
        elif char == "+":
            yield "plus", at, at + 1
            glue = " "
        else:
            gap = "," if glue else ""
            yield "", at, at + 1


def within(match: re.Match[str], group: int | str, said: str) -> list[Piece]:
    """Say one group of a match otherwise, and the rest as it stands."""
    start, end = match.span(group)
    text = match.string
    return [
        (text[match.start() : start], match.start(), start),
        (said, start, end),
        (text[end : match.end()], end, match.end()),
    ]


def spaced(match: re.Match[str], said: str) -> str:
    """Part what is said from letters and digits that touch the match."""
    text = match.string
    touched = match.start() > 0 and (
        text[match.start() - 1].isalnum() or text[match.start() - 1] == ","
    )
    before = " " if touched else ""
    after = " " if match.end() < len(text) and text[match.end()].isalnum() else ""
    return f"{before}{said}{after}"


def ends_sentence(text: str, at: int) -> bool:
    """Whether nothing but closing marks follows."""
    return not text[at:].strip("\"')]} ")
