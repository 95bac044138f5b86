"""Telephone numbers, spelled digit by digit, with a pause between blocks."""

import re
from collections.abc import Iterator

from csm_trio.text.normalization.rules import Rule, digits
from csm_trio.text.spans import Replacement

_EXTENSION = r"(?:(?P<comma>,?) ?(?P<word>[Ee]xt\.?|[Ee]xtension|x|#) ?(?P<extension>\d{1,6}))?"
_STARTS = r"(?<![\w.,$€£+/-])"
_ENDS = r"(?![\w%]|[-.,/:]\d)"

_US = re.compile(
    r"(?<![\w.,$€£+-])(?P<phone>(?:\+?1[-. ]?)?(?:\(\d{3}\)[ -]?|\d{3}[-. ])\d{3}[-. ]\d{4})"
    + _EXTENSION
    + r"(?![\w]|[-.,]\d)"
)
_TRUNK = re.compile(  # Britain, Australia, France, Germany and others: 9 to 12 digits from a 0
    rf"{_STARTS}(?P<phone>(?:\(0\d{{0,4}}\)|0\d{{1,4}})(?:[ -]\d{{2,7}}){{1,5}}|0\d(?:\.\d\d){{4}})"
    + _EXTENSION
    + _ENDS
)
_LOCAL = re.compile(rf"{_STARTS}(?P<phone>\d{{3}}-\d{{4}})" + _EXTENSION + _ENDS)
_BARE = re.compile(  # an Indian mobile, an Australian service number
    rf"{_STARTS}(?P<phone>[6-9]\d{{4}}[ -]\d{{5}}|1[38]00 \d{{3}} \d{{3}})" + _EXTENSION + _ENDS
)
_WORLD = re.compile(
    r"(?<![\w+])(?P<phone>(?:\+|00 ?(?=[1-9]))\d{1,3}+(?:[ .-]?\(?\d{1,12}+\)?){1,6})"
    + _EXTENSION
    + r"(?!\w)"
)
_CALLED = re.compile(
    r"\b(?:[Cc]all|[Dd]ial|[Tt]el(?:ephone)?\.?|[Pp]hone|[Mm]obile|[Ff]ax|[Ww]hats[Aa]pp|[Rr]ing|"
    r"[Tt]ext|[Nn]umber|[Rr]each)(?: (?:me|us|him|her|them|is))?(?: (?:at|on|is))?:? "
    r"(?P<phone>\d{1,6}(?:[ -]\d{2,6}){1,5}|\d{3}\.\d{4})" + _EXTENSION + _ENDS
)
_LETTERED = re.compile(
    r"(?<![\w-])(?P<phone>(?:1[-. ])?\(?8\d\d\)?[-. ](?:\d{3}[-. ])?)(?=[A-Z]{2})"
    r"|(?<![\w-])(?P<local>(?:\d{3}-)?\d{3}-)(?=[A-Z]{4}(?![\w-]))"
)


def _phone(match: re.Match[str]) -> Iterator[Replacement] | None:
    count = sum(char.isdecimal() for char in match["phone"])
    return _parts(match) if 7 <= count <= 15 else None


def _long_phone(match: re.Match[str]) -> Iterator[Replacement] | None:
    count = sum(char.isdecimal() for char in match["phone"])
    return _parts(match) if 9 <= count <= 12 else None


def _parts(match: re.Match[str]) -> Iterator[Replacement]:
    start = match.start("phone")
    yield match.string[match.start() : start], match.start(), start
    yield from digits(match, "phone")
    if match["extension"]:
        end, start = match.start("extension"), match.end("phone")
        yield ", extension ", start, end
        yield from digits(match, "extension")


def _lettered(match: re.Match[str]) -> Iterator[Replacement]:
    group = "phone" if match["phone"] else "local"
    yield from list(digits(match, group))[:-1]
    yield ", ", match.end() - 1, match.end()


PHONES = (
    Rule(_LETTERED, _lettered),
    Rule(_WORLD, _phone),
    Rule(_US, _phone),
    Rule(_TRUNK, _long_phone),
    Rule(_LOCAL, _phone),
    Rule(_BARE, _phone),
    Rule(_CALLED, _phone),
)
