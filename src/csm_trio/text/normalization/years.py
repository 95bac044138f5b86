"""Years, fiscal years and decades."""

import re

from csm_trio.text.normalization.calendar_names import YEAR
from csm_trio.text.normalization.lexicon import words
from csm_trio.text.normalization.numbers import cardinal, plural, year
from csm_trio.text.normalization.rules import Rule, tail

# A word, then "30s": decades of life, of a century, of temperature; else seconds.
_DECADE_WORDS = (
    r"[Tt]he|[Hh]is|[Hh]er|[Tt]heir|[Mm]y|[Yy]our|[Oo]ur|[Ii]ts|[Ee]arly|[Mm]id|[Ll]ate|[Ll]ow(?:er)?|"
    r"[Hh]igh|[Uu]pper|[Rr]oaring|[Ss]winging"
)
_DECADE_AFTER = (
    r"(?= (?:music|hits|songs?|rock|pop|style|styles|fashion|movies?|films?|party|era|sitcoms?|"
    r"cars|"
    r"kids|nostalgia)\b)"
)
_DECADE = re.compile(
    rf"(?<![\w$€£.,])(?P<long>(?:1\d|20)\d)0s(?!\w)"
    r"|(?<=[Tt]he )(?P<apostrophe>(?:1\d|20)\d)0's(?!\w)"
    r"|(?<![\w'])'(?P<short>\d)0s(?!\w)"
    rf"|(?P<before>\b(?:{_DECADE_WORDS})[ -])(?P<after>\d)0s(?!\w)"
    r"(?! (?:timeout|limit|delay|wait|window|mark|interval|timer|countdown|video|clip|break))"
    rf"|(?<![\w$.,-])(?P<style>\d)0s{_DECADE_AFTER}"
)
_JOINT = r" ?/ ?|-|, and |, | and | or | to | & "
_LIST = re.compile(  # "1950s/60s", "the 60s, 70s and 80s"
    rf"(?<![\w$€£.,])'?(?:(?:1\d|20)?\d)0s(?:(?:{_JOINT})(?:the )?'?(?:(?:1\d|20)?\d)0s"
    rf"(?!\w)){{1,6}}"
)
_EACH = re.compile(rf"'?((?:1\d|20)?\d)0s|({_JOINT})(?:the )?")
_JOINTS = {"/": " ", "-": " to ", ",": ", ", "&": " and "}
_SHORT_YEAR = re.compile(r"(?<![\w'])'(\d\d)(?![\w'])")
_YEARS = re.compile(rf"(?<![\w$€£.,/:-])({YEAR})(?: ?- ?| ?/ ?)({YEAR}|\d\d)(?![\w%/:-]|[.,:]\d)")
_FISCAL = re.compile(
    r"\b(FY|CY|AY|SY)[ -]?'?(\d\d|20\d\d)(?:( ?[-/] ?)(\d\d|20\d\d))?(?![\w%/]|[.,]\d)"
)
_QUARTER = re.compile(r"\b([QH][1-4])[ -]?'?((?:19|20)\d\d|[0-4]\d)(?![\w%/-]|[.,]\d)")
_HALF_YEAR = re.compile(r"(?<![\w.])([1-4])([HQ])'?((?:20)?\d\d)(?!\w)")
_BARE_YEAR = re.compile(
    rf"(?<![\w$€£#+,/:-])(?<!\d\.)({YEAR})(?![\w%°/:+-]|[.,:]\d)(?= ?([\w&$=]*+))"
)
_PREFIXED = re.compile(rf"(?<=[a-z]-)(?<![^a-z][a-z]-)({YEAR})(?![\w%°/:+-]|[.,:]\d)")
_EARLY_YEAR = re.compile(
    r"(?<=[Ii]n )([5-9]\d\d)(?=, [A-Z]| AD\b| CE\b)"
    r"|(?<![\w$€£.,:/-])(1[0-8]\d\d)(?= (?:AD|BC|BCE|CE)\b)|(?<=A\.D\. )(\d{3,4})(?!\w)"
)
_YEAR_BEFORE = re.compile(
    r"(?:^|[^\w])(?:in|since|of|from|until|till|by|before|after|during|circa|early|late|mid|year|"
    r"spring|summer|fall|autumn|winter|to|through|and|between|Q[1-4]|copyright|established|founded|est|"
    r"built|born|died|season|vintage|class of|c|ca)\.?$",
    re.IGNORECASE,
)
_SURE_BEFORE = re.compile(
    r"(?:^|[^\w])(?:In|in|[Ss]ince|[Uu]ntil|[Dd]uring|[Bb]y|[Yy]ear|Q[1-4]|[Ee]arly|[Ll]ate|[Mm]id|"
    r"[Ss]pring|[Ss]ummer|[Ff]all|[Aa]utumn|[Ww]inter|[Tt]he)$"
)
_NO_PLURAL = frozenset(
    words("""
    is was has does as its this us yes vs s elections sales olympics games playoffs finals series
    earnings results taxes news was
""")
)
_COUNTED = frozenset(
    words("""
    people men women children percent hundred thousand million billion dollar dollars square cubic
    users customers items units pieces miles calories steps words points seats copies homes cars
    times votes students employees members cases views followers euros pounds
""")
)


def _decade_words(tens: str) -> str:
    value = 10 * int(tens)
    return plural(year(value) if value >= 100 else cardinal(value))


def _decade(match: re.Match[str]) -> str:
    groups = match.groupdict()
    before = groups.pop("before") or ""
    return f"{before.replace('-', ' ')}{_decade_words(next(filter(None, groups.values())))}"


def _decade_list(match: re.Match[str]) -> str:
    parts = []
    for each in _EACH.finditer(match[0]):
        joint = (each[2] or "").strip()
        joined = _JOINTS.get(joint, f" {joint} ") + ("the " if each[0].endswith("the ") else "")
        parts.append(_decade_words(each[1]) if each[1] else joined)
    return "".join(parts)


def _short_year(match: re.Match[str]) -> str:
    value = int(match[1])
    return f"oh {cardinal(value)}" if value < 10 else cardinal(value)


def _years(match: re.Match[str]) -> str | None:
    first, last = int(match[1]), int(match[2])
    end = last if last > 99 else first // 100 * 100 + last
    if end <= first:
        return None
    if "/" in match[0] and last not in ((first + 1) % 100, first + 1):
        return None
    joint = " " if "/" in match[0] else " to "
    return f"{year(first)}{joint}{year(last) if last > 99 else _two(last)}"


def _two(value: int) -> str:
    return f"oh {cardinal(value)}" if value < 10 else cardinal(value)


def _of_two_or_four(written: str) -> str:
    return year(int(written)) if len(written) == 4 else _two(int(written))


def _fiscal(match: re.Match[str]) -> str:
    spoken = f"{match[1]} {_of_two_or_four(match[2])}"
    return f"{spoken} to {_of_two_or_four(match[4])}" if match[4] else spoken


def _quarter(match: re.Match[str]) -> str:
    return f"{match[1][0]} {cardinal(int(match[1][1]))} {_of_two_or_four(match[2])}"


def _half_year(match: re.Match[str]) -> str:
    return f"{cardinal(int(match[1]))} {match[2]} {_of_two_or_four(match[3])}"


def _year(match: re.Match[str]) -> str:
    return year(int(next(filter(None, match.groups()))))


def _prefixed(match: re.Match[str]) -> str:
    return year(int(match[1]))


def _bare_year(match: re.Match[str]) -> str | None:
    """Read a four-digit number as a year unless a counted noun follows."""
    value, following = int(match[1]), match[2]
    before = tail(match.string, match.start(), 14).rstrip()
    plural_noun = following.islower() and following.endswith("s") and following not in _NO_PLURAL
    sure = value % 1000 and _SURE_BEFORE.search(before)
    if (following in _COUNTED or (plural_noun and not sure)) or following[:1] in ("$", "="):
        return None
    modern = 1900 <= value < 2100
    dated = value % 1000 and _YEAR_BEFORE.search(before.rstrip("-"))
    return year(value) if modern or dated else None


YEARS = (
    Rule(_SHORT_YEAR, _short_year),
    Rule(_YEARS, _years),
    Rule(_FISCAL, _fiscal),
    Rule(_QUARTER, _quarter),
    Rule(_HALF_YEAR, _half_year),
    Rule(_PREFIXED, _prefixed),
    Rule(_EARLY_YEAR, _year),
    Rule(_BARE_YEAR, _bare_year),
)
DECADES = (Rule(_LIST, _decade_list), Rule(_DECADE, _decade))
