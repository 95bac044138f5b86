"""Dates, years, decades and the names of days and months. Numbers with slashes are US dates."""

import re

from csm_trio.text.normalization.lexicon import MONTHS, WEEKDAYS, words
from csm_trio.text.normalization.numbers import cardinal, ordinal, plural, year
from csm_trio.text.normalization.rules import Rule, ends_sentence, within
from csm_trio.text.normalization.times import clock
from csm_trio.text.spans import Replacement

_MONTH_OF = {name[:3]: name for name in MONTHS} | {"Sept": "September"}
_DAY_OF = {name[:3]: name for name in WEEKDAYS} | {
    "Tues": "Tuesday",
    "Thur": "Thursday",
    "Thurs": "Thursday",
}
_MONTH = rf"(?:{'|'.join(MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec)\b\.?)"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_WEEKDAY = rf"(?:{'|'.join(WEEKDAYS)}|(?:Mon|Tues|Tue|Wed|Thurs|Thur|Thu|Fri|Sat|Sun)\b\.?)"
_YEAR = r"(?:1\d|20)\d\d"

_ISO = re.compile(
    r"(?<![\w-])(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::\d\d(?:\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?(?![\w-])"
)
_SLASHED = re.compile(
    r"(?<![\w/.-])(\d{1,2})(?:/(\d{1,2})/(\d{4}|\d\d)|-(\d{1,2})-(\d{4})|\.(\d{1,2})\.(\d{4}))"
    r"(?![\w/-]|\.\d)"
)
_YEAR_FIRST = re.compile(r"(?<![\w/.-])(\d{4})/(\d{1,2})/(\d{1,2})(?![\w/-]|\.\d)")
_MONTH_DAY = re.compile(
    rf"(?<!\w)({_MONTH}) ({_DAY})(?: ?- ?({_DAY}))?(?:(,?) ({_YEAR}))?(?![\w/%:$]|[.,:-]\d)"
)
_DAY_MONTH = re.compile(
    rf"(?<![\w.,/:$-])(?:([Tt]he) )?({_DAY})(?: ?- ?({_DAY}))?(?: of)?"
    rf"[ -]({_MONTH})(?:(,?)[ -]({_YEAR}))?(?![\w-]|[.,]\d)"
)
_MONTH_YEAR = re.compile(rf"(?<!\w)({_MONTH})(,? )({_YEAR})(?![\w/%:$-]|[.,:]\d)")
_MONTH_NAME = re.compile(r"(?<!\w)(Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)\.(?!\w)")
_DAY_NAME = re.compile(
    rf"(?<!\w)(?:(Mon|Tues?|Wed|Thu(?:rs?)?|Fri)\.(?!\w)"
    r"|(Sat|Sun)\.(?= (?:at|from|and|or|to|through) )"
    rf"|(?<![Tt]he )(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\.?(?=,? (?:{_MONTH}|\d)))"
)
_NAMES_RANGE = re.compile(
    rf"(?<!\w)(?:({_WEEKDAY}) ?- ?({_WEEKDAY})|({_MONTH}) ?- ?({_MONTH}))(?!\w)"
)
_PREPOSITION = r"\b(?:[Oo]n|[Bb]y|[Uu]ntil|[Bb]efore|[Aa]fter|[Ss]ince|[Ff]rom|[Dd]ue|[Dd]ated"
_PREPOSITION += rf"|(?:{'|'.join(WEEKDAYS)}),?)"
_BARE = re.compile(rf"{_PREPOSITION} (\d{{1,2}}/\d{{1,2}})(?![\d/%]|\.\d)")
_DECADE = re.compile(
    r"(?<![\w$€£.,-])(?:((?:1\d|20)\d)0s|'(\d)0s"
    r"|(?<=[Tt]he )(\d)0s|(?<=[Hh]is )(\d)0s|(?<=[Hh]er )(\d)0s|(?<=their )(\d)0s"
    r"|(?<=the )((?:1\d|20)\d)0's"
    r"|(\d)0s(?= (?:music|hits|songs?|rock|pop|style|fashion|movies?))"
    r"|(?<=mid-)(\d)0s|(?<=early )(\d)0s|(?<=late )(\d)0s|(?<=my )(\d)0s|(?<=your )(\d)0s)(?!\w)"
)
_SHORT_YEAR = re.compile(r"(?<![\w'])'(\d\d)(?![\w'])")
_YEARS = re.compile(rf"(?<![\w$€£.,/:-])({_YEAR}) ?- ?({_YEAR}|\d\d)(?![\w%/:-]|[.,:]\d)")
_BARE_YEAR = re.compile(
    rf"(?<![\w$€£#+,/:-])(?<!\d\.)({_YEAR})(?![\w%°/:+-]|[.,:]\d)(?= ?([\w&$=]*+))"
)
_YEAR_BEFORE = re.compile(
    r"(?:^|[^\w])(?:in|since|of|from|until|till|by|before|after|during|circa|early|late|mid|year|"
    r"spring|summer|fall|autumn|winter|to|through|and|between|Q[1-4]|copyright)$",
    re.IGNORECASE,
)
_NO_PLURAL = frozenset(
    words("""
    is was has does as its this us yes vs s
""")
)
_COUNTED = frozenset(
    words("""
    people men women children percent hundred thousand million billion dollar square cubic
""")
)


def _month(number: int) -> str | None:
    return MONTHS[number - 1] if 1 <= number <= 12 else None


def _full_month(written: str) -> str:
    return _MONTH_OF.get(written.rstrip("."), written)


def _nth(written: str) -> str | None:
    day = int(written.rstrip("stndrh"))
    return ordinal(day) if 1 <= day <= 31 else None


def _date(month: int, day: int, written_year: str = "") -> str | None:
    name = _month(month)
    if name is None or not 1 <= day <= 31:
        return None
    spoken = f"{name} {ordinal(day)}"
    if not written_year:
        return spoken
    value = int(written_year)
    if len(written_year) == 2:
        value += 2000 if value < 70 else 1900
    return f"{spoken}, {year(value)}"


def _iso(match: re.Match[str]) -> str | None:
    date = _date(int(match[2]), int(match[3]), match[1])
    if date is None or match[4] is None:
        return date
    time = clock(int(match[4]), int(match[5]))
    if time is None:
        return None
    zone = match[6] or ""
    if zone == "Z":
        return f"{date}, {time} UTC"
    if zone:
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        sign = "plus" if zone[0] == "+" else "minus"
        return f"{date}, {time} UTC {sign} {cardinal(hours)}" + (
            f" {cardinal(minutes)}" if minutes else ""
        )
    return f"{date}, {time}"


def _slashed(match: re.Match[str]) -> str | None:
    first = int(match[1])
    second, written_year = next((match[i], match[i + 1]) for i in (2, 4, 6) if match[i])
    month, day = first, int(second)
    if match[6] or month > 12:  # dotted dates are European
        month, day = day, month
    return _date(month, day, written_year) or _date(day, month, written_year)


def _year_first(match: re.Match[str]) -> str | None:
    return _date(int(match[2]), int(match[3]), match[1])


def _month_day(match: re.Match[str]) -> str | None:
    first, last = _nth(match[2]), match[3] and _nth(match[3])
    if first is None or (match[3] and last is None):
        return None
    spoken = f"{_full_month(match[1])} {first}"
    spoken += f" to {last}" if last else ""
    return f"{spoken}{match[4]} {year(int(match[5]))}" if match[5] else spoken


def _day_month(match: re.Match[str]) -> str | None:
    first, last = _nth(match[2]), match[3] and _nth(match[3])
    if first is None or (match[3] and last is None):
        return None
    stop = "." if match.end() == match.end(4) and match[4][-1] == "." else ""
    if stop and not ends_sentence(match.string, match.end()):
        stop = ""
    spoken = f"{match[1] or 'the'} {first}"
    spoken += f" to the {last}" if last else ""
    spoken += f" of {_full_month(match[4])}"
    return f"{spoken}{match[5]} {year(int(match[6]))}" if match[6] else f"{spoken}{stop}"


def _month_year(match: re.Match[str]) -> str:
    return f"{_full_month(match[1])}{match[2]}{year(int(match[3]))}"


def _name(match: re.Match[str]) -> str:
    written = next(filter(None, match.groups()))
    full = _MONTH_OF.get(written) or _DAY_OF[written]
    stop = match[0].endswith(".") and ends_sentence(match.string, match.end())
    return f"{full}." if stop else full


def _names_range(match: re.Match[str]) -> str:
    first, last = [name.rstrip(".") for name in match.groups() if name]
    names = _DAY_OF | _MONTH_OF
    stop = match[0].endswith(".") and ends_sentence(match.string, match.end())
    return f"{names.get(first, first)} to {names.get(last, last)}{'.' if stop else ''}"


def _bare(match: re.Match[str]) -> list[Replacement] | None:
    month, day = map(int, match[1].split("/"))
    spoken = _date(month, day) or _date(day, month)
    return within(match, 1, spoken) if spoken else None


def _decade(match: re.Match[str]) -> str:
    value = 10 * int(next(filter(None, match.groups())))
    return plural(year(value) if value >= 100 else cardinal(value))


def _short_year(match: re.Match[str]) -> str:
    value = int(match[1])
    return f"oh {cardinal(value)}" if value < 10 else cardinal(value)


def _years(match: re.Match[str]) -> str | None:
    first, last = int(match[1]), int(match[2])
    end = last if last > 99 else first // 100 * 100 + last
    if end <= first:
        return None
    return f"{year(first)} to {year(last) if last > 99 else cardinal(last)}"


def _bare_year(match: re.Match[str]) -> str | None:
    """Read a four-digit number as a year unless a counted noun follows."""
    value, following = int(match[1]), match[2]
    counts = following in _COUNTED or (
        following.islower() and following.endswith("s") and following not in _NO_PLURAL
    )
    if counts or following[:1] in ("$", "="):
        return None
    if not 1900 <= value < 2100:
        before = match.string[max(0, match.start() - 12) : match.start()].rstrip()
        if value < 1100 or value % 1000 == 0 or not _YEAR_BEFORE.search(before):
            return None
    return year(value)


DATES = (
    Rule(_ISO, _iso),
    Rule(_YEAR_FIRST, _year_first),
    Rule(_SLASHED, _slashed),
    Rule(_MONTH_DAY, _month_day),
    Rule(_DAY_MONTH, _day_month),
    Rule(_MONTH_YEAR, _month_year),
    Rule(_BARE, _bare),
    Rule(_DECADE, _decade),
)
NAMES = (
    Rule(re.compile(r"\bM-F\b"), "Monday to Friday"),
    Rule(_NAMES_RANGE, _names_range),
    Rule(_MONTH_NAME, _name),
    Rule(_DAY_NAME, _name),
)
YEARS = (Rule(_SHORT_YEAR, _short_year), Rule(_YEARS, _years), Rule(_BARE_YEAR, _bare_year))
