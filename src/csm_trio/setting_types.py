"""Value types of settings: parse the text of a flag, an environment variable or a TOML value.

Knows no setting by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type of value: its parser, its description and the TOML types that may hold it.

    `read` raises `ValueError` on text that is not a value of the type.
    """

    expected: str
    read: Callable[[str], object]
    toml: tuple[type, ...] = (str,)


def pattern(expected: str, regex: str) -> ValueType:
    """Return the type of texts that `regex` matches in full; `expected` describes them."""
    compiled = re.compile(regex)

    def read(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError
        return text

    return ValueType(expected, read)


def choice(*words: str) -> ValueType:
    """Return the type whose values are `words`, in upper or lower case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return ValueType(f"one of {', '.join(words)}", read)


def whole(low: int, high: int, *, or_auto: bool = False) -> ValueType:
    """Return the type of integers in [low, high]; `auto`, if allowed, reads as None."""

    def read(text: str) -> int | None:
        if or_auto and text.lower() == "auto":
            return None
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    expected = f"a whole number from {low} to {high}" + (", or auto" if or_auto else "")
    return ValueType(expected, read, (str, int))


def seconds(low: float, high: float) -> ValueType:
    """Return the type of decimals without sign or exponent in [low, high]."""

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
