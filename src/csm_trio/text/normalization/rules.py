"""Text normalization rules: a pattern of written text, and its spoken form."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from csm_trio.text.normalization.lexicon import FUNCTION_WORDS, NUMBERED_NOUNS
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


_ARTICLE_BEFORE = re.compile(r"(?:^|[^\w])an? \Z", re.IGNORECASE)
_DETERMINER_BEFORE = re.compile(
    r"(?:^|[^\w])(?:(?:the|this|that|each|every|any|another|no|my|your|his|her|its|our|their|one|two|"
    r"three|four|five|six|seven|eight|nine|ten)|an? [a-z]{3,12}|an? [^.,;]{1,24} by) \Z",
    re.IGNORECASE,
)
_NOUN_AFTER = re.compile(r"[ -]([a-z][a-z'-]{1,30})")
_NAMED_BEFORE = re.compile(
    rf"\b(?:{'|'.join(NUMBERED_NOUNS)})\.?(?: (?:number|no\.?))? ?#?\Z", re.IGNORECASE
)
_NAMED_IS_BEFORE = re.compile(
    r"\b(?:seat|gate|table|exit|apartment|apt|suite|unit|locker|berth|ward|bay|terminal|platform)s?"
    r"(?: number)?(?: (?:is|was|are)|:) \Z",
    re.IGNORECASE,
)


def tail(text: str, at: int, chars: int) -> str:
    """Return up to `chars` characters of `text` before `at`."""
    return text[max(0, at - chars) : at]


def noun_after(text: str, at: int) -> str:
    """Return the word after a space at `at` if it may be a noun, or ""."""
    noun = _NOUN_AFTER.match(text, at)
    return noun[1] if noun and noun[1] not in FUNCTION_WORDS else ""


def is_adjective(text: str, start: int, end: int) -> bool:
    """Return whether a quantity [start, end) describes a noun: "a 12 oz can", "the $5 fee"."""
    before = tail(text, start, 24)
    if _ARTICLE_BEFORE.search(before):
        return not text.startswith(" of ", end)
    noun = noun_after(text, end)
    return bool(noun) and _DETERMINER_BEFORE.search(before) is not None


def is_label(text: str, start: int) -> bool:
    """Return whether the number at `start` names something: "seat 14C", "my gate is 12F"."""
    before = tail(text, start, 32)
    return _NAMED_BEFORE.search(before) is not None or _NAMED_IS_BEFORE.search(before) is not None
