"""Identifiers, spelled digit by digit: cards, orders, flights, postal codes, addresses."""

import re
from collections.abc import Iterator

from csm_trio.text.normalization.numbers import by_digit
from csm_trio.text.normalization.rules import Rule, digits
from csm_trio.text.spans import Replacement

_BLOCKS = re.compile(  # a social security or card number
    r"(?<![\w.,$€£/-])(?:\d{3}-\d\d-\d{4}|\d{4}([ -])\d{4}\1\d{4}(?:\1\d{1,4})?"
    r"|\d{4}[ -]\d{6}[ -]\d{5})(?![\w%]|[-.,/]\d)"
)
_MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])")
_UUID = re.compile(r"(?<![\w-])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![\w-])")
_IPV6 = re.compile(
    r"(?<![\w:.])(?:(?=[0-9A-Fa-f:]{0,39}::)(?:[0-9A-Fa-f]{1,4}:{1,2}|::){1,7}"
    r"|(?=[0-9A-Fa-f:]{0,39}[A-Fa-f])(?:[0-9A-Fa-f]{1,4}:){4,7})"
    r"(?:[0-9A-Fa-f]{1,4})?(?:/\d{1,3})?(?![\w:])"
)

# Nouns whose number is a name, not a count.
_CODE_NOUN = (
    r"[Oo]rders?|[Aa]ccounts?|[Rr]outing|[Rr]eference|[Rr]ef|[Cc]onfirmation|[Tt]racking|[Tt]ickets?|"
    r"[Cc]ases?|[Ii]nvoices?|[Cc]laims?|[Pp]olicy|[Mm]ember(?:ship)?|[Ss]erial|PIN|[Pp]in|[Cc]odes?|"
    r"CVV|CVC|CVV2|IDs?|[Cc]ustomer|ZIP|[Zz]ip|Zip|[Ee]xt\.?|[Ee]xtension|[Ll]icense|[Ll]icence|"
    r"[Ff]lights?(?: [A-Z]{2}(?= ))?|[Pp]ostcode|OTP|[Pp]asscode|[Pp]assword|[Aa]rea code|"
    r"[Bb]ooking|"
    r"[Rr]eservation|[Tt]ransaction|[Rr]eceipt|[Vv]erification|[Pp]asskey|SKU|EIN|SSN|TIN|ITIN|NPI|"
    r"VIN|UPC|ISBN|MRN|PNR|IBAN|[Bb]adge|[Ee]mployee|[Pp]assport|[Pp]romo|[Cc]oupon|[Vv]oucher|"
    r"[Pp]urchase [Oo]rder|[Ww]ork [Oo]rder|PO|RMA|[Ss]hipment|[Ff]our(?: digits)?|"
    r"[Dd]igits|[Ll]ast (?:4|four|5|five|6|six)|[Cc]ard|[Cc]heck|[Cc]heque|[Ee]xtensions|"
    r"[Dd]ocket|[Ss]ort|SIM|IMEI|[Bb]ox|DOT|NDC|[Ff]orm"
)
_LINK = (
    r"(?:'s)?(?: ?#(?= is| was|:))?(?: (?:[Nn]umbers?|[Nn]o\.?|[Nn]um|[Cc]odes?|IDs?|is|are|"
    r"was|of|digits|starting with|"
    r"starts with|[Ee]nding(?: in| with)?|ends (?:in|with)|[Rr]eference|[Pp]in|PIN|SSN|card|here)"
    r"(?![\w]))*+"
)
_DIGITS = r"\d{2,40}+(?:-\d{1,40}+){0,5}+"
_CHAIN = rf"(?:(?:,? and |,? or |, | & )#?{_DIGITS}(?![\w%]|[.,:/]\d| [a-z]+s\b)){{0,8}}+"
_NAMED = re.compile(
    rf"\b(?:{_CODE_NOUN}|[Ee]nding(?: in| with)?|[Ee]nds (?:in|with)){_LINK}:? ?#? ?[\"'(]?"
    rf"(?P<digits>{_DIGITS}(?![\w%]|[.,:/]\d|-\w){_CHAIN})"
    r"(?P<noun> (?!is\b|was\b|has\b|does\b|ships\b|shows\b|expires\b|as\b|this\b|goes\b|arrives\b)"
    r"(?:[a-z]{2,20}s|people)\b)?"
)
_COUNTED = re.compile(r"\b(?:of|is|are|was) \Z|\b(?:[Cc]ard|[Cc]heck|[Ff]orm|[Bb]ox|[Ff]our) \Z")
_CODED = re.compile(r"code|pin\b|cv[vc]|otp|digits|last|ssn|extension", re.IGNORECASE)
_CODE_BLOCKS = re.compile(
    r"\b(?:[Cc]ode|OTP|PIN|[Pp]in|[Pp]asscode|[Nn]umber|ID|[Rr]eference|[Cc]onfirmation)"
    r"(?: (?:is|was|of))?:? [\"']?(\d{2,4}(?: \d{2,4}){1,4})(?![\w%]|[.,:/]\d| \d)"
)
_DIALED = re.compile(
    r"\b(?:[Dd]ial|[Rr]ing|(?:[Cc]all|[Tt]ext|[Rr]each)(?: (?:me|us|him|her|them)(?: at)?)?|"
    r"number is) "
    r"(\d{3} \d{4}|911|988|999|112|[2-8]11|\d{5,6})(?![\w%-]|[.,:/]\d)"
)
_ENTERED = re.compile(
    r"\b(?:[Ee]nter|[Tt]ype(?: in)?|[Kk]ey in|[Dd]ial|[Pp]ress|[Pp]unch in|[Rr]eply|[Uu]se|[Ss]ay)"
    r"(?: (?:with|code|the code|the number|in))? [\"']?(\d{3,8})"
    r"(?=[\"']?(?:[,;:!?)]|\.(?!\d)|$| (?:to|for|and|then|now|when|on|at|into|followed|or|as|"
    r"if|star|"
    r"pound|hash)\b))"
)
_TEXTED = re.compile(
    r"\b(?:[Tt]ext|[Ss]end|SMS|[Rr]eply|[Mm]essage)\b[^.!?\d\n]{0,40} (?:to|at) (\d{3,8})"
    r"(?![\w%]|[.,:/]\d| (?:people|[a-z]+s)\b)"
)
_ZIP = re.compile(r"\b[A-Z]{2},? (\d{5}(?:-\d{4})?)(?![\w-]|[.,]\d)")
_ZIP_TOWN = re.compile(
    r"(?<=[a-z] )[A-Z][a-z]{2,15} (?!\d{3}00)(\d{5}(?:-\d{4})?)(?=[,;!?)]|\.(?!\d)|$)"
    r"|(?<=[a-z], )[A-Z][a-z]{2,15} (\d{5})(?=[,;!?)]|\.(?!\d)|$)"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: [\dA-Z]{4}){2,7}(?: [\dA-Z]{1,4})?(?!\w)")
_CODE_FIRST = re.compile(
    r"(?<![\w.,$€£-])(\d{3,8})(?=[\"']? (?:is|was) (?:your|the|my) (?:[\w-]{1,20} ){0,3}"
    r"(?:code|PIN|OTP|passcode|password|ID|number)\b)"
)
_ZIP_AREA = re.compile(
    r"\b(?:in|near|around|from|to|at) (?!\d{3}00)"
    r"(?P<digits>\d{5}(?:-\d{4})?(?:(?:,? and |,? or |, )\d{5}(?!\d)){0,8})"
    r"(?=[,;!?)]|\.(?!\d)|$| (?:and|or|now|area|today|is|so|with|where|because|for|zip|in|by|"
    r"last|this|"
    r"next|since|on|at)\b)"
)
_HASH_DIGITS = re.compile(
    r"(?<![\w&])# ?(\d{4,40}+(?:-\d{1,40}+){0,5}+|\d{1,3}(?:-\d{1,40}+){1,5}+)(?![\w]|[.,]\d)"
)
_FLIGHT = re.compile(
    r"\b(?:AA|AC|AF|AS|AY|BA|DL|EK|EY|IB|JL|KL|LH|LX|NH|NK|OS|QF|QR|SK|SQ|TK|UA|VS|WN) (\d{2,4})"
    r"(?![\w%]|[.,:/]\d)"
)
_RUN = re.compile(r"\d+|#")


def _digits_of_1(match: re.Match[str]) -> Iterator[Replacement]:
    start, end = match.span(1)
    sign = match.string.find("#", match.start(), start) if "#" in match[0] else start
    yield match.string[match.start() : sign], match.start(), sign
    yield "", sign, start
    yield from digits(match, 1)
    yield match.string[end : match.end()], end, match.end()


def _named(match: re.Match[str]) -> Iterator[Replacement] | None:
    """Spell the numbers after a noun; a count of something is none."""
    start, end = match.span("digits")
    first = re.match(r"[\d-]+", match["digits"])
    figures = first[0].replace("-", "") if first else ""
    before = match.string[match.start() : start]
    called = "#" in before or ":" in before or "umber" in before or figures[:1] == "0"
    if len(figures) < (5 if first and "-" in first[0] else 3) and figures[:1] != "0":
        return None
    if match["noun"] and not called:
        return None
    if len(figures) < 4 and not called and _COUNTED.search(before) and not _CODED.search(before):
        return None
    return _spelled_runs(match, start, end)


def _zip_area(match: re.Match[str]) -> Iterator[Replacement]:
    return _spelled_runs(match, *match.span("digits"))


def _sign(text: str, at: int, end: int) -> Iterator[Replacement]:
    """Leave out the sign of "order #5"; name that of "order # is 5" and "order #: 5"."""
    touched = at > 0 and text[at - 1].isalnum()
    glue = " " if touched else ""
    if text[at + 1 : end].strip(" \"'("):
        yield f"{glue}number", at, at + 1
        yield text[at + 1 : end], at + 1, end
    else:
        yield glue, at, end


def _spelled_runs(match: re.Match[str], start: int, end: int) -> Iterator[Replacement]:
    text = match.string
    sign = text.find("#", match.start(), start)
    head = start if sign < 0 else sign
    yield text[match.start() : head], match.start(), head
    if head < start:
        yield from _sign(text, head, start)
    done = start
    for run in _RUN.finditer(text, start, end):
        between = text[done : run.start()]
        if between:
            yield ", " if between == "-" else between, done, run.start()
        done = run.end()
        if run[0] == "#":
            yield "", *run.span()
            continue
        for at in range(*run.span()):
            yield f"{' ' if at > run.start() else ''}{by_digit(text[at])}", at, at + 1
    yield text[done : match.end()], done, match.end()


def _spelled(match: re.Match[str]) -> Iterator[Replacement]:
    """Spell letters and digits one by one, with a comma between blocks."""
    glue = ""
    for at in range(*match.span()):
        char = match.string[at]
        if char.isalnum():
            yield f"{glue}{by_digit(char) or char.upper()}", at, at + 1
            glue = " "
        else:
            yield "", at, at + 1
            glue = ", "


def _ipv6(match: re.Match[str]) -> Iterator[Replacement]:
    names = {":": "colon", "/": "slash"}
    for at in range(*match.span()):
        char = match.string[at]
        glue = " " if at > match.start() else ""
        yield f"{glue}{names.get(char) or by_digit(char) or char.upper()}", at, at + 1


def _hash_digits(match: re.Match[str]) -> Iterator[Replacement]:
    start = match.start(1)
    touched = match.start() > 0 and match.string[match.start() - 1] not in " (\"'"
    yield " number" if touched else "number", match.start(), match.start() + 1
    yield " ", match.start(), start
    yield from digits(match, 1)


HEXADECIMAL = (
    Rule(_MAC, _spelled),
    Rule(_UUID, _spelled),
    Rule(_IBAN, _spelled),
    Rule(_IPV6, _ipv6),
)
CODES = (
    Rule(_BLOCKS, digits),
    Rule(_CODE_BLOCKS, _digits_of_1),
    Rule(_NAMED, _named),
    Rule(_DIALED, _digits_of_1),
    Rule(_ENTERED, _digits_of_1),
    Rule(_TEXTED, _digits_of_1),
    Rule(_FLIGHT, _digits_of_1),
    Rule(_ZIP, _digits_of_1),
    Rule(_ZIP_TOWN, _digits_of_1),
    Rule(_CODE_FIRST, digits),
    Rule(_ZIP_AREA, _zip_area),
    Rule(_HASH_DIGITS, _hash_digits),
)
