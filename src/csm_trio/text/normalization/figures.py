"""All remaining digits: ordinals, fractions, ranges, scores, sizes, sums, plain numbers."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these patterns are about

import re
import unicodedata

from csm_trio.text.normalization.numbers import (
    NUMBER,
    NUMBER_STARTS,
    VULGAR,
    by_digit,
    cardinal,
    fraction,
    number,
    ordinal,
    quantity,
    year,
)
from csm_trio.text.normalization.rules import Rule, digits, spaced

_IDIOM = re.compile(r"(?<![\w.,/-])(?:24/7|9/11|50/50|20/20)(?![\w/]|[.,]\d)")
_IDIOMS = {
    "24/7": "twenty four seven",
    "9/11": "nine eleven",
    "50/50": "fifty fifty",
    "20/20": "twenty twenty",
}
_ORDINAL = re.compile(
    r"(?<![\w.,])(\d{1,3}(?:,\d{3}){1,5}+|\d{1,15}+)(?:st|nd|rd|th|ST|ND|RD|TH)(?!\w)"
)
_OUT_OF = re.compile(r"(?<![\w.,/:-])(\d{1,3})/(10|100)(?![\w/]|[.,]\d)")
_MIXED_FRACTION = re.compile(r"(?<![\w.,/:-])(\d{1,6}) (\d{1,2}/\d{1,2})(?![\w/]|[.,]\d)")
_FRACTION = re.compile(r"(?<![\w.,/:-])(\d{1,3})/(\d{1,3})(?![\w/]|[.,]\d)")
_VULGAR = re.compile(rf"(\d{{0,15}})([{VULGAR}])")
_SIZE = re.compile(
    rf"{NUMBER_STARTS}({NUMBER})(?:×| ?x ?)({NUMBER})(?:(?:×| ?x ?)({NUMBER}))?(?!\w)"
)
_TIMES = re.compile(rf"{NUMBER_STARTS}({NUMBER})[x×](?!\w)")
_RATIO = re.compile(r"(?<![\w.,:/-])(\d{1,4}):(\d{1,4})(?![\w:]|[.,]\d)")
_RANGE = re.compile(
    rf"{NUMBER_STARTS}({NUMBER})( ?)-( ?)({NUMBER})(?![\w]|[-/:.]\d)(?P<sum> ?=)?",
)
_SIGNED = re.compile(r"(?<![\w)\]°%-])([-+±~≈<>≤≥]) ?(?=\.?\d)")
_SIGNS = {
    "-": "minus",
    "+": "plus",
    "±": "plus or minus",
    "~": "about",
    "≈": "about",
    "<": "less than",
    ">": "more than",
    "≤": "at most",
    "≥": "at least",
}
_COMPARED = re.compile(r"[\w)] \Z")
_BLOCKS = re.compile(r"(?<![\w.,-])\d{1,40}+(?:-\d{1,40}+){2,40}+(?![\w-])")
_POINT = re.compile(r"(?<![\d.])\.(\d{1,40})(?!\d)")
_CARDINAL = re.compile(rf"(?<!\d){NUMBER}")
_POWER = re.compile("(?<=[a-zA-Z0-9)])([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})")


def _ordinal(match: re.Match[str]) -> str:
    return ordinal(int(match[1].replace(",", "")))


def _out_of(match: re.Match[str]) -> str | None:
    above, below = int(match[1]), int(match[2])
    return f"{cardinal(above)} out of {cardinal(below)}" if above <= below else None


def _fraction(match: re.Match[str]) -> str | None:
    above, below = int(match[1]), int(match[2])
    if match[1][0] == "0" or match[2][0] == "0" or (below > 99 and below % 100):
        return f"{number(match[1])} slash {number(match[2])}"
    if above >= below and (above > 20 or below > 20 or below == 1):
        return f"{cardinal(above)} slash {cardinal(below)}"
    return fraction(above, below)


def _quantity(match: re.Match[str]) -> str:
    return spaced(match, quantity(match[0]))


def _size(match: re.Match[str]) -> str:
    return " by ".join(number(part) for part in match.groups() if part)


def _times(match: re.Match[str]) -> str:
    return f"{number(match[1])} time{'' if match[1] == '1' else 's'}"


def _ratio(match: re.Match[str]) -> str:
    return f"{number(match[1])} to {number(match[2])}"


def _range(match: re.Match[str]) -> str:
    first, last = match[1], match[4]
    if match["sum"]:
        return f"{number(first)} minus {number(last)} equals"
    if len(first) == len(last) == 4 and "," not in first + last and "." not in first + last:
        words = [year(int(part)) if int(part) % 1000 else number(part) for part in (first, last)]
        return " to ".join(words)
    return f"{number(first)} to {number(last)}"


def _signed(match: re.Match[str]) -> str:
    compares = match[1] in "<>≤≥" and _COMPARED.search(match.string, 0, match.start())
    return f"{'is ' if compares else ''}{_SIGNS[match[1]]} "


def _cardinal(match: re.Match[str]) -> str:
    return spaced(match, number(match[0]))


def _point(match: re.Match[str]) -> str:
    return spaced(match, f"point {by_digit(match[1])}")


def _power(match: re.Match[str]) -> str:
    power = unicodedata.normalize("NFKC", match[1])
    return {"2": " squared", "3": " cubed"}.get(power, f" to the {number(power)}")


IDIOMS = (Rule(_IDIOM, lambda match: _IDIOMS[match[0]]),)
FIGURES = (
    Rule(_ORDINAL, _ordinal),
    Rule(_OUT_OF, _out_of),
    Rule(_MIXED_FRACTION, _quantity),
    Rule(_FRACTION, _fraction),
    Rule(_VULGAR, _quantity),
    Rule(_SIZE, _size),
    Rule(_TIMES, _times),
    Rule(_RATIO, _ratio),
)
LAST_FIGURES = (
    Rule(_BLOCKS, digits),
    Rule(_SIGNED, _signed),
    Rule(_RANGE, _range),
    Rule(_POINT, _point),
    Rule(_CARDINAL, _cardinal),
)
POWERS = (Rule(_POWER, _power),)
