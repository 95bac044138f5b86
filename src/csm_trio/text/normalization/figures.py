"""All remaining digits: ordinals, fractions, ranges, scores, sizes, sums, plain numbers."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these patterns are about

import re
import unicodedata

from csm_trio.text.normalization.numbers import (
    NUMBER,
    NUMBER_STARTS,
    by_digit,
    number,
    ordinal,
    plural,
    year,
)
from csm_trio.text.normalization.rules import Rule, digits, spaced

_ORDINAL = re.compile(
    r"(?<![\w.,])(\d{1,3}(?:,\d{3}){1,5}+|\d{1,15}+)(?:st|nd|rd|th|ST|ND|RD|TH)(?!\w)"
)
_SIZE = re.compile(
    rf"{NUMBER_STARTS}({NUMBER})(?:×| ?x ?)({NUMBER})(?:(?:×| ?x ?)({NUMBER}))?(?!\w)"
)
_SIZE_PLURAL = re.compile(r"(?<![\w.,])(\d{1,3}) ?[x×] ?(\d{1,3})s(?!\w)")
_TIMES = re.compile(rf"{NUMBER_STARTS}({NUMBER})[x×](?!\w)")
_TIME_SPAN = re.compile(rf"{NUMBER_STARTS}({NUMBER})[x×]? ?- ?({NUMBER})[x×](?!\w)")
_BY = re.compile(
    r"(?<!\w)(\d{1,6}(?:\.\d{1,4})?(?:\"|'| ?(?:ft|in|cm|mm|m|yd|km|px|feet|inches)\b\.?)?|"
    r"\d{1,4} \d/\d\"?)"
    r" ?[x×] ?(?=\d{1,6}(?:\.\d{1,4})?(?: ?(?:\"|'|ft\b|in\b|cm\b|mm\b|m\b|yd\b|km\b|px\b|feet|"
    r"inches)))"
)
_RATIO = re.compile(r"(?<![\w.,:/-])(\d{1,4}):(\d{1,4})(?![\w:]|[.,]\d)")
_RANGE = re.compile(
    rf"{NUMBER_STARTS}({NUMBER})( ?)-( ?)({NUMBER})(?![\w]|[-/:.]\d)(?P<sum> ?=)?",
)
_SIGNED = re.compile(r"(?<![\w)\]°%-])([-+]) ?(?=\.?\d)")
_SIGNS = {"-": "minus", "+": "plus"}
_BLOCKS = re.compile(r"(?<![\w.,-])\d{1,40}+(?:-\d{1,40}+){2,40}+(?![\w-])")
_POINT = re.compile(r"(?<![\d.])\.(\d{1,40})(?!\d)")
_CARDINAL = re.compile(rf"(?<!\d){NUMBER}")
_POWER = re.compile("(?<=[a-zA-Z0-9)])([⁺⁻]?)([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})(?P<charge>[⁺⁻]?)")
_SCIENTIFIC = re.compile(
    rf"{NUMBER_STARTS}(\d{{1,9}}\.\d{{1,9}}[eE][-+]?|\d{{1,9}}[eE][-+])(\d{{1,3}})(?![\w.])"
)
_LIST_ITEM = re.compile(r"^(\d{1,3})\)(?= )")
_CARET = re.compile(r"(?<=[a-zA-Z0-9)])\^\(?([-+]?)(\d{1,9})\)?(?![\w.])")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9}")
_MASCULINE_DEGREE = re.compile(r"(?<=\d) ?º(?= ?[CF]\b)")
_MASCULINE_NUMBER = re.compile(r"\b[Nn]º ?(?=\d)")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]{1,9}")


_BETWEEN = re.compile(
    r"\b([Bb]etween (?!\d{3}-\d{4}\b)[$€£]?\d[\d:.,]{0,12}(?: ?[AaPp]\.?[Mm]\.?)?[%kKM]?)( ?- ?)"
    r"(?=[$€£]?\d[\d:.,]{0,12}(?![\d/-]))"
)


def _ordinal(match: re.Match[str]) -> str:
    return ordinal(int(match[1].replace(",", "")))


def _time_span(match: re.Match[str]) -> str:
    return f"{number(match[1])} to {number(match[2])} times"


def _by(match: re.Match[str]) -> str:
    """Read a size whose parts have a unit each: "10 ft x 12 ft"."""
    first = number(match[1]) if match[1].replace(".", "").isdecimal() else match[1]
    return f"{first} by "


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
    return f"{_SIGNS[match[1]]} "


def _cardinal(match: re.Match[str]) -> str:
    return spaced(match, number(match[0]))


def _point(match: re.Match[str]) -> str:
    return spaced(match, f"point {by_digit(match[1])}")


def _power(match: re.Match[str]) -> str:
    if match.groupdict().get("charge"):
        charge = {"⁺": "plus", "⁻": "minus"}[match["charge"]]
        return f" {number(unicodedata.normalize('NFKC', match[2]))} {charge}"
    sign = {"⁻": "minus ", "-": "minus "}.get(match[1], "")
    power = unicodedata.normalize("NFKC", match[2])
    spoken = f" to the {sign}{number(power)}"
    return spoken if sign else {"2": " squared", "3": " cubed"}.get(power, spoken)


def _scientific(match: re.Match[str]) -> str:
    """Read "3.5e-4" as "three point five times ten to the minus four"."""
    factor = match[1].rstrip("eE+-")
    sign = "minus " if match[1][-1] == "-" else ""
    return f"{number(factor)} times ten to the {sign}{number(match[2])}"


def _small_figure(match: re.Match[str]) -> str:
    return spaced(match, number(unicodedata.normalize("NFKC", match[0])))


FIGURES = (
    Rule(_ORDINAL, _ordinal),
    Rule(_SIZE, _size),
    Rule(_TIMES, _times),
    Rule(_RATIO, _ratio),
)
LAST_FIGURES = (
    Rule(re.compile(r"(?<=\d) ?/ ?(?=\d)"), " slash "),
    Rule(_BLOCKS, digits),
    Rule(_SIGNED, _signed),
    Rule(_RANGE, _range),
    Rule(_POINT, _point),
    Rule(_CARDINAL, _cardinal),
)
POWERS = (Rule(_POWER, _power), Rule(_CARET, _power), Rule(_SUPERSCRIPT, _small_figure))
SUBSCRIPTS = (
    Rule(_SUBSCRIPT, _small_figure),
    Rule(_MASCULINE_DEGREE, "°"),
    Rule(_MASCULINE_NUMBER, "number "),
)
SIZES = (
    Rule(_SIZE_PLURAL, lambda match: f"{number(match[1])} by {plural(number(match[2]))}"),
    Rule(_BY, _by),
    Rule(_TIME_SPAN, _time_span),
)
EXPRESSIONS = (Rule(_LIST_ITEM, lambda match: f"{match[1]}."), Rule(_SCIENTIFIC, _scientific))
BETWEEN = (Rule(_BETWEEN, lambda match: [(match[1], *match.span(1)), (" and ", *match.span(2))]),)
"""Comes before all rules of spans, which say "to"."""
