"""Sentence ends: what a stop, the word before it and the text after it say.

The module must not know which text is held, or when it is returned.
"""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import enum
import re
import unicodedata
from collections.abc import Sequence

from csm_trio.text.normalization.lexicon import (
    AFTER_NUMBERS,
    AFTER_TIMES,
    AMBIGUOUS,
    BEFORE_NUMBERS,
    ENDING,
    FILE_ENDINGS,
    JOINING,
    NUMBERED,
    STARTING,
)

LONGEST_WORD_CHARS = 12  # longest entry of any word list that a stop or a gap is judged by
LONGEST_GLUED_CHARS = 20
_LONGEST_TOKEN_CHARS = 64

NEWLINES = frozenset("\n\r\v\f\x85\u2028\u2029")
WIDE_STOPS = frozenset("。！？｡")
_DOTS = frozenset(".…")
STOPS = frozenset("!?‽؟۔।") | _DOTS | WIDE_STOPS
CLOSERS = frozenset("\"')]}”’»›*_`~）］｝」』】》〉＂")
_CLOSER_CATEGORIES = frozenset({"So", "Sk", "Cf", "Mn", "Me"})  # emoji, joiners, selectors
OPENERS = frozenset("\"'([{“‘«‹*_`¿¡（［｛「『【《〈")
CONTINUING = frozenset(",;:-–—/&+=%)]}") | STOPS
_WORD_BREAKS = frozenset("\"'([{“‘«*_`/-–—#&,")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")  # U.S, Ph.D
_LIST_NUMBER = re.compile(r"[\W_]*(?:\d{1,3}|[^\W\d_])")

# A stop within an address or in code is no end: marks of its token, and what may follow the word.
_TOKEN_MARKS = frozenset("./:@\\=&#_~|<>{}[]()^")
_AMOUNT = re.compile(r"[$€£]?\d[\d,]{0,12}\.\d{1,4}%?")
_GLUED_CLOSERS = STOPS | frozenset(')]”’»*_"')
_AFTER_GLUED = frozenset(".,;:!?…-–—)]”’»*\"'")
_GLUED_ENDINGS = frozenset(["com", "org", "net", "edu", "gov", "io", "co", "uk"]) | FILE_ENDINGS


class Rule(enum.Enum):
    """Condition under which a stop followed by whitespace ends a sentence."""

    FREE = enum.auto()  # nothing
    CASE = enum.auto()  # no lower case after it: ellipses, closing quotes and brackets
    ENDING = (
        enum.auto()
    )  # a capitalized word after it other than a day, month or time zone: "p.m.", "etc."
    NUMBER = enum.auto()  # a capital, and no digit, after it: "No."
    STARTER = enum.auto()  # a word after it that begins sentences: "Inc.", "U.S.", initials
    LABEL = enum.auto()  # the same, other than a letter: "Apt. A", "Bldg. B"
    JOIN = enum.auto()  # never: "Dr."


def closes(char: str) -> bool:
    """Return whether a character may stand between a stop and the whitespace after it."""
    return char in CLOSERS or unicodedata.category(char) in _CLOSER_CATEGORIES


def classify(held: Sequence[str], stop_at: int, *, cut_at: int) -> Rule:
    """Return the rule of the stops, and closing marks, `held[stop_at:cut_at]`."""
    stops = [mark for mark in held[stop_at:cut_at] if mark in STOPS]
    closed = len(stops) < cut_at - stop_at
    if stops == ["."]:
        rule = _word_rule(held, stop_at)
    elif all(stop in _DOTS for stop in stops):
        rule = Rule.CASE
    else:
        rule = Rule.FREE
    return Rule.CASE if closed and rule is Rule.FREE else rule


def _word_rule(held: Sequence[str], stop_at: int) -> Rule:
    """Return the rule of a single full stop, from the word before it."""
    start = stop_at
    while start > 0 and stop_at - start <= LONGEST_WORD_CHARS and _in_word(held[start - 1]):
        start -= 1
    word = "".join(held[start:stop_at])
    if not word:
        return Rule.CASE  # the stops of ". . ."
    if word in JOINING:
        return Rule.JOIN
    if stop_at <= LONGEST_WORD_CHARS and _LIST_NUMBER.fullmatch("".join(held[:stop_at])):
        return Rule.JOIN
    if word in BEFORE_NUMBERS:
        return Rule.NUMBER
    if word in ENDING or word.lstrip("0123456789:") in ENDING:
        return Rule.ENDING
    if word in NUMBERED:
        return Rule.LABEL
    unit = word.lstrip("0123456789")
    if unit in AFTER_NUMBERS and (unit != word or _number_before(held, start)):
        return Rule.STARTER
    if unit in AMBIGUOUS and unit.islower() and len(unit) > 2 and unit.endswith("s"):
        return Rule.ENDING  # "5 mins.", "3 msgs."
    initial = len(word) == 1 and word.isupper()
    ambiguous = initial or unit in AMBIGUOUS or _DOTTED.fullmatch(word) is not None
    return Rule.STARTER if ambiguous else Rule.FREE


def _number_before(held: Sequence[str], start: int) -> bool:
    before = "".join(held[max(0, start - 4) : start]).rstrip(" -\xa0")
    return (
        before[-1:] == "/"
        or before[-1:].isnumeric()
        or before[-3:] in ("sq.", "cu.", "fl.", " sq", " cu", " fl")
    )


def _in_word(char: str) -> bool:
    return not char.isspace() and char not in _WORD_BREAKS


def begins_sentence(word: str, following: str, *, rule: Rule) -> bool:
    """Return whether a capitalized word after a gap begins a sentence under a rule."""
    if rule is Rule.ENDING:
        return word not in AFTER_TIMES
    initial = len(word) == 1 and (following == "." or (rule is Rule.LABEL and word != "I"))
    return word in STARTING and not initial


def may_be_glued(held: Sequence[str], stop_at: int, *, cut_at: int, rule: Rule) -> bool:
    """Return whether a capital after `held[:cut_at]` may begin a sentence without a space.

    The token before the stop must be a word or a number, no part of an address or of code.
    """
    if rule in (Rule.JOIN, Rule.NUMBER):
        return False
    marks = held[stop_at:cut_at]
    ellipsis = marks[0] in _DOTS and sum(mark in STOPS for mark in marks) > 1
    if ellipsis or not _GLUED_CLOSERS.issuperset(marks):
        return False
    if '"' in marks and held[:cut_at].count('"') % 2:  # it opens the next sentence
        return False
    start = stop_at
    while start > 0 and stop_at - start <= _LONGEST_TOKEN_CHARS and not held[start - 1].isspace():
        start -= 1
    token = "".join(held[start:stop_at]).strip("([{\"'“‘*_)]}”’»")
    named = rule is Rule.ENDING or _TOKEN_MARKS.isdisjoint(token) or _AMOUNT.fullmatch(token)
    return bool(named) and len(token) <= _LONGEST_TOKEN_CHARS and token[-1:].isalnum()


def glued_begins_sentence(word: str, following: str, *, before: str, rule: Rule) -> bool:
    """Return whether a capitalized word that touches the stop before it begins a sentence.

    `before` are the character before the stop and the stop; `following` is the character after
    the word and its own stop, if it has one.
    """
    after_dot = before[1] == "."
    name, _, _ = word.rstrip(".").partition("'")
    chained = word[-1] == "." and name in STARTING and following.isupper()
    if not (following.isspace() or following in _AFTER_GLUED or chained):
        return False
    if name.lower() in _GLUED_ENDINGS and after_dot:
        return False
    if rule in (Rule.ENDING, Rule.STARTER, Rule.LABEL):
        return begins_sentence(name, following, rule=rule)
    shouted = name.isupper() and (not after_dot or name in STARTING)
    alone = name in ("I", "A") and not before[0].isdigit()
    return alone or (len(name) > 1 and (name[1:].islower() or shouted))
