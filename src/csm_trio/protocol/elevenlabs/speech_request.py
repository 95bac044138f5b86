"""ElevenLabs' text-to-speech body and query in, one checked `SpeechRequest` out.

Knows nothing of HTTP beyond these two, and not which voices exist.
"""

from collections.abc import Mapping

from csm_trio.audio.formats import AudioFormat
from csm_trio.protocol.elevenlabs.socket_query import DIALOGUE_MODELS
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import JsonFields, QueryFields, check_language, read_settings
from csm_trio.protocol.rest import SpeechRequest, parse_body, read_text

DEFAULT_REST_FORMAT = "mp3_44100_128"
MAX_REQUEST_IDS = 3


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
    model_id = fields.text("model_id")
    preset = SpeechSettings(
        ssml=QueryFields(query).flag("enable_ssml_parsing"),
        audio_tags=(model_id or "").startswith(DIALOGUE_MODELS) or None,
    )
    return SpeechRequest(
        voice_id=voice_id,
        text=text,
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_REST_FORMAT)),
        settings=preset.overridden_by(read_settings(fields)),
        model_id=model_id,
        previous_text=fields.text("previous_text"),
        previous_request_ids=fields.strings("previous_request_ids", MAX_REQUEST_IDS),
        kept=QueryFields(query).flag("enable_logging") is not False,
    )


def _check_unused(fields: JsonFields) -> None:
    """Check fields that have no effect: CSM's prompt holds earlier speech, never later text."""
    fields.text("next_text")
    fields.strings("next_request_ids", MAX_REQUEST_IDS)
