"""Identifiers, spelled digit by digit: telephones, cards, orders, flights, versions."""

import re
from collections.abc import Iterator

from csm_trio.text.normalization.numbers import by_digit, number
from csm_trio.text.normalization.rules import Rule, digits, spaced
from csm_trio.text.spans import Replacement

_EXTENSION = r"(?:(?P<comma>,?) ?(?P<word>[Ee]xt\.?|[Ee]xtension|x|#) ?(?P<extension>\d{1,6}))?"
_US_PHONE = re.compile(
    r"(?<![\w.,$€£+-])(?P<phone>(?:\+?1[-. ]?)?(?:\(\d{3}\)[ -]?|\d{3}[-. ])\d{3}[-. ]\d{4})"
    + _EXTENSION
    + r"(?![\w]|[-.,]\d)"
)
_TRUNK_PHONE = re.compile(
    r"(?<![\w.,$€£+/-])(?P<phone>\(?0\d{2,4}\)?[ -]\d{3,4}[ -]\d{3,4})"
    + _EXTENSION
    + r"(?![\w%]|[-.,/]\d)"
)
_LOCAL_PHONE = re.compile(
    r"(?<![\w.,$€£+/-])(?P<phone>\d{3}-\d{4})" + _EXTENSION + r"(?![\w%]|[-.,/]\d)"
)
_WORLD_PHONE = re.compile(
    r"(?<![\w+])(?P<phone>\+\d{1,3}+(?:[ .-]?\(?\d{1,12}+\)?){1,6})" + _EXTENSION + r"(?!\w)"
)
_WORD_PHONE = re.compile(r"(?<![\w-])(1-8\d\d)-(?=[A-Z]{2})|(?<![\w-])(8\d\d)-(?=[A-Z]{4})")
_BLOCKS = re.compile(  # a social security or card number
    r"(?<![\w.,$€£/-])(?:\d{3}-\d\d-\d{4}|\d{4}([ -])\d{4}\1\d{4}(?:\1\d{1,4})?)(?![\w%]|[-.,/]\d)"
)
_NAMED = re.compile(
    r"\b(?:[Oo]rder|[Aa]ccount|[Rr]outing|[Rr]eference|[Cc]onfirmation|[Tt]racking|[Tt]icket|[Cc]ase"
    r"|[Ii]nvoice|[Cc]laim|[Pp]olicy|[Mm]ember|[Ss]erial|PIN|[Pp]in|[Cc]ode|CVV|CVC|ID|[Cc]ustomer"
    r"|ZIP|[Zz]ip|[Ee]xt\.?|[Ee]xtension|[Ee]nding(?: in)?|[Ll]icense"
    r"|[Ff]light(?: [A-Z]{2}(?= ))?|[Pp]ostcode|OTP"
    r"|[Pp]asscode|[Pp]assword|[Aa]rea code)"
    r"(?: (?:[Nn]umber|[Nn]o\.|[Cc]ode|ID|is))*+:? ?#? ?(\d{3,}+(?:-\d{4})?)(?![\w%]|[.,:/]\d)"
)
_DIALED = re.compile(
    r"\b(?:[Dd]ial|(?:[Cc]all|[Tt]ext|[Rr]each)(?: (?:me|us|him|her|them)(?: at)?)?|number is) "
    r"(\d{3} \d{4}|911|988|999|112|[2-8]11|\d{5,6})(?![\w%-]|[.,:/]\d)"
)
_ZIP = re.compile(r"\b[A-Z]{2} (\d{5}(?:-\d{4})?)(?![\w-]|[.,]\d)")
_LONG = re.compile(r"(?<![\w.,$€£-])(?<!\d[:/])(0\d+|\d{7,}+)(?![\w%]|[.,/:-]\d)")
_VERSION = re.compile(
    r"(?<![\w.])(?:(?P<v>[vV]\.?(?=\d)))?(?P<parts>\d{1,5}(?:\.\d{1,5}){0,4})(?![\w]|\.\d)"
)
_NUMBER_SIGN = re.compile(r"(?<![\w&])# ?(?=\d)")
_FLIGHT = re.compile(
    r"\b(?:AA|AC|AF|AS|AY|BA|DL|EK|EY|IB|JL|KL|LH|LX|NH|NK|OS|QF|QR|SK|SQ|TK|UA|VS|WN) (\d{2,4})"
    r"(?![\w%]|[.,:/]\d)"
)
_POINT_IN_ID = re.compile(r"(?<=\d)\.(?=\d{1,9}[A-Za-z])")
_MIXED = re.compile(r"(?<![^\W_])(?<![^\W_]-)[^\W_]++(?:-[^\W_]++){0,8}")
_PART = re.compile(r"\d+|\D")


def _phone(match: re.Match[str]) -> Iterator[Replacement] | None:
    count = sum(char.isdecimal() for char in match["phone"])
    return _phone_parts(match) if 7 <= count <= 15 else None


def _phone_parts(match: re.Match[str]) -> Iterator[Replacement]:
    yield from digits(match, "phone")
    if match["extension"]:
        end, start = match.start("extension"), match.end("phone")
        yield ", extension ", start, end
        yield from digits(match, "extension")


def _word_phone(match: re.Match[str]) -> Iterator[Replacement]:
    yield from digits(match, 1 if match[1] else 2)
    yield ", ", match.end() - 1, match.end()


def _digits_of_1(match: re.Match[str]) -> Iterator[Replacement]:
    start, end = match.span(1)
    sign = match.string.find("#", match.start(), start) if "#" in match[0] else start
    yield match.string[match.start() : sign], match.start(), sign
    yield "", sign, start
    yield from digits(match, 1)
    yield match.string[end : match.end()], end, match.end()


def _long(match: re.Match[str]) -> Iterator[Replacement] | None:
    """Spell a long number without separators digit by digit, unless it is round."""
    if match[1][0] != "0" and match[1].endswith("000") and len(match[1]) <= 15:
        return None
    return digits(match, 1)


def _number_sign(match: re.Match[str]) -> str:
    return spaced(match, "number ").replace("  ", " ")


def _version(match: re.Match[str]) -> str | None:
    parts = match["parts"].split(".")
    if match["v"] is None and len(parts) < 3:
        return None
    spoken = " point ".join(map(number, parts))
    return f"version {spoken}" if match["v"] else spoken


def _mixed(match: re.Match[str]) -> Iterator[Replacement] | None:
    """Spell a token of letters and digits part by part.

    Words and numbers joined by dashes stay as they are, unless the words are capitals. Up to two
    digits beside letters are a number ("MP three", "COVID nineteen"); more are spelled.
    """
    token = match[0]
    groups = [part for part in _PART.findall(token) if part.isdecimal()]
    if not groups or not any(char.isalpha() for char in token):
        return None
    if all(part.isdecimal() or part.isalpha() for part in token.split("-")):
        if not token.isupper():
            return None
        counts = all(len(group) <= 3 or group.endswith("00") for group in groups)
        return _mixed_parts(match, max_digits=4 if counts else 0)
    return _mixed_parts(match, max_digits=2 if len(groups) == 1 else 0)


def _mixed_parts(match: re.Match[str], *, max_digits: int) -> Iterator[Replacement]:
    """Return numbers of up to `max_digits` digits as words, others spelled."""
    glue = ""
    letters = True
    for part in _PART.finditer(match.string, *match.span()):
        text, span = part[0], part.span()
        if text.isdecimal():
            spoken = by_digit(text) if len(text) > max_digits else number(text)
            yield f"{glue or (' ' if span[0] > match.start() else '')}{spoken}", *span
            glue, letters = "", False
        elif text == "-":
            glue = " " if max_digits else ", "
            yield "", *span
        elif glue or not letters:
            yield f"{glue or ' '}{text}", *span
            glue, letters = "", True
        else:
            yield text, *span


CODES = (
    Rule(_US_PHONE, _phone),
    Rule(_TRUNK_PHONE, _phone),
    Rule(_LOCAL_PHONE, _phone),
    Rule(_WORLD_PHONE, _phone),
    Rule(_WORD_PHONE, _word_phone),
    Rule(_BLOCKS, digits),
    Rule(_NAMED, _digits_of_1),
    Rule(_DIALED, _digits_of_1),
    Rule(_FLIGHT, _digits_of_1),
    Rule(_ZIP, _digits_of_1),
)
IDS = (
    Rule(_VERSION, _version),
    Rule(_NUMBER_SIGN, _number_sign),
    Rule(_LONG, _long),
    Rule(_POINT_IN_ID, " point "),
    Rule(_MIXED, _mixed),
)
