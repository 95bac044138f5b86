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


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text to be said in one voice and one format."""

    voice_id: str
    text: str
    audio_format: AudioFormat
    settings: SpeechSettings = field(default_factory=SpeechSettings)
    model_id: str | None = None
    previous_text: str | None = None
    next_text: str | None = None


def parse_speech_request(
    body: bytes, query: Mapping[str, str], *, voice_id: str, max_chars: int
) -> SpeechRequest:
    """Parse a text-to-speech request; unknown fields and parameters are ignored.

    Null counts as absent. Raises `MissingField`, `TextTooLong`, `UnknownFormat`, or
    `InvalidRequest` naming the field that is wrong (`body` if it is no JSON object).
    """
    fields = JsonFields(_parse_body(body))
    text = fields.text("text")
    if text is None:
        raise MissingField("text")
    if not text.strip():
        raise InvalidRequest("text must hold something to say.", param="text")
    if len(text) > max_chars:
        raise TextTooLong(max_chars)
    fields.check_object("voice_settings")
    check_language(fields)
    asked = SpeechSettings(ssml=QueryFields(query).flag("enable_ssml_parsing"))
    return SpeechRequest(
        voice_id=voice_id,
        text=text,
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_REST_FORMAT)),
        settings=asked.overridden_by(read_settings(fields)),
        model_id=fields.text("model_id"),
        previous_text=fields.text("previous_text"),
        next_text=fields.text("next_text"),
    )


def _parse_body(body: bytes) -> dict[str, object]:
    try:
        return parse_object(body.decode("utf-8-sig"))
    except ValueError:
        raise InvalidRequest("The body must be a JSON object in UTF-8.", param="body") from None
