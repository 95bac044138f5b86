"""Times of day, in 12 and 24 hours, and spans of them."""

import re

from csm_trio.text.normalization.numbers import cardinal
from csm_trio.text.normalization.rules import Rule, ends_sentence

_HALF = r"(?: ?([AaPp])(?:\.[Mm]\b(\.?)|[Mm]\b))"
_TIME = r"(\d{1,2})(?:[:.](\d\d))?"
_STARTS = r"(?<![\w.,:/$€£-])"

_SPAN = re.compile(rf"{_STARTS}{_TIME}{_HALF}? ?- ?{_TIME}{_HALF}(?![\w])")
_CLOCK_SPAN = re.compile(rf"{_STARTS}(\d{{1,2}}):(\d\d) ?- ?(\d{{1,2}}):(\d\d)(?![\w:]|\.\d)")
_HALVED = re.compile(rf"(?<![\w.,:/$€£])(?<!\d-){_TIME}(?::(\d\d))?{_HALF}(?!\w)")
_CLOCK = re.compile(r"(?<![\w.,:/$€£-])(\d{1,2}):(\d\d)(?::(\d\d))?(?![\w:]|[.,]\d)")
_DURATION = re.compile(r"(?<![\w.,])(\d{1,4})h ?(\d{1,2})m(?:in)?(?: ?(\d{1,2})s)?(?!\w)")
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
    parts = zip(match.groups(), ("hour", "minute", "second"), strict=True)
    return " ".join(
        f"{cardinal(int(count))} {name}{'' if int(count) == 1 else 's'}"
        for count, name in parts
        if count
    )


def _offset(match: re.Match[str]) -> str:
    sign = "plus" if match[2] == "+" else "minus"
    minutes = f" {cardinal(int(match[4]))}" if match[4] and int(match[4]) else ""
    return f"{match[1]} {sign} {cardinal(int(match[3]))}{minutes}"


TIMES = (
    Rule(_SPAN, _span),
    Rule(_CLOCK_SPAN, _clock_span),
    Rule(_HALVED, _halved),
    Rule(_CLOCK, _clock),
    Rule(_DURATION, _duration),
    Rule(_OFFSET, _offset),
)
