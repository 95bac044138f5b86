"""A telephone's keys and masked digits, read before Markdown marks are removed."""

import re
from collections.abc import Iterator

from csm_trio.text.normalization.numbers import by_digit
from csm_trio.text.normalization.rules import Rule, digits
from csm_trio.text.spans import Replacement

_KEYS = {"*": "star", "#": "pound"}

# "*72#", "*67", "*#06#", "4#": at least one key and one digit, in a token of its own, and no
# emphasis ("*2 of 3*").
_SEQUENCE = re.compile(
    r"(?<![\w*#.])(?!\*[^*\n]{0,200}[^\s*]\*(?![\w*#]))(?=[\d*#]{0,20}\d)(?:\*#?\d{1,8}(?:\*\d{1,8}){0,3}#?|\d{1,8}#)(?![\w*#])"
)
_DIALED = re.compile(
    r"\b(?:[Pp]ress|[Dd]ial|[Hh]it|[Tt]ouch|[Ee]nter|[Tt]ype|[Uu]se|[Cc]ode)(?:ing|ed)?(?: the)? "
    r"(\*\*\d{1,4}(?:\*\d{1,15})?#|(?!\*\*)[*#]{0,2}\d{1,8}(?:\*\d{1,8}){0,3}#?|[*#])(?![\w*#/-]|[.,:]\d)"
)
_LONE = re.compile(
    r"(?:\b(?:[Pp]ress|[Dd]ial|[Hh]it|[Tt]ouch|[Ee]nter|[Tt]ype|[Pp]ush|[Uu]se|with|by|or|and|then|"
    r"the|key|a|pound|hash|star)(?:ing|ed)?,?(?: the)?|[*#],) [\"'(]?([*#])(?=[\"').,;:!?]|$|"
    r" (?!\*|#|\d))",
)
_TO_DO = re.compile(r"(?:^|, )([*#])(?= (?:to|for) [a-z])")
_QUOTED = re.compile(r"(?<=[\"'(])([*#])(?=[\"')])")
_STARS = re.compile(
    r"(?<![\w.])([1-5](?:\.5)?)\*(?= (?:hotel|resort|property|restaurant|stay|rating|review)s?\b)"
)
_MASK = re.compile(r"(?<![\w*•·●])(?:[*•·●xX]{2,16}+[ -]{0,2}+){1,4}+(\d{3,4})(?!\w)")


def _sequence(match: re.Match[str]) -> Iterator[Replacement] | None:
    return _spelled(match, match.start())


def _dialed(match: re.Match[str]) -> Iterator[Replacement] | None:
    if match[1].isdecimal():
        return None
    return _spelled(match, match.start(1))


def _to_do(match: re.Match[str]) -> Iterator[Replacement] | None:
    """Read a key with its use; a line that begins with a star is an item of a list."""
    if match[0] == "*":
        return None
    return _spelled(match, match.start(1))


def _masked(match: re.Match[str]) -> Iterator[Replacement]:
    yield "", match.start(), match.start(1)
    yield from digits(match, 1)


def _spelled(match: re.Match[str], start: int) -> Iterator[Replacement]:
    """Name each key from `start` to the end of the match, each its own span."""
    yield match.string[match.start() : start], match.start(), start
    for at in range(start, match.end()):
        char = match.string[at]
        glue = " " if at > start else ""
        yield glue + (_KEYS.get(char) or by_digit(char)), at, at + 1


KEYS = (
    Rule(_MASK, _masked),
    Rule(_STARS, lambda match: [(match[1], *match.span(1)), (" star", match.end(1), match.end())]),
    Rule(_DIALED, _dialed),
    Rule(_SEQUENCE, _sequence),
    Rule(_LONE, lambda match: _spelled(match, match.start(1))),
    Rule(_TO_DO, _to_do),
    Rule(_QUOTED, lambda match: _KEYS[match[1]]),
)
