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


def _read_url_path(text: str) -> str:
    """Read a URL path as requests name it; `.` and `..` never arrive, clients resolve them."""
    if not re.fullmatch(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+/?", text):
        raise ValueError
    return text.rstrip("/")


URL_PATH = ValueType("a path such as /tts, of letters, digits and '._~-'", _read_url_path)

_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _read_origins(text: str) -> tuple[str, ...] | None:
    """Read origins as browsers write them (RFC 6454, 6.2); `*` reads as None."""
    if text.strip() == "*":
        return None
    return tuple(dict.fromkeys(_read_origin(one.strip().lower()) for one in text.split(",")))


def _read_origin(text: str) -> str:
    match = _ORIGIN.fullmatch(text.removesuffix("/"))
    if match is None or int(match[3] or 1) not in range(1, 1 << 16):
        raise ValueError
    port = int(match[3] or _DEFAULT_PORTS[match[1]])
    shown = "" if str(port) == _DEFAULT_PORTS[match[1]] else f":{port}"
    return f"{match[1]}://{match[2]}{shown}"


ORIGINS = ValueType("*, or origins such as https://example.com:8443", _read_origins)


def _read_switch(text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise ValueError
    return text.lower() in ("true", "1")


SWITCH = ValueType("true or false", _read_switch, (str, bool))
