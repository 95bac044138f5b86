"""Text normalization rules: a pattern of written text, and its spoken form."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from csm_trio.text.normalization.numbers import by_digit
from csm_trio.text.spans import Replacement, TracedText


@dataclass(frozen=True, slots=True)
class Rule:
    """Replace the matches of `pattern` by `spoken`; None leaves a match to later rules.

    A pattern must be linear in the text: every repetition is bounded or possessive, and a long
    pattern cannot start again within a match that failed.
    """

    pattern: re.Pattern[str]
    spoken: str | Callable[[re.Match[str]], str | Iterable[Replacement] | None]


def apply(rules: Sequence[Rule], traced: TracedText) -> None:
    """Apply each rule to the whole text, in order."""
    for rule in rules:
        traced.sub(rule.pattern, rule.spoken)


def digits(match: re.Match[str], group: int | str = 0) -> Iterator[Replacement]:
    """Spell a group digit by digit, each its own span, with a comma between blocks."""
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


def within(match: re.Match[str], group: int | str, spoken: str) -> list[Replacement]:
    """Replace one group of a match; the rest of the match stays."""
    start, end = match.span(group)
    text = match.string
    return [
        (text[match.start() : start], match.start(), start),
        (spoken, start, end),
        (text[end : match.end()], end, match.end()),
    ]


def spaced(match: re.Match[str], spoken: str) -> str:
    """Add spaces where letters or digits touch the match."""
    text = match.string
    touched = match.start() > 0 and (
        text[match.start() - 1].isalnum() or text[match.start() - 1] == ","
    )
    before = " " if touched else ""
    after = " " if match.end() < len(text) and text[match.end()].isalnum() else ""
    return f"{before}{spoken}{after}"


def ends_sentence(text: str, at: int) -> bool:
    """Return whether only closing marks follow `at`."""
    return not text[at:].strip("\"')]} ")
