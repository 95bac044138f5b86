"""ElevenLabs' text-to-speech body and query in, one checked `SpeechRequest` out.

Knows nothing of HTTP beyond these two, and not which voices exist.
"""

from collections.abc import Mapping
from dataclasses import replace

from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.protocol.described import Field, Flag, Strings, Text
from csm_trio.protocol.elevenlabs.socket_query import DIALOGUE_MODELS
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import JsonFields, QueryFields
from csm_trio.protocol.rest import SpeechRequest, parse_body, read_text, speech_text
from csm_trio.protocol.speech_fields import (
    LANGUAGE_CODE,
    SETTINGS,
    SSML,
    check_language,
    read_settings,
)

DEFAULT_REST_FORMAT = "mp3_44100_128"
MAX_REQUEST_IDS = 3

MODEL_ID = Text("model_id", "Any name: it selects the one model that is loaded.")
PREVIOUS_TEXT = Text(
    "previous_text", "Counts where a recent request of the same client and voice ended with it."
)
NEXT_TEXT = Text("next_text", "Checked; no effect.")
PREVIOUS_REQUEST_IDS = Strings(
    "previous_request_ids", "Requests whose last sentences precede the prompt.", MAX_REQUEST_IDS
)
NEXT_REQUEST_IDS = Strings("next_request_ids", "Checked; no effect.", MAX_REQUEST_IDS)
ENABLE_LOGGING = Flag(
    "enable_logging", "Whether later requests may name this one as their previous one.", True
)
OUTPUT_FORMAT = Text("output_format", "Codec, sample rate, and bit rate.", choices=FORMATS)


def rest_format(default: str) -> Text:
    """Describe `output_format` of an endpoint."""
    return replace(OUTPUT_FORMAT, default=default)


def speech_body(max_chars: int) -> tuple[Field, ...]:
    """Return the fields of a text-to-speech body."""
    return (
        speech_text("text", max_chars), MODEL_ID, LANGUAGE_CODE, PREVIOUS_TEXT, NEXT_TEXT,
        PREVIOUS_REQUEST_IDS, NEXT_REQUEST_IDS, *SETTINGS,
    )  # fmt: skip


SPEECH_QUERY: tuple[Field, ...] = (rest_format(DEFAULT_REST_FORMAT), ENABLE_LOGGING, SSML)


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
    model_id = MODEL_ID.read(fields)
    preset = SpeechSettings(
        ssml=SSML.read(QueryFields(query)),
        audio_tags=(model_id or "").startswith(DIALOGUE_MODELS) or None,
    )
    return SpeechRequest(
        voice_id=voice_id,
        text=text,
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_REST_FORMAT)),
        settings=preset.overridden_by(read_settings(fields)),
        model_id=model_id,
        previous_text=PREVIOUS_TEXT.read(fields),
        previous_request_ids=PREVIOUS_REQUEST_IDS.read(fields),
        kept=ENABLE_LOGGING.read(QueryFields(query)) is not False,
    )


def _check_unused(fields: JsonFields) -> None:
    """Check fields that have no effect: CSM's prompt holds earlier speech, never later text."""
    NEXT_TEXT.read(fields)
    NEXT_REQUEST_IDS.read(fields)
