"""Fractions, and other figures with a slash or dash: "two thirds", "twenty four seven"."""

import re

from csm_trio.text.normalization.lexicon import words
from csm_trio.text.normalization.numbers import VULGAR, cardinal, fraction, number, quantity
from csm_trio.text.normalization.rules import Rule, is_label, spaced, tail
from csm_trio.text.spans import Replacement

_IDIOMS = {
    "24/7": "twenty four seven",
    "24-7": "twenty four seven",
    "24/7/365": "twenty four seven three sixty five",
    "24x7": "twenty four seven",
    "9/11": "nine eleven",
    "7/11": "seven eleven",
    "50/50": "fifty fifty",
    "50-50": "fifty fifty",
    "24-7-365": "twenty four seven three sixty five",
    "20/20": "twenty twenty",
    "20-20": "twenty twenty",
    "401(k)": "four oh one K",
    "401k": "four oh one K",
    "401(k)s": "four oh one Ks",
    "401ks": "four oh one Ks",
    "403(b)": "four oh three B",
    "501(c)(3)": "five oh one C three",
    "501c3": "five oh one C three",
    "1099": "ten ninety nine",
    "1099s": "ten ninety nines",
}
_IDIOM = re.compile(
    rf"(?<![\w.,/$€£-])(?<!to )(?<!from )(?<!scored )(?<!won )(?<!lost )"
    rf"(?:{'|'.join(re.escape(name) for name in sorted(_IDIOMS, key=len, reverse=True))})"
    r"(?![\w/(-]|[.,:]\d)"
)
_SPLIT = re.compile(r"(?<![\w.,/$€£-])(\d[05])([/-])(\d[05])(?![\w/%-]|[.,]\d)( [a-z]+)?")
_SPLIT_NOUNS = frozenset(
    words("""
    split mix ratio rule chance deal blend odds share custody partners partnership basis arrangement
""")
)
_SCORED = re.compile(r"\b(?:won|win|wins|lost|lose|beat|led|lead|leads|score|scored|from|to) \Z")
_NTHS = re.compile(r"(?<![\w.,/:-])(?:(\d{1,4})[ -])?(\d{1,3})/(\d{1,4})(?:st|nd|rd|th)s?(?!\w)")
_FRACTION_SPAN = re.compile(
    r"(?<![\w.,/:-])(\d{1,2}/\d{1,2}) ?- ?(\d{1,2}/\d{1,2})(?![\w/]|[.,-]\d)"
)
_HYPHEN_MIXED = re.compile(
    r"(?<![\w.,/:-])(\d{1,3})-(\d{1,2}/(?:2|3|4|5|6|8|16|32|64))(?![\w/]|[.,-]\d|-(?!inch|foot|mile))"
)
_OUT_OF = re.compile(r"(?<![\w.,/:-])(\d{1,3}|\d\.\d)/(5|10|100)(?![\w/]|[.,]\d)")
_STARS = re.compile(r"(?<![\w.,/:-])(\d(?:\.\d)?)/(5|10)(?= ?(?:stars?\b|rating\b))")
_PRESSURE = re.compile(r"(?<![\w.,/:$-])(\d{2,3})/(\d{2,3})(?![\w/-]|[.,]\d)")
_RATES = re.compile(r"(?<![\w.,/:-])(\d{1,4}(?:/\d{1,5}){1,3}) ?([KMG])(?:bps|bit/s|b/s)(?!\w)")
_RATE_UNITS = {"K": "kilobits", "M": "megabits", "G": "gigabits"}
_SERIES = re.compile(r"(?<![\w.,/:-])\d{1,4}(?:/\d{1,4}){2,4}+(?![\w/]|[.,]\d)")
_MIXED_FRACTION = re.compile(r"(?<![\w.,/:-])(\d{1,6}) (\d{1,2}/\d{1,2})(?![\w/]|[.,]\d)")
_RELEASES = (  # nouns before two numbers of which either will do: "Windows 10/11"
    "Windows|Python|Office|Android|iOS|iPhones?|iPads?|Galaxy|PlayStation|Xbox|PHP|Java|macOS|Angular|"
    "Excel|Grades|grades|Classes|Levels|Channels|Versions?|versions?|Ubuntu|Debian|React|Vue|Node"
)
_RELEASES_BEFORE = re.compile(rf"\b(?:{_RELEASES}) \Z")
_FRACTION = re.compile(r"(?<![\w.,/:-])(\d{1,3})/(\d{1,4})(?![\w/]|[.,]\d)")
_VULGAR = re.compile(rf"(\d{{0,15}})([{VULGAR}])")


def _hyphen_mixed(match: re.Match[str]) -> list[Replacement] | None:
    """Part a mixed number by a space: the rules of measures, which come later, read it so."""
    above, below = map(int, match[2].split("/"))
    if not 0 < above < below:
        return None
    whole, part = match.span(1), match.span(2)
    return [(match[1], *whole), (" ", whole[1], part[0]), (match[2], *part)]


def _out_of(match: re.Match[str]) -> str | None:
    above, below = float(match[1]), int(match[2])
    if above > below or (below == 5 and "." not in match[1]):
        return None
    return f"{number(match[1])} out of {cardinal(below)}"


def _split(match: re.Match[str]) -> str | None:
    """Read two parts of a hundred: "sixty forty"; a score and a rising span are none."""
    first, last, noun = int(match[1]), int(match[3]), match[4] or ""
    falls = first >= last and not _SCORED.search(tail(match.string, match.start(), 8))
    split = match[2] == "/" or falls or noun.strip() in _SPLIT_NOUNS
    return f"{cardinal(first)} {cardinal(last)}{noun}" if split and first + last == 100 else None


def _stars(match: re.Match[str]) -> str:
    return f"{number(match[1])} out of {cardinal(int(match[2]))}"


def _nths(match: re.Match[str]) -> str:
    spoken = fraction(int(match[2]), int(match[3]), after_whole=bool(match[1]))
    return f"{number(match[1])} and {spoken}" if match[1] else spoken


def _fraction_span(match: re.Match[str]) -> str:
    return f"{quantity(match[1])} to {quantity(match[2])}"


def _pressure(match: re.Match[str]) -> str | None:
    """Read a blood pressure: "one hundred twenty over eighty"."""
    above, below = int(match[1]), int(match[2])
    plausible = 80 <= above <= 250 and 40 <= below <= 150 and below % 100 and below < above
    return f"{cardinal(above)} over {cardinal(below)}" if plausible else None


def _series(match: re.Match[str]) -> str:
    """Read figures with slashes that are no fraction: "10/100/1000", "Windows 10/11"."""
    return " ".join(number(part) for part in match[0].split("/"))


def _rates(match: re.Match[str]) -> str:
    """Read the speeds of a network port: "ten one hundred megabits per second"."""
    speeds = " ".join(number(part) for part in match[1].split("/"))
    return f"{speeds} {_RATE_UNITS[match[2]]} per second"


def _fraction(match: re.Match[str]) -> str | None:
    above, below = int(match[1]), int(match[2])
    text, start = match.string, match.start()
    if is_label(text, start) or _RELEASES_BEFORE.search(tail(text, start, 16)):
        return f"{number(match[1])} {number(match[2])}"
    if below == above + 1 and below > 10 and below not in (16, 32, 64, 100):
        return f"{number(match[1])} {number(match[2])}"
    if match[1][0] == "0" or match[2][0] == "0" or (below > 99 and below % 100):
        return f"{number(match[1])} slash {number(match[2])}"
    if above >= below and (above > 20 or below > 20 or below == 1):
        return f"{cardinal(above)} slash {cardinal(below)}"
    return fraction(above, below)


def _quantity(match: re.Match[str]) -> str:
    return spaced(match, quantity(match[0]))


IDIOMS = (Rule(_IDIOM, lambda match: _IDIOMS[match[0]]), Rule(_SPLIT, _split))

PARTS = (
    Rule(_NTHS, _nths),
    Rule(_FRACTION_SPAN, _fraction_span),
    Rule(_HYPHEN_MIXED, _hyphen_mixed),
    Rule(_STARS, _stars),
    Rule(_RATES, _rates),
    Rule(_SERIES, _series),
)
FRACTIONS = (
    Rule(_OUT_OF, _out_of),
    Rule(_MIXED_FRACTION, _quantity),
    Rule(_PRESSURE, _pressure),
    Rule(_FRACTION, _fraction),
    Rule(_VULGAR, _quantity),
)
