"""Numbers as American English words, without "and" and without hyphens."""

import re

from csm_trio.text.normalization.lexicon import words

_ONES = words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen
""")
_TENS = words("""
    zero ten twenty thirty forty fifty sixty seventy eighty ninety
""")
_SCALES = words("""
    thousand million billion trillion quadrillion quintillion sextillion septillion octillion
    nonillion decillion
""")
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_MAX_DIGITS = 36  # "nine hundred ninety nine decillion"; longer ones are read digit by digit

VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
_VULGAR_PARTS = words("""
    1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8 1/7 1/9 1/10
""")
_VULGAR = dict(zip(VULGAR, _VULGAR_PARTS, strict=True))

# Regular expressions of written numbers, to be built into patterns. The bounds keep them linear.
NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,12}+(?!\d)|\d++)(?:\.\d++)?"
QUANTITY = rf"(?:(?:\d{{1,4}} )?\d{{1,3}}/\d{{1,3}}(?![\d/])|{NUMBER}[{VULGAR}]?|\.\d++|[{VULGAR}])"
NUMBER_STARTS = r"(?<![\w.,])(?<!\d[,./:-])"

_FRACTION = re.compile(r"(?:(\d+) )?(\d+)/(\d+)")


def cardinal(value: int) -> str:
    """Return "one hundred twenty three" for 123, below 10**36."""
    if value < 0:
        return f"minus {cardinal(-value)}"
    if value < 1000:
        return _below_thousand(value)
    words: list[str] = []
    scale = 0
    while value:
        value, group = divmod(value, 1000)
        if group:
            name = [_SCALES[scale - 1]] if scale else []
            words[:0] = [_below_thousand(group), *name]
        scale += 1
    return " ".join(words)


def _below_thousand(value: int) -> str:
    hundreds, rest = divmod(value, 100)
    words = [_ONES[hundreds], "hundred"] if hundreds else []
    if rest or not hundreds:
        tens, ones = divmod(rest, 10)
        if rest < 20:
            words.append(_ONES[rest])
        else:
            words += [_TENS[tens], _ONES[ones]] if ones else [_TENS[tens]]
    return " ".join(words)


def ordinal(value: int) -> str:
    """Return "twenty first" for 21."""
    before, _, last = cardinal(value).rpartition(" ")
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return f"{before} {last}".strip()


def by_digit(written: str) -> str:
    """Return "two zero four" for "204"; other characters are skipped."""
    return " ".join(_ONES[int(char)] for char in written if char.isdecimal())


def number(written: str) -> str:
    """Return the words of a match of `NUMBER`; with a leading zero, digit by digit."""
    whole, point, decimals = written.replace(",", "").partition(".")
    if len(whole) > _MAX_DIGITS or (len(whole) > 1 and int(whole[0]) == 0 and not point):
        words = by_digit(whole)
    else:
        words = cardinal(int(whole)) if whole else ""
    return f"{words} point {by_digit(decimals)}".strip() if point else words


def quantity(written: str) -> str:
    """Return the words of a match of `QUANTITY`: a number, a fraction or both."""
    if written[-1] in _VULGAR:
        written = f"{written[:-1]} {_VULGAR[written[-1]]}".strip()
    match = _FRACTION.fullmatch(written)
    if match is None:
        whole, _, parts = written.rpartition(" ")
        if not whole:
            return number(written)
        return f"{number(whole)} and {fraction(*map(int, parts.split('/')), after_whole=True)}"
    whole, above, below = match.groups()
    spoken = fraction(int(above), int(below), after_whole=bool(whole))
    return f"{number(whole)} and {spoken}" if whole else spoken


def fraction(above: int, below: int, *, after_whole: bool = False) -> str:
    """Return "three quarters" for 3 and 4; after a whole number, "a half" for 1 and 2."""
    if below in (0, 1):
        return f"{cardinal(above)} over {cardinal(below)}"
    name = {2: "half", 4: "quarter"}.get(below) or ordinal(below)
    if above == 1:
        return f"{'a' if after_whole else 'one'} {name}"
    return f"{cardinal(above)} {'halves' if below == 2 else f'{name}s'}"


def year(value: int) -> str:
    """Return "nineteen oh five", "two thousand nine", "twenty twenty four"."""
    century, rest = divmod(value, 100)
    if value < 1000 or value > 9999 or (century % 10 == 0 and rest < 10):
        return cardinal(value)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def plural(words: str) -> str:
    """Return the plural of a number's words: "nineties", "hundreds"."""
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return f"{words}es" if words.endswith("x") else f"{words}s"


_ROMAN = re.compile(r"M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def roman(written: str) -> int | None:
    """Return the value of a Roman numeral in capitals, or None if it is none."""
    if not written or not _ROMAN.fullmatch(written):
        return None
    values = [_ROMAN_VALUES[char] for char in written]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(-value if value < following else value for value, following in pairs)
