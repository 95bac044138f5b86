"""JSON and query fields in, checked values out; `InvalidRequest` names the field that is wrong.

Knows the types of JSON and of a query's text, and no field.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from csm_trio.errors import InvalidRequest

# The vendor's guides write `xi_api_key`, its schema `xi-api-key` (asyncapi.yml).
KEY_FIELDS = ("xi-api-key", "xi_api_key")

# No text needs as many, and parsing what stays below takes less than 2 ms.
_MAX_CONTAINERS = 4096
_MAX_COLONS = 8192
_MAX_COMMAS = 24_576

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
# No sensible number is longer; the cap bounds the backtracking of the patterns above.
_MAX_NUMBER_CHARS = 32
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Fields(Protocol):
    """Named values from a client, each checked as it is read; None where absent."""

    location: ClassVar[Literal["body", "query"]]

    @property
    def values(self) -> Mapping[str, object]:
        """The values as the client gave them."""

    def text(self, name: str) -> str | None:
        """Return a string, fit for UTF-8."""

    def flag(self, name: str) -> bool | None:
        """Return a truth value."""

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number within [low, high]."""

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a finite number within [low, high]."""


@dataclass(frozen=True, slots=True)
class JsonFields:
    """The members of a JSON object; null counts as absent.

    A truth value is no number. `5.0` is accepted as a whole number: JSON has only one kind of
    number. `within` is the path of the object in a larger one.
    """

    values: Mapping[str, object]
    within: str = ""
    location: ClassVar[Literal["body", "query"]] = "body"

    def path(self, name: str) -> str:
        """Return the path of a member for error messages: `voice_settings.stability`."""
        return f"{self.within}.{name}" if self.within else name

    def text(self, name: str) -> str | None:
        """Return a string; lone surrogates (half an emoji in a delta) become U+FFFD."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return _whole_characters(value)

    def flag(self, name: str) -> bool | None:
        """Return true or false."""
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(name, "true or false")

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number within [low, high]."""
        value = self.values.get(name)
        if value is None:
            return None
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and low <= value <= high
            and value == int(value)
        ):
            return int(value)
        raise self._wrong(name, f"a whole number from {low} to {high}")

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a number within [low, high]."""
        value = self.values.get(name)
        if value is None:
            return None
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and low <= value <= high  # an infinity, JSON's 1e999, lies outside
        ):
            return float(value)
        raise self._wrong(name, f"a number from {low:g} to {high:g}")

    def members(self, name: str) -> "JsonFields":
        """Return the members of an object; none where it is null or absent."""
        value = self.values.get(name)
        if value is None:
            return JsonFields({}, self.path(name))
        if not isinstance(value, dict):
            raise self._wrong(name, "an object or null")
        return JsonFields(value, self.path(name))

    def objects(
        self, name: str, *, at_least: int = 0, at_most: int
    ) -> list[dict[str, object]] | None:
        """Return a list of objects; None where it is null or absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or not at_least <= len(value) <= at_most
            or not all(isinstance(one, dict) for one in value)
        ):
            count = f"{at_least} to {at_most}" if at_least else f"at most {at_most}"
            raise self._wrong(name, f"a list of {count} objects")
        return value

    def strings(self, name: str, at_most: int) -> tuple[str, ...]:
        """Return a list of strings, none where it is null or absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or len(value) > at_most
            or not all(isinstance(one, str) for one in value)
        ):
            raise self._wrong(name, f"a list of at most {at_most} strings")
        return tuple(value)

    def _wrong(self, name: str, expected: str) -> InvalidRequest:
        path = self.path(name)
        return InvalidRequest(f"{path} must be {expected}.", param=path)


@dataclass(frozen=True, slots=True)
class QueryFields:
    """The parameters of a query string."""

    values: Mapping[str, str]
    location: ClassVar[Literal["body", "query"]] = "query"

    def text(self, name: str) -> str | None:
        """Return the parameter verbatim."""
        return self.values.get(name)

    def flag(self, name: str) -> bool | None:
        """Return `true`, `false`, `1` or `0`, in any case, as a truth value."""
        value = self.values.get(name)
        if value is None:
            return None
        flag = _FLAGS.get(value.lower())
        if flag is None:
            raise self._wrong(name, "true or false")
        return flag

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return ASCII digits within [low, high]."""
        value = self.values.get(name)
        if value is None:
            return None
        if _INTEGER.fullmatch(value) and low <= int(value) <= high:
            return int(value)
        raise self._wrong(name, f"a whole number from {low} to {high}")

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a decimal number within [low, high]."""
        value = self.values.get(name)
        if value is None:
            return None
        decimal = len(value) <= _MAX_NUMBER_CHARS and _DECIMAL.fullmatch(value)
        if decimal and low <= float(value) <= high:
            return float(value)
        raise self._wrong(name, f"a number from {low:g} to {high:g}")

    def _wrong(self, name: str, expected: str) -> InvalidRequest:
        return InvalidRequest(f"{name} must be {expected}.", param=name, location=self.location)


class FormFields(QueryFields):
    """The texts of a form, in the body of a request."""

    __slots__ = ()
    location: ClassVar[Literal["body", "query"]] = "body"


def read_api_key(fields: Fields) -> str | None:
    """Return the API key among `fields`; an empty one counts as absent."""
    for name in KEY_FIELDS:
        key = fields.text(name)
        if key:
            return key
    return bearer_token(fields.text("authorization"))


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an `Authorization` value, with or without the word Bearer before it."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip() or None
    return (authorization or "").strip() or None


def parse_object(text: str) -> dict[str, object]:
    """Parse a JSON object; raise `ValueError` if it is none, nested too deeply, or of many values.

    NaN and the infinities, which Python reads but JSON does not allow, are refused.
    """
    # Counted within strings, too: to tell them apart would cost as much as parsing.
    if (
        text.count("{") + text.count("[") > _MAX_CONTAINERS
        or text.count(":") > _MAX_COLONS
        or text.count(",") > _MAX_COMMAS
    ):
        raise ValueError("too many values")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _whole_characters(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
