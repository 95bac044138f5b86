"""Kinds of setting: how the text of a flag, a variable or a TOML value is read.

Knows no setting by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type of value: how its text is read, what to call it, and how TOML may write it.

    `read` raises `ValueError` on text that is none of its values.
    """

    expected: str
    read: Callable[[str], object]
    toml: tuple[type, ...] = (str,)


def pattern(expected: str, regex: str) -> ValueType:
    """Make a kind of text that `regex` matches wholly."""
    compiled = re.compile(regex)

    def read(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError
        return text

    return ValueType(expected, read)


def choice(*words: str) -> ValueType:
    """Make a kind of one of `words`, in any case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return ValueType(f"one of {', '.join(words)}", read)


def whole(low: int, high: int, *, or_auto: bool = False) -> ValueType:
    """Make a kind of ASCII digits within [low, high]; `auto`, where allowed, reads as None."""

    def read(text: str) -> int | None:
        if or_auto and text.lower() == "auto":
            return None
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    expected = f"a whole number from {low} to {high}" + (", or auto" if or_auto else "")
    return ValueType(expected, read, (str, int))


def seconds(low: float, high: float) -> ValueType:
    """Make a kind of plain decimal within [low, high]."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", text) or not low <= float(text) <= high:
            raise ValueError
        return float(text)

    return ValueType(f"a number from {low:g} to {high:g}", read, (str, int, float))


def read_path(text: str) -> Path:
    """Read a path; `~` is the home directory."""
    try:
        if not text or "\0" in text:
            raise ValueError
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        raise ValueError from None


def _read_switch(text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise ValueError
    return text.lower() in ("true", "1")


SWITCH = ValueType("true or false", _read_switch, (str, bool))
