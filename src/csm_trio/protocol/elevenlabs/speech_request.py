"""ElevenLabs' REST body and query in, one checked `SpeechRequest` out.

Knows nothing of HTTP beyond these two; who may ask and who answers is the door's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.errors import InvalidRequest, MissingField, TextTooLong
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import (
    JsonFields,
    QueryFields,
    check_language,
    parse_object,
    read_settings,
)

DEFAULT_REST_FORMAT = "mp3_44100_128"
MAX_REQUEST_IDS = 3


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text to be said in one voice and one format.

    `previous_request_ids` and `previous_text` say what was said before it; `kept` is whether
    later requests may name this one.
    """

    voice_id: str
    text: str
    audio_format: AudioFormat
    settings: SpeechSettings = field(default_factory=SpeechSettings)
    model_id: str | None = None
    previous_text: str | None = None
    previous_request_ids: tuple[str, ...] = ()
    kept: bool = True


def parse_speech_request(
    body: bytes, query: Mapping[str, str], *, voice_id: str, max_chars: int
) -> SpeechRequest:
    """Parse a text-to-speech request; unknown fields and parameters are ignored.

    Null counts as absent. Raises `MissingField`, `TextTooLong`, `UnknownFormat`, or
    `InvalidRequest` naming the field that is wrong (`body` if it is no JSON object).
    """
    fields = parse_body(body)
    text = read_text(fields, "text", max_chars)
    _check_unused(fields)
    check_language(fields)
    asked = SpeechSettings(ssml=QueryFields(query).flag("enable_ssml_parsing"))
    return SpeechRequest(
        voice_id=voice_id,
        text=text,
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_REST_FORMAT)),
        settings=asked.overridden_by(read_settings(fields)),
        model_id=fields.text("model_id"),
        previous_text=fields.text("previous_text"),
        previous_request_ids=fields.strings("previous_request_ids", MAX_REQUEST_IDS),
        kept=QueryFields(query).flag("enable_logging") is not False,
    )


def parse_body(body: bytes) -> JsonFields:
    """Parse a body; raise `InvalidRequest` for `body` where it is no JSON object in UTF-8."""
    try:
        return JsonFields(parse_object(body.decode("utf-8-sig")))
    except ValueError:
        raise InvalidRequest("The body must be a JSON object in UTF-8.", param="body") from None


def read_text(fields: JsonFields, name: str, max_chars: int) -> str:
    """Return the text to be said; raise `MissingField`, `TextTooLong` or `InvalidRequest`."""
    text, path = fields.text(name), fields.path(name)
    if text is None:
        raise MissingField(path)
    if not text.strip():
        raise InvalidRequest(f"{path} must hold something to say.", param=path)
    if len(text) > max_chars:
        raise TextTooLong(max_chars, param=path)
    return text


def _check_unused(fields: JsonFields) -> None:
    """Check what is without effect: CSM hears what was said before, never what comes after."""
    fields.text("next_text")
    fields.strings("next_request_ids", MAX_REQUEST_IDS)
