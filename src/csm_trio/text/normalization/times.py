"""Times of day, in 12 and 24 hours, and spans of them."""

import re

from csm_trio.text.normalization.numbers import cardinal
from csm_trio.text.normalization.rules import Rule, ends_sentence, is_adjective

_HALF = r"(?: ?([AaPp])(?:\.[Mm]\b(\.?)|[Mm]\b))"
_TIME = r"(\d{1,2})(?:[:.](\d\d))?"
_STARTS = r"(?<![\w.,:/$€£-])"

_SPAN = re.compile(rf"{_STARTS}{_TIME}{_HALF}? ?- ?{_TIME}{_HALF}(?![\w])")
_HALF_FIRST = re.compile(
    rf"{_STARTS}{_TIME}{_HALF} ?(?:-|to|till?|until) ?{_TIME}(?!\d|[\w%$:/]|[.,]\d| ?"
    rf"(?:[AaPp]\.?[Mm]\b|min|hour|day))"
)
_SHORT_HALF = re.compile(rf"{_STARTS}{_TIME} ?([ap]) ?- ?{_TIME} ?([ap])(?!\w)")
_NOON_SPAN = re.compile(
    r"(\bnoon|\bmidnight|\bNoon|\bMidnight|(?<=\d)[AaPp][Mm]|(?<= )[AaPp][Mm]|(?<= )[AaPp]\.[Mm]\.)"
    r" ?- ?(?=noon\b|midnight\b|close\b|\d)"
)
_NOON_LAST = re.compile(r"(?<=\d) ?- ?(?=noon\b|midnight\b|close\b)")
_AT = re.compile(r"(?<![\w@])@ ?(?=\d{1,2}(?::\d\d)?(?: ?[AaPp]\.?[Mm]|[^\w.]|\.?$))")
_MILITARY = re.compile(
    r"(?:(?<=[Aa]t )|(?<=[Bb]y )|(?<=[Ff]rom )|(?<=[Tt]o )|(?<!\w)(?=0))([01]\d|2[0-3])([0-5]\d)"
    r"(?= (?:hours|hrs|Zulu|UTC|GMT)\b)"
)
_CLOCK_SPAN = re.compile(rf"{_STARTS}(\d{{1,2}}):(\d\d) ?- ?(\d{{1,2}}):(\d\d)(?![\w:]|\.\d)")
_CLOCK_LETTER = re.compile(r"(?<![\w.,:/$€£-])(\d{1,2}):(\d\d)([ap])(?!\w)")
_O_CLOCK = re.compile(r"(?<![\w.,:/$€£-])(\d{1,2}):00(?= o'clock)")
_HALVED = re.compile(rf"(?<![\w.,:$€£])(?<!\d-)(?<!\d/){_TIME}(?::(\d\d))?{_HALF}(?!\w)")
_CLOCK = re.compile(r"(?<![\w.,:/$€£-])(\d{1,2}):(\d\d)(?::(\d\d))?(?![\w:]|[.,]\d)")
_DURATION = re.compile(
    r"(?<![\w.,])(\d{1,4}) ?h(?:rs?)? ?(\d{1,2}) ?m(?:ins?)?\b(?: ?(\d{1,2}) ?s(?:ecs?)?\b)?(?!\w)"
)
_SHORT_DURATION = re.compile(r"(?<![\w.,])(\d{1,3})h(?:rs?)? ?([0-5]\d)()(?![\w:/-]|[.,]\d)")
_CLOCK_DURATION = re.compile(r"(?<![\w.,:])(\d{1,3}):([0-5]\d)() ?h(?:rs?)?(?![\w:/-]|[.,]\d)")
_MINUTES = re.compile(r"(?<![\w.,])()(\d{1,4}) ?m(?:ins?)? ?(\d{1,2}) ?s(?:ecs?)?(?![\w-])")
_OFFSET = re.compile(r"\b(GMT|UTC) ?([+-])(\d{1,2})(?::?(\d\d))?(?![\w:])")


def clock(hour: int, minute: int, *, half: str = "") -> str | None:
    """Return the words of a time, or None if it is invalid; `half` is "AM", "PM" or ""."""
    if hour > 24 or minute > 59 or (half and not 1 <= hour <= 12):
        return None
    if minute:
        spoken = f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif half:
        spoken = cardinal(hour)
    elif hour in (0, 24):
        return "midnight"
    else:
        spoken = f"{cardinal(hour)} o'clock" if hour <= 12 else f"{cardinal(hour)} hundred"
    return f"{spoken} {half}".strip()


def _half(letter: str | None) -> str:
    return f"{letter.upper()}M" if letter else ""


def _stopped(match: re.Match[str], stop: str | None) -> str:
    return "." if stop and ends_sentence(match.string, match.end()) else ""


def _span(match: re.Match[str]) -> str | None:
    first = _without_clock(match[1], match[2], _half(match[3]), _half(match[7]))
    last = clock(int(match[5]), int(match[6] or 0), half=_half(match[7]))
    if first is None or last is None:
        return None
    return f"{first} to {last}{_stopped(match, match[8])}"


def _without_clock(hour: str, minute: str | None, half: str, other_half: str) -> str | None:
    """Return the words of a span's first time: "five" of "5-6 PM", not "five o'clock"."""
    spoken = clock(int(hour), int(minute or 0), half=half or other_half)
    return spoken if half or spoken is None else spoken.removesuffix(f" {other_half}")


def _half_first(match: re.Match[str]) -> str | None:
    first = clock(int(match[1]), int(match[2] or 0), half=_half(match[3]))
    hour, minute = int(match[5]), int(match[6] or 0)
    if first is None or not 1 <= hour <= 12 or minute > 59:
        return None
    last = clock(hour, minute, half="AM")
    return f"{first} to {last.removesuffix(' AM')}" if last else None


def _short_half(match: re.Match[str]) -> str | None:
    first = clock(int(match[1]), int(match[2] or 0), half=_half(match[3]))
    last = clock(int(match[4]), int(match[5] or 0), half=_half(match[6]))
    return f"{first} to {last}" if first and last else None


def _military(match: re.Match[str]) -> str:
    hour = f"{'oh ' if match[1][0] == '0' else ''}{cardinal(int(match[1]))}"
    minute = int(match[2])
    if not minute:
        return f"{hour} hundred"
    return f"{hour} {'oh ' if minute < 10 else ''}{cardinal(minute)}"


def _noon_span(match: re.Match[str]) -> str:
    half = match[1].replace(".", "")
    return f"{half.upper() if len(half) == 2 else half} to "


def _clock_span(match: re.Match[str]) -> str | None:
    first = clock(int(match[1]), int(match[2]))
    last = clock(int(match[3]), int(match[4]))
    return f"{first} to {last}" if first and last else None


def _halved(match: re.Match[str]) -> str | None:
    spoken = clock(int(match[1]), int(match[2] or 0), half=_half(match[4]))
    if spoken is None:
        return None
    if match[3]:
        time, _, half = spoken.rpartition(" ")
        spoken = f"{time} and {cardinal(int(match[3]))} seconds {half}"
    return f"{spoken}{_stopped(match, match[5])}"


def _clock(match: re.Match[str]) -> str | None:
    spoken = clock(int(match[1]), int(match[2]))
    if spoken is None or match[3] is None:
        return spoken
    return f"{spoken} and {cardinal(int(match[3]))} seconds"


def _duration(match: re.Match[str]) -> str:
    describes = is_adjective(match.string, match.start(), match.end())
    parts = zip(match.groups(), ("hour", "minute", "second"), strict=True)
    return " ".join(
        f"{cardinal(int(count))} {name}{'' if int(count) == 1 or describes else 's'}"
        for count, name in parts
        if count
    )


def _offset(match: re.Match[str]) -> str:
    sign = "plus" if match[2] == "+" else "minus"
    minutes = f" {cardinal(int(match[4]))}" if match[4] and int(match[4]) else ""
    return f"{match[1]} {sign} {cardinal(int(match[3]))}{minutes}"


AT_TIMES = (Rule(_AT, "at "),)
TIMES = (
    Rule(_MILITARY, _military),
    Rule(_NOON_SPAN, _noon_span),
    Rule(_NOON_LAST, " to "),
    Rule(_SHORT_HALF, _short_half),
    Rule(_HALF_FIRST, _half_first),
    Rule(_SPAN, _span),
    Rule(_CLOCK_DURATION, _duration),
    Rule(_CLOCK_SPAN, _clock_span),
    Rule(_O_CLOCK, lambda match: cardinal(int(match[1]))),
    Rule(_CLOCK_LETTER, lambda match: clock(int(match[1]), int(match[2]), half=_half(match[3]))),
    Rule(_HALVED, _halved),
    Rule(_CLOCK, _clock),
    Rule(_DURATION, _duration),
    Rule(_SHORT_DURATION, _duration),
    Rule(_MINUTES, _duration),
    Rule(_OFFSET, _offset),
)
