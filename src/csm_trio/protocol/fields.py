"""JSON and query fields in, checked values out; `InvalidRequest` names the field that is wrong.

Knows the bounds of every speech setting, but neither message rules nor endpoints.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, cast

from csm_trio.errors import InvalidRequest
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.voice_settings import VoiceSettings

MAX_SPEAKER_ID = 2**32 - 1
MAX_SEED = 2**32 - 1
MAX_TOP_K = 2**31
MAX_TEMPERATURE = 2.0
AUDIO_LEN_MS = (80, 600_000)
BUFFER_SIZE_FRAMES = (1, 250)
SPEED = (0.7, 1.2)

# The vendor's guides write `xi_api_key`, its schema `xi-api-key` (asyncapi.yml).
_KEY_FIELDS = ("xi-api-key", "xi_api_key")

# No text needs as many, and parsing what stays below takes less than 2 ms.
_MAX_CONTAINERS = 4096
_MAX_COLONS = 8192
_MAX_COMMAS = 24_576

SPEECH_FIELDS = frozenset(
    {"speaker_id", "temperature", "top_k", "seed", "max_audio_len_ms", "buffer_size", "priority"}
    | {"apply_text_normalization", "enable_ssml_parsing", "voice_settings"}
)
"""Every field that `read_settings` reads."""

NO_SETTINGS = SpeechSettings()
NO_VOICE_SETTINGS = VoiceSettings()

_ENGLISH = re.compile(r"(?:en|eng)(?:[-_][a-z0-9]{2,8}){0,3}", re.IGNORECASE)
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
            raise InvalidRequest(f"{name} must be true or false.", param=name, location="query")
        return flag

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return ASCII digits within [low, high]."""
        value = self.values.get(name)
        if value is None:
            return None
        if _INTEGER.fullmatch(value) and low <= int(value) <= high:
            return int(value)
        raise InvalidRequest(
            f"{name} must be a whole number from {low} to {high}.", param=name, location="query"
        )

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a decimal number within [low, high]."""
        value = self.values.get(name)
        if value is None:
            return None
        decimal = len(value) <= _MAX_NUMBER_CHARS and _DECIMAL.fullmatch(value)
        if decimal and low <= float(value) <= high:
            return float(value)
        raise InvalidRequest(
            f"{name} must be a number from {low:g} to {high:g}.", param=name, location="query"
        )


def read_settings(fields: Fields) -> SpeechSettings:
    """Return the speech settings among `fields`, including those in `voice_settings`.

    Without any it is `NO_SETTINGS` itself: most messages of a socket hold text alone.
    """
    if SPEECH_FIELDS.isdisjoint(fields.values):
        return NO_SETTINGS
    settings = SpeechSettings(
        speaker_id=fields.integer("speaker_id", 0, MAX_SPEAKER_ID),
        temperature=fields.number("temperature", 0.0, MAX_TEMPERATURE),
        top_k=fields.integer("top_k", 1, MAX_TOP_K),
        seed=fields.integer("seed", 0, MAX_SEED),
        max_audio_len_ms=fields.integer("max_audio_len_ms", *AUDIO_LEN_MS),
        buffer_size=fields.integer("buffer_size", *BUFFER_SIZE_FRAMES),
        batch=_is_batch(fields.text("priority")),
        normalization=_read_normalization(fields),
        ssml=fields.flag("enable_ssml_parsing"),
    )
    if not isinstance(fields, JsonFields):
        return settings  # a query has no objects
    return read_voice_settings(fields.members("voice_settings")).speech().overridden_by(settings)


def read_voice_settings(fields: JsonFields) -> VoiceSettings:
    """Return the settings among the members of `voice_settings`; unknown ones are ignored.

    Raises `InvalidRequest` naming the member (`voice_settings.stability`) that is wrong.
    """
    if not fields.values:
        return NO_VOICE_SETTINGS
    return VoiceSettings(
        stability=fields.number("stability", 0.0, 1.0),
        similarity_boost=fields.number("similarity_boost", 0.0, 1.0),
        style=fields.number("style", 0.0, 1.0),
        use_speaker_boost=fields.flag("use_speaker_boost"),
        speed=fields.number("speed", *SPEED),
    )


def _read_normalization(fields: Fields) -> Literal["auto", "on", "off"] | None:
    name = "apply_text_normalization"
    value = fields.text(name)
    if value not in (None, "auto", "on", "off"):
        raise InvalidRequest(
            f"{name} must be auto, on or off.", param=name, location=fields.location
        )
    return cast(Literal["auto", "on", "off"] | None, value)


def check_language(fields: Fields) -> None:
    """Raise `InvalidRequest` for a `language_code` that is not English, CSM's only language.

    `en`, `eng` and their regions ("en-US", "en_GB") are English, in any case; absent is allowed.
    """
    value = fields.text("language_code")
    if value and not _ENGLISH.fullmatch(value):
        raise InvalidRequest(
            f"language_code '{value[:20]}' is not supported: this voice speaks English (en).",
            param="language_code",
            location=fields.location,
        )


def _is_batch(priority: str | None) -> bool | None:
    if priority not in (None, "live", "batch"):
        raise InvalidRequest("priority must be live or batch.", param="priority")
    return None if priority is None else priority == "batch"


def read_api_key(fields: Fields) -> str | None:
    """Return the API key among `fields`; an empty one counts as absent."""
    for name in _KEY_FIELDS:
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
