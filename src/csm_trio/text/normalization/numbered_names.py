"""Names with numbers in them: versions, models, their plurals, and long numbers."""

import re
from collections.abc import Iterator

from csm_trio.text.normalization.numbers import by_digit, cardinal, number, plural
from csm_trio.text.normalization.rules import Rule, digits, spaced
from csm_trio.text.spans import Replacement

_LONG = re.compile(r"(?<![\w.,$€£-])(?<!\d[:/])(0\d+|\d{7,}+)(?![\w%]|[.,/:-]\d)")
_VERSION = re.compile(
    r"(?<![\w.])(?<![^\W_]-)(?:(?P<v>[vV]\.?(?=\d)))?(?P<parts>\d{1,5}(?:\.\d{1,5}){0,4})(?![\w]|\.\d)"
)
_NUMBER_SIGN = re.compile(r"(?<![\w&])# ?(?=\d)")
_PLURAL = re.compile(
    r"(?<![\w.$-])(?P<name>[A-Z][A-Za-z]{0,5}-?|(?:Boeing|Airbus|Porsche|BMW|Form) )?"
    r"(?P<number>\d{1,4})s(?!\w)"
)
_PRODUCT = re.compile(
    r"(?<!\w)(?P<before>[a-z'-]{1,20} )?(?P<name>(?:[A-Z]|i[A-Z])[A-Za-z]{2,20} )"
    r"(?P<number>\d{1,4})s(?!\w)"
)
_POWERS_OF_TEN = {
    "10": "tens",
    "100": "hundreds",
    "1000": "thousands",
    "1,000": "thousands",
    "10,000": "tens of thousands",
    "100,000": "hundreds of thousands",
    "1,000,000": "millions",
}
_TENS = re.compile(r"(?<![\w.,$])(10{1,3}|10{0,2},000(?:,000)?)s(?= of\b)|(?<=[Tt]he )(100)s(?!\w)")
_BANKNOTES = re.compile(
    r"\b(?P<before>(?:paid|pay|cash|bills|change) in )(?P<number>5|10|20|50|100)s(?!\w)"
)
_SEVERAL = re.compile(
    r"\b(?P<before>(?:[Tt]he|[Tt]hese|[Tt]hose|[Mm]y|[Oo]ur|[Ss]ome|[Tt]wo|[Tt]hree|[Ff]our|"
    r"[Ff]ive|[Ff]ew) )"
    r"(?P<number>[1-9]\d[1-9])s(?!\w)"
)
_MAKER = re.compile(r"\b((?:Boeing|Airbus A) ?)([1-9]\d\d)(?![\w%]|[.,]\d)")
_PLANE = re.compile(r"7[0-9]7")
_POINT_IN_ID = re.compile(r"(?<=\d)\.(?=\d{1,9}[A-Za-z])")
_MIXED = re.compile(
    r"(?<![^\W_])(?<![^\W_]-)(?:[^\W\d_][^\W_]*+(?:(?:-|(?<=\d)\.(?=\d))[^\W_]++){0,8}"
    r"|[^\W_]++(?:-[^\W_]++){0,8})"
)
_PART = re.compile(r"\d+|\D")


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


def _plural(match: re.Match[str]) -> str | None:
    """Read a name that ends in a number, in the plural: "F-150s", "747s"."""
    name, figures = match["name"] or "", match["number"]
    if not name and not _PLANE.fullmatch(figures):
        return None
    return f"{name.rstrip('- ')} {_by_hundreds(figures)}".strip()


def _by_hundreds(figures: str) -> str:
    """Return the plural of a number as people name a thing: "one fifties", "five oh ones"."""
    hundreds, rest = divmod(int(figures), 100)
    words = cardinal(int(figures))
    if hundreds and rest:
        words = f"{cardinal(hundreds)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"
    return plural(words)


def _maker(match: re.Match[str]) -> str:
    hundreds, rest = divmod(int(match[2]), 100)
    last = cardinal(rest) if rest >= 10 else f"oh {cardinal(rest)}" if rest else "hundred"
    glue = "" if match[1].endswith(" ") else " "
    return f"{match[1]}{glue}{cardinal(hundreds)} {last}"


def _several(match: re.Match[str]) -> str:
    return f"{match['before']}{_by_hundreds(match['number'])}"


def _product(match: re.Match[str]) -> str | None:
    """Read a product's number in the plural: "two iPhone 15s"; "Wait 30s" is none."""
    if match["before"] is None and match["name"][0] != "i" and len(match["number"]) < 3:
        return None
    return f"{match['before'] or ''}{_plural(match)}"


def _mixed(match: re.Match[str]) -> Iterator[Replacement] | None:
    """Spell a token of letters and digits part by part.

    Words and numbers joined by dashes stay as they are, unless the words are capitals. Up to two
    digits beside letters are a number ("MP three", "COVID nineteen"); more are spelled.
    """
    token = match[0]
    groups = [part for part in _PART.findall(token) if part.isdecimal()]
    if not groups or not any(char.isalpha() for char in token):
        return None
    if all(part.isdecimal() or part.isalpha() for part in re.split("[-.]", token)):
        if not token.isupper():
            return None
        counts = all(len(group) <= 3 or group.endswith("00") for group in groups)
        return _mixed_parts(match, max_digits=4 if counts else 0)
    first = token.partition("-")[0].rstrip("0123456789.")
    named = first.isalpha() and len(first) > 2 and not first.isupper()
    unit = token[:-1].isdecimal() and len(token) == 4  # "suite 200W"
    counts = len(groups) == 1 or "." in token
    return _mixed_parts(match, max_digits=3 if unit else 2 * counts, named=named)


def _mixed_parts(
    match: re.Match[str], *, max_digits: int, named: bool = False
) -> Iterator[Replacement]:
    """Return numbers of up to `max_digits` digits as words, others spelled."""
    glue = ""
    letters = True
    for part in _PART.finditer(match.string, *match.span()):
        text, span = part[0], part.span()
        if text.isdecimal():
            spoken = by_digit(text) if len(text) > max_digits or text[0] == "0" else number(text)
            yield f"{glue or (' ' if span[0] > match.start() else '')}{spoken}", *span
            glue, letters = "", False
        elif text == "-":
            glue = " " if max_digits or named else ", "
            yield "", *span
        elif text == ".":
            yield " point", *span
        elif glue or not letters:
            yield f"{glue or ' '}{text}", *span
            glue, letters = "", True
        else:
            yield text, *span


POWERS_OF_TEN = (Rule(_TENS, lambda match: _POWERS_OF_TEN[match[1] or match[2]]),)
PLURALS = (
    Rule(_BANKNOTES, lambda match: f"{match['before']}{plural(cardinal(int(match['number'])))}"),
    Rule(_MAKER, _maker),
    Rule(_SEVERAL, _several),
    Rule(_PRODUCT, _product),
    Rule(_PLURAL, _plural),
)
IDS = (
    Rule(_VERSION, _version),
    Rule(_NUMBER_SIGN, _number_sign),
    Rule(_LONG, _long),
    Rule(_POINT_IN_ID, " point "),
    Rule(_MIXED, _mixed),
)
