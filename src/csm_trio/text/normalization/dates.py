"""Dates, years, decades and the names of days and months. Numbers with slashes are US dates."""

import re

from csm_trio.text.normalization.calendar_names import (
    DAY as _DAY,
)
from csm_trio.text.normalization.calendar_names import (
    MONTH as _MONTH,
)
from csm_trio.text.normalization.calendar_names import (
    MONTH_OF,
)
from csm_trio.text.normalization.calendar_names import (
    WEEKDAY as _WEEKDAY,
)
from csm_trio.text.normalization.calendar_names import (
    YEAR as _YEAR,
)
from csm_trio.text.normalization.lexicon import MONTHS
from csm_trio.text.normalization.numbers import by_digit, cardinal, ordinal, year
from csm_trio.text.normalization.rules import Rule, ends_sentence, tail
from csm_trio.text.normalization.times import clock
from csm_trio.text.spans import Replacement

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
_DAY_MONTH_NUMBERS = r"\d{1,2}/\d{1,2}"
_UNIT_AFTER = (
    r"(?! ?(?:\"|in\b|inch|cups?\b|tsp|tbsp|miles?\b|lbs?\b|oz\b|of\b|full\b|majority|point))"
)
_BARE_SPAN = re.compile(
    rf"(?<![\w/.,-])({_DAY_MONTH_NUMBERS})( ?- ?| to | through | thru |"
    rf" until )({_DAY_MONTH_NUMBERS})(?![\w/%]|[.,-]\d)" + _UNIT_AFTER
)
_BARE = re.compile(
    r"(?:\b(?:[Oo]n|[Bb]y|[Uu]ntil|[Tt]ill?|[Bb]efore|[Aa]fter|[Ss]ince|[Ff]rom|[Dd]ue|[Dd]ated|[Tt]hru|"
    r"[Tt]hrough|[Ww]eek of|[Ss]tarting|[Bb]eginning|[Ee]nding|[Bb]etween|[Ee]ffective|[Aa]s of|"
    r"[Ee]xpir(?:es|ed|ing|ation)|[Ee]xp\.?|[Ss]tarts?|[Ee]nds?|[Bb]egins?|[Oo]pens?|[Cc]loses?|[Ll]aunch(?:es)?|[Aa]rrives|[Aa]rriving|[Ss]hips|"
    r"[Dd]elivered|[Cc]losed|[Bb]orn|DOB|dob|[Dd]ates?|[Cc]heck-?in|[Cc]heck-?out|[Dd]eparting|"
    r"[Rr]eturning|[Bb]ooked for|[Ss]cheduled for|[Mm]oved to|[Rr]escheduled to|[Mm]eeting|[Aa]ppt|"
    rf"[Aa]ppointment|{_WEEKDAY}),?:? )"
    rf"(?P<dates>{_DAY_MONTH_NUMBERS}(?:(?: ?- ?|,? to |,? and |,? or |, | & |,? through |,? thru )"
    rf"{_DAY_MONTH_NUMBERS}){{0,6}})(?![\d/%]|\.\d| ?\"|(?: ?- ?| to | and | or )\d{{1,2}}/\d)"
    + _UNIT_AFTER
)
_BARE_LIST = re.compile(
    rf"(?<![\w/.,-])(?P<dates>{_DAY_MONTH_NUMBERS}(?:(?:, and |, | and | or |"
    rf" & ){_DAY_MONTH_NUMBERS}){{1,6}})"
    r"(?![\w/%]|[.,-]\d)" + _UNIT_AFTER
)
_TIMED = re.compile(
    rf"(?<![\w/.,-])(?P<dates>{_DAY_MONTH_NUMBERS})(?=,? (?:at|@) ?(?:\d|noon\b|midnight\b))"
)
_EXPIRY = re.compile(
    r"\b(?:[Ee]xp(?:ir(?:y|es|ed|ing|ation))?\.?|EXP|[Vv]alid (?:thru|through|until|till?|to)|"
    r"[Gg]ood (?:thru|through))(?: date)?(?: is)?:? (?P<month>0\d|1[0-2]|\d)/(?P<year>\d\d|"
    r"20\d\d)(?![\d/])"
)
_MONTH_AND_YEAR = re.compile(r"(?<![\w/.,-])(0?[1-9]|1[0-2])/((?:19|20)\d\d)(?![\w/%-]|[.,]\d)")
_EACH = re.compile(_DAY_MONTH_NUMBERS)


def _month(number: int) -> str | None:
    return MONTHS[number - 1] if 1 <= number <= 12 else None


def _full_month(written: str) -> str:
    return MONTH_OF.get(written.rstrip("."), written)


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


def _slashed_pair(written: str) -> str | None:
    month, day = map(int, written.split("/"))
    return _date(month, day) or _date(day, month)


def _bare_span(match: re.Match[str]) -> str | None:
    dates = [_slashed_pair(match[1]), _slashed_pair(match[3])]
    joint = match[2] if match[2].strip().isalpha() else " to "
    return f"{dates[0]}{joint}{dates[1]}" if all(dates) else None


def _bare(match: re.Match[str]) -> list[Replacement] | None:
    start, end = match.span("dates")
    text = match.string
    parts: list[Replacement] = [(text[match.start() : start], match.start(), start)]
    done = start
    for each in _EACH.finditer(text, start, end):
        spoken = _slashed_pair(each[0])
        if spoken is None:
            return None
        between = text[done : each.start()]
        if between:
            joined = " to " if "-" in between else between.replace("thru", "through")
            parts.append((joined, done, each.start()))
        parts.append((spoken, *each.span()))
        done = each.end()
    return [*parts, (text[done : match.end()], done, match.end())]


def _bare_list(match: re.Match[str]) -> list[Replacement] | None:
    """Read a list of which one at least cannot be a fraction of a thing: "12/24 and 1/1"."""
    days = [int(each[0].partition("/")[2]) for each in _EACH.finditer(match["dates"])]
    return _bare(match) if max(days) > 16 else None


def _expiry(match: re.Match[str]) -> list[Replacement] | None:
    """Read the month and year on a card; "expires 3/15" is a day unless a card is meant."""
    month, written = match["month"], match["year"]
    start = match.start("month")
    card = (
        month[0] == "0"
        or re.search(r"\bcard\b", tail(match.string, match.start(), 40), re.IGNORECASE)
        or match[0][:3].lower() + match[0][3:4] in ("exp ", "exp.", "exp:")
    )
    if len(written) == 4:
        spoken = f"{MONTHS[int(month) - 1]} {year(int(written))}"
    elif card and 20 <= int(written) < 50:
        first = f"zero {by_digit(month[1])}" if month[0] == "0" else cardinal(int(month))
        spoken = f"{first} {cardinal(int(written))}"
    else:
        return None
    head = re.sub(r"^([Ee])xp\b\.?(?=:? $)", r"\1xpires", match.string[match.start() : start])
    return [(head, match.start(), start), (spoken, start, match.end())]


def _month_and_year(match: re.Match[str]) -> str:
    return f"{MONTHS[int(match[1]) - 1]} {year(int(match[2]))}"


DATES = (
    Rule(re.compile(r"(?:(?<=/\d{4})|(?<=/\d\d)) ?- ?(?=\d{1,2}/\d{1,2}/\d\d)"), " to "),
    Rule(_ISO, _iso),
    Rule(_YEAR_FIRST, _year_first),
    Rule(_SLASHED, _slashed),
    Rule(_MONTH_DAY, _month_day),
    Rule(_DAY_MONTH, _day_month),
    Rule(_MONTH_YEAR, _month_year),
    Rule(_EXPIRY, _expiry),
    Rule(_BARE_SPAN, _bare_span),
    Rule(_BARE, _bare),
    Rule(_BARE_LIST, _bare_list),
    Rule(_TIMED, _bare),
    Rule(_MONTH_AND_YEAR, _month_and_year),
)
