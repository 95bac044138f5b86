"""Abbreviations, Roman numerals and signs between words."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these patterns are about

import re
from collections.abc import Mapping

from csm_trio.text.normalization.lexicon import ABBREVIATIONS, NUMBERED, STREETS, TITLES
from csm_trio.text.normalization.numbers import cardinal, ordinal, roman
from csm_trio.text.normalization.rules import Rule, ends_sentence, spaced, within
from csm_trio.text.spans import Replacement


def _any(names: Mapping[str, str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_LATIN = re.compile(
    r"(?<![\w.])(?:(e\.g\.|E\.g\.|eg\.)|(i\.e\.|I\.e\.|ie\.)|(a\.k\.a\.|aka)|(w/o)|(w/))"
    r"(?=[\s,(]|$)"
)
_LATIN_WORDS = ("for example", "that is", "also known as", "without", "with")
_NUMBERED = re.compile(rf"(?<![\w.])({_any(NUMBERED)})\. ?(?=#? ?\d)")
_STREET = re.compile(
    rf"(?:(?<=[a-z] )|(?<=\d(?:st|nd|rd|th) ))(?P<name>{_any(STREETS)})\b(?P<stop>\.?)"
)
_COMPASS = re.compile(r"(?<=\d )([NSEW])\.?(?= [A-Z][a-z])")
_COMPASS_NAMES = {"N": "North", "S": "South", "E": "East", "W": "West"}
_TITLE = re.compile(rf"(?<![\w.])(?:(Mr|Mrs|Ms|Messrs)\.|({_any(TITLES)})\.(?= ?[A-Z]))")
_VERSUS = re.compile(r"(?<=\w )(?:vs\.?|v\.)(?= \w)")
_ABBREVIATION = re.compile(rf"(?<![\w.])({_any(ABBREVIATIONS)})\.(?!\w)")
_PLAIN_TITLE = re.compile(r"\b(?:(Mr|Mrs)|(Dr))(?= [A-Z][a-z])")

_COUNTED = (
    "Chapter|Part|Act|Scene|Book|Volume|Section|Phase|Type|Stage|Level|Class|Figure|Appendix|Title|"
    "Article|Episode|Season|War|Bowl|Grade|Tier|Mark|Rocky|Fantasy|Schedule|Table|Group|Round|Game|"
    "Vatican|Apollo|chapter|part|act|scene|book|volume|section|phase|type|stage|level|class|"
    "appendix|article|episode|grade|tier"
)
_ROMAN_COUNT = re.compile(rf"\b(?:{_COUNTED}) ([IVXLCM]{{1,9}})(?![\w'.]\w|\w|')")
_NAMES = (
    "Henry|Louis|Charles|George|Edward|Elizabeth|James|William|Richard|John|Mary|Philip|Frederick|"
    "Nicholas|Alexander|Catherine|Napoleon|Pius|Paul|Benedict|Leo|Gregory|Clement|Innocent|Urban|"
    "Francis|Victor|Otto|Ivan|Peter|Ferdinand|Alfonso|Boniface|Julius|Sixtus|Ramses|Ptolemy|Umberto"
    "|Christian|Gustav|Carl|Harald|Haakon|Olav|Albert|Leopold|Wilhelm|Friedrich|Joseph|Maximilian"
)
_ROMAN_NAME = re.compile(
    rf"\b((?:King|Queen|Pope|Emperor|Tsar|Czar|Saint|Empress)? ?)\b(?:{_NAMES})(?: Paul)?"
    r" ([IVX]{1,6})(?![\w']|\.\w)"
)
_VERBS = re.compile(
    r" (?:am|have|had|will|would|can|could|think|like|love|want|need|know|mentioned|said|told|sent|"
    r"was|saw|got|did|do|don|didn|won|can|should|might|may|must|hope|mean|guess|believe|remember)\b"
)

_BARE_UNITS = re.compile(r"(?<=\w )(hrs|mins|lbs)(?![\w.])")
_BARE_UNIT_NAMES = {"hrs": "hours", "mins": "minutes", "lbs": "pounds"}
# A telephone's keys, replaced before Markdown marks are removed.
_KEY = re.compile(
    r"\b(?:[Pp]ress|[Dd]ial|[Hh]it|[Tt]ouch|[Ee]nter)(?:ing)?(?: the)? ([*#])(\d{0,4}(?!\w))"
    r"(?: (?:or|and|then) ([*#])(?!\w))?"
)
_KEYS = {"*": "star", "#": "pound"}
_AMPERSAND = re.compile(r" ?(?:&+)(?: ?&+)* ?")
_PLUS_NAME = re.compile(r"(?<=[^\W\d_])\+\+(?!\w)")
_SHARP = re.compile(r"(?<![\w])([A-GJ])#(?!\w)")
_BETWEEN = re.compile(r"(?<=[\w)]) ?([+×÷=≠]) ?(?=[\w(])")
_BETWEEN_WORDS = {
    "+": "plus",
    "×": "times",
    "÷": "divided by",
    "=": "equals",
    "≠": "does not equal",
    "*": "times",
    "<": "is less than",
    ">": "is more than",
    "≤": "is at most",
    "≥": "is at least",
    "/": "divided by",
}
_SPACED_OPERATOR = re.compile(r"(?<=[\w)]) ([*<>≤≥]) (?=[\w(])")
_TRAILING_PLUS = re.compile(r"(?<=\w)\+(?!\w)")
_LONE_AT = re.compile(r"(?<= )@(?= )")
_SECTION = re.compile(r"§+ ?")
_SNAKE = re.compile(r"(?<=[^\W_])_+(?=[^\W_])")
_LONE_PERCENT = re.compile(r"(?<=\w )%(?!\w)")


def _stop(match: re.Match[str]) -> str:
    return "." if ends_sentence(match.string, match.end()) else ""


def _latin(match: re.Match[str]) -> str:
    at = next(at for at, group in enumerate(match.groups()) if group)
    words = _LATIN_WORDS[at]
    if match[0][0].isupper():
        words = words.capitalize()
    return spaced(match, words)


def _numbered(match: re.Match[str]) -> str:
    words = NUMBERED[match[1]]
    return f"{words.capitalize() if match[1][0].isupper() else words} "


def _street(match: re.Match[str]) -> str | None:
    """Expand an abbreviation after a name as a street, unless it may be a title.

    "12 Elm Dr. Apt. 4" is a street whatever follows; "On Elm Dr." is one if no name does.
    """
    before = match.string[max(0, match.start() - 60) : match.start()]
    named = _NAME_FOLLOWS.match(match.string, match.end())
    if not _ADDRESS_BEFORE.search(before) and (named or not _PLACE_BEFORE.search(before)):
        return None
    return f"{STREETS[match['name']]}{_stop(match) if match['stop'] else ''}"


_COMPASS_BEFORE = r"(?:(?:[NSEW]|North|South|East|West)\.? )?"
_ADDRESS_BEFORE = re.compile(
    rf"\d[\w-]{{0,6}} {_COMPASS_BEFORE}(?:[A-Z][\w'-]{{1,20}} ){{1,3}}$|\d(?:st|nd|rd|th) $"
)
_PLACE_BEFORE = re.compile(
    r"(?:\b(?:[Oo]n|[Aa]t|and|of|[Nn]ear|off) |^|[.,;] )"
    rf"{_COMPASS_BEFORE}(?:[A-Z][\w'-]{{1,20}} ){{1,3}}$"
)
_NAME_FOLLOWS = re.compile(r" [A-Z]")


def _title(match: re.Match[str]) -> str:
    return TITLES[match[1] or match[2]]


def _abbreviation(match: re.Match[str]) -> str:
    return f"{ABBREVIATIONS[match[1]]}{_stop(match)}"


def _roman_count(match: re.Match[str]) -> list[Replacement] | None:
    value = roman(match[1])
    if value is None or value > 100 or _is_pronoun(match, 1):
        return None
    return within(match, 1, cardinal(value))


def _roman_name(match: re.Match[str]) -> list[Replacement] | None:
    value = roman(match[2])
    if value is None or (match[2] == "I" and (not match[1] or _is_pronoun(match, 2))):
        return None
    return within(match, 2, f"the {ordinal(value).title()}")


def _is_pronoun(match: re.Match[str], group: int) -> bool:
    return match[group] == "I" and _VERBS.match(match.string, match.end()) is not None


def _and(match: re.Match[str]) -> str:
    before, after = match.start() > 0, match.end() < len(match.string)
    return f"{' ' if before else ''}and{' ' if after else ''}"


def _key(match: re.Match[str]) -> list[Replacement]:
    start, end = match.span(1)
    parts = [
        (match.string[match.start() : start], match.start(), start),
        (_KEYS[match[1]] + (" " if match[2] else ""), start, end),
    ]
    if match[2]:
        parts.append((" ".join(match[2]), *match.span(2)))
    if match[3]:
        start, end = match.span(3)
        parts += [
            (match.string[match.end(2) : start], match.end(2), start),
            (_KEYS[match[3]], start, end),
        ]
    return parts


def _between(match: re.Match[str]) -> str:
    return f" {_BETWEEN_WORDS[match[1]]} "


ABBREVIATED = (
    Rule(_LATIN, _latin),
    Rule(_NUMBERED, _numbered),
    Rule(_COMPASS, lambda match: _COMPASS_NAMES[match[1]]),
    Rule(_STREET, _street),
    Rule(_TITLE, _title),
    Rule(_PLAIN_TITLE, _title),
    Rule(_VERSUS, "versus"),
    Rule(_ABBREVIATION, _abbreviation),
)
ROMANS = (Rule(_ROMAN_COUNT, _roman_count), Rule(_ROMAN_NAME, _roman_name))
KEYS = (Rule(_KEY, _key),)
SIGNS = (
    Rule(_AMPERSAND, _and),
    Rule(_PLUS_NAME, " plus plus"),
    Rule(_SHARP, lambda match: f"{match[1]} sharp"),
    Rule(_BETWEEN, _between),
    Rule(_SPACED_OPERATOR, _between),
    Rule(_TRAILING_PLUS, " plus"),
    Rule(_BARE_UNITS, lambda match: _BARE_UNIT_NAMES[match[1]]),
    Rule(_LONE_AT, "at"),
    Rule(_SECTION, "section "),
    Rule(_LONE_PERCENT, "percent"),
    Rule(_SNAKE, " "),
)
