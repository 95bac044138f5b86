"""Parts of an HTTP request and answer that every vendor's REST convention shares.

Knows neither HTTP routes nor a vendor's names of fields and errors.
"""

from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.errors import InvalidRequest, MissingField, TextTooLong
from csm_trio.protocol.described import Described
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import JsonFields, parse_object


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text to be synthesized in one voice and one format.

    `previous_request_ids` and `previous_text` name the speech that precedes it; `kept` is whether
    later requests may name this one as their previous one.
    """

    voice_id: str
    text: str
    audio_format: AudioFormat
    settings: SpeechSettings = field(default_factory=SpeechSettings)
    model_id: str | None = None
    previous_text: str | None = None
    previous_request_ids: tuple[str, ...] = ()
    kept: bool = True


@dataclass(frozen=True, slots=True)
class RestError:
    """An error as an HTTP answer; `body` is the JSON object to send."""

    status: int
    body: dict[str, object]
    headers: dict[str, str] = field(default_factory=dict)


def parse_body(body: bytes) -> JsonFields:
    """Parse a body; raise `InvalidRequest` for `body` where it is no JSON object in UTF-8."""
    try:
        return JsonFields(parse_object(body.decode("utf-8-sig")))
    except ValueError:
        raise InvalidRequest("The body must be a JSON object in UTF-8.", param="body") from None


# What `str.strip` leaves; `\s` of ECMA-262 has not all that it removes.
_NOT_BLANK = r"[^\s\x1c-\x1f\x85]"


def speech_text(name: str, max_chars: int) -> Described:
    """Describe the text to synthesize, which `read_text` reads."""
    return Described(
        name,
        "The text to synthesize.",
        {"type": "string", "minLength": 1, "maxLength": max_chars, "pattern": _NOT_BLANK},
        required=True,
    )


def read_text(fields: JsonFields, name: str, max_chars: int) -> str:
    """Return the text to synthesize.

    Raises `MissingField`, `TextTooLong`, or `InvalidRequest` for text of whitespace only.
    """
    text, path = fields.text(name), fields.path(name)
    if text is None:
        raise MissingField(path)
    if not text.strip():
        raise InvalidRequest(f"{path} must hold something to say.", param=path)
    if len(text) > max_chars:
        raise TextTooLong(max_chars, param=path)
    return text
