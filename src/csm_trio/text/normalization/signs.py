"""Signs beside numbers and between words: comparisons first, and whatever is left at the end."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these patterns are about

import re
import unicodedata

from csm_trio.text.normalization.lexicon import CURRENCIES
from csm_trio.text.normalization.numbers import cardinal
from csm_trio.text.normalization.rules import Rule, spaced

_BEFORE_NUMBER = {
    "±": "plus or minus",
    "+/-": "plus or minus",
    "~": "about",
    "≈": "about",
    "<": "less than",
    ">": "more than",
    "≤": "at most",
    "<=": "at most",
    "≥": "at least",
    ">=": "at least",
    "≠": "not",
}
_COMPARISON = "|".join(map(re.escape, sorted(_BEFORE_NUMBER, key=len, reverse=True)))
_NEAR = re.compile(rf"(?<![\w)\]°%=<>!])({_COMPARISON}) ?(?=-?[$€£₹¥]?-?\.?\d|(?:US|C|A)\$\d)")
_RELATION = {
    "<": "is less than",
    ">": "is more than",
    "≤": "is at most",
    "<=": "is at most",
    "≥": "is at least",
    ">=": "is at least",
    "≠": "is not",
    "!=": "is not",
    "<>": "is not",
    "==": "equals",
    "≈": "is about",
}
_OPERATOR = "|".join(map(re.escape, sorted(_RELATION, key=len, reverse=True)))
_COMPARED = re.compile(rf"(?<=[\w)%\]\"'])( ?)({_OPERATOR})( ?)(?=[\w(\"'$€£¥₹-])")
_HAS_VERB = re.compile(
    r"\b(?:is|are|was|were|be|been|takes?|costs?|has|have|needs?|at|of|in|for|to|with|from|about|by|"
    r"and|or|than|under|over|only|just|weighs?|gets?|pays?|pay|spend|if it's|it's|that's)\Z",
    re.IGNORECASE,
)
_ARROW = re.compile(r" ?(?:[-=]{1,3}>|<[-=]{2,3})(?=[\s\w]|$) ?")

_ASSIGNED = re.compile(r"(?<=[\w)\]]) ?([-+*/])= ?(?=[\w(\"'-])")
_ASSIGNED_WORDS = {
    "+": " plus equals ",
    "-": " minus equals ",
    "*": " times equals ",
    "/": " divided by equals ",
}
_AMPERSAND = re.compile(r" ?(?:&+)(?: ?&+)* ?")
_PLUS_NAME = re.compile(r"(?<=[^\W\d_])\+\+(?!\w)")
_SHARP = re.compile(r"(?<![\w])([A-GJ])#(?!\w)")
_BETWEEN = re.compile(r"(?<=[\w)\]]) ?([+×÷=≠]) ?(?=[\w(√\"'-])")
_BETWEEN_WORDS = {
    "+": "plus",
    "×": "times",
    "÷": "divided by",
    "=": "equals",
    "≠": "does not equal",
    "*": "times",
}
_SPACED_OPERATOR = re.compile(r"(?<=[\w)]) (\*) (?=[\w(])")
_TRAILING_PLUS = re.compile(r"(?<=\w)\+(?!\w)")
_LONE_AT = re.compile(r"(?<= )@(?= )")
_SECTION = re.compile(r"§+ ?")
_SNAKE = re.compile(r"(?<=[^\W_])_+(?=[^\W_])")
_LONE_PERCENT = re.compile(r"(?<=\w )%(?!\w)")
_SPACED_SLASH = re.compile(r"(?<=[\w)]) / (?=[\w(])")

# Signs that no rule has read: beside a word they are named, elsewhere they are silent.
_NAMES = {
    "%": "percent",
    "‰": "per mille",
    "#": "number",
    "@": "at",
    "&": "and",
    "+": "plus",
    "=": "equals",
    "<": "less than",
    ">": "more than",
    "≤": "at most",
    "≥": "at least",
    "≠": "not equal to",
    "≈": "about",
    "×": "times",
    "÷": "divided by",
    "±": "plus or minus",
    "⁺": "plus",
    "⁻": "minus",
    "°": "degrees",
    "√": "root",
    "∞": "infinity",
    "∑": "sum",
    "π": "pi",
    "µ": "micro",
    "§": "section",
    "¢": "cents",
    "\\": "backslash",
    "/": "slash",
    "^": "to the power of",
    "~": "about",
    "∆": "delta",
    "∈": "in",
    "∪": "union",
    "∩": "intersection",
}
_ANY_SIGN = re.compile(r"[^\w\s.,;:!?'\"()\[\]{}-]|_")
_SILENT = frozenset("^~*|`_\\+<>=#/")


def _near(match: re.Match[str]) -> str:
    return f"{_BEFORE_NUMBER[match[1]]} "


def _compared(match: re.Match[str]) -> str | None:
    """Read a relation between two terms; beside a verb, or one term only, without "is"."""
    before, sign, after = match.groups()
    if bool(before) != bool(after):
        return None
    spoken = _RELATION[sign]
    start = match.start()
    if _HAS_VERB.search(match.string, max(0, start - 12), start):
        spoken = spoken.removeprefix("is ")
    return f" {spoken} "


def _and(match: re.Match[str]) -> str:
    before, after = match.start() > 0, match.end() < len(match.string)
    return f"{' ' if before else ''}and{' ' if after else ''}"


def _between(match: re.Match[str]) -> str:
    return f" {_BETWEEN_WORDS[match[1]]} "


def _left_over(match: re.Match[str]) -> str | None:
    """Name a sign that touches a word; leave marks of writing, and remove the rest."""
    sign, text = match[0], match.string
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    touches = before.isalnum() or after.isalnum()
    category = unicodedata.category(sign)
    if sign == "/" and before.isalpha() and after.isalpha():
        return None
    if category[0] != "S" and sign not in _NAMES and sign not in _SILENT:
        return None  # punctuation, and the marks of other scripts
    name = "" if sign in _SILENT and not touches else _NAMES.get(sign, "")
    if category == "Sc":
        name = CURRENCIES.get(sign, ("", ""))[0 if after.isalpha() else 1]
    left = "" if before in ("", " ") or before in "([{\"'" else " "
    right = " " if after.isalnum() else ""
    return f"{left}{name}{right}" if name else " "


_NUMERAL = re.compile(r"[^\W\d_A-Za-z]")


def _numeral(match: re.Match[str]) -> str | None:
    """Read a numeral that is no decimal digit: a Roman "four" in one character."""
    if unicodedata.category(match[0])[0] != "N":
        return None
    value = unicodedata.numeric(match[0])
    spoken = cardinal(int(value)) if value == int(value) else ""
    return spaced(match, spoken) or " "


COMPARISONS = (
    Rule(_ASSIGNED, lambda match: _ASSIGNED_WORDS[match[1]]),
    Rule(_ARROW, " to "),
    Rule(_COMPARED, _compared),
    Rule(_NEAR, _near),
)
SIGNS = (
    Rule(_AMPERSAND, _and),
    Rule(_PLUS_NAME, " plus plus"),
    Rule(_SHARP, lambda match: f"{match[1]} sharp"),
    Rule(_BETWEEN, _between),
    Rule(_SPACED_OPERATOR, _between),
    Rule(_TRAILING_PLUS, " plus"),
    Rule(_LONE_AT, "at"),
    Rule(_SECTION, "section "),
    Rule(_LONE_PERCENT, "percent"),
    Rule(_SNAKE, " "),
    Rule(_SPACED_SLASH, " slash "),
    Rule(_ANY_SIGN, _left_over),
    Rule(_NUMERAL, _numeral),
)
