"""OpenAI's speech convention: its body in, a checked request out; its events, lists and errors.

Knows neither HTTP nor which voices exist.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csm_trio.audio.formats import OPENAI_FORMATS, AudioFormat
from csm_trio.errors import (
    EngineBusy,
    InvalidRequest,
    MissingField,
    NotOffered,
    ServerLeaving,
    SpeechError,
    TextTooLong,
    TooManyRequests,
    Unauthorized,
    UnknownModel,
    UnknownVoice,
)
from csm_trio.protocol.described import Described, Field, Number, Text
from csm_trio.protocol.events import Audio, SpeechSettings
from csm_trio.protocol.fields import JsonFields
from csm_trio.protocol.rest import RestError, SpeechRequest, parse_body, read_text, speech_text
from csm_trio.protocol.speech_fields import SETTINGS, read_settings
from csm_trio.voices import Voice

JsonObject = dict[str, object]

MAX_INPUT_CHARS = 4096
VOICE_NAMES = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx"),
    *("nova", "sage", "shimmer", "verse", "marin", "cedar"),
)
"""OpenAI's voices; the server's voices stand in for them in this order."""

MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "csm")
_CREATED = 1_741_824_000
"""Unix time of CSM's release, for the required `created` of a model object."""

DEFAULT_FORMAT = "mp3"

MODEL = Text(
    "model",
    "Any name: it selects the one model that is loaded.",
    required=True,
    absent_if_empty=True,
)
VOICE = Described(
    "voice", "A voice id or one of OpenAI's names, or an object with it as `id`.",
    {"anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    ]},
    required=True,
)  # fmt: skip
INSTRUCTIONS = Text("instructions", "Checked; no effect.")
RESPONSE_FORMAT = Text(
    "response_format",
    "Codec of the audio.",
    OPENAI_FORMATS,
    default=DEFAULT_FORMAT,
    absent_if_empty=True,
)
STREAM_FORMAT = Text(
    "stream_format", "Bytes of audio, or server-sent events.", ("audio", "sse"), default="audio"
)
SPEED = Number("speed", "Tempo without a change of pitch.", 0.25, 4.0, 1.0)


def openai_body(max_chars: int) -> tuple[Field, ...]:
    """Return the fields of the body of `POST /v1/audio/speech`."""
    text = speech_text("input", min(max_chars, MAX_INPUT_CHARS))
    return (
        text, MODEL, VOICE, INSTRUCTIONS, RESPONSE_FORMAT, STREAM_FORMAT, SPEED, *SETTINGS,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A speech request, and whether its audio is sent as server-sent events."""

    speech: SpeechRequest
    as_events: bool


def parse_openai_request(body: bytes, *, max_chars: int) -> OpenAIRequest:
    """Parse the body of `POST /v1/audio/speech`; unknown fields are ignored.

    `model` may be any name, `instructions` any text: neither has an effect. Raises
    `MissingField`, `TextTooLong`, `UnknownFormat`, or `InvalidRequest` naming the field.
    """
    fields = parse_body(body)
    text = read_text(fields, "input", min(max_chars, MAX_INPUT_CHARS))
    model_id = MODEL.read(fields)
    if not model_id:
        raise MissingField("model")
    INSTRUCTIONS.read(fields)
    stream_format = STREAM_FORMAT.read(fields)
    speech = SpeechRequest(
        voice_id=_read_voice(fields),
        text=text,
        audio_format=AudioFormat.parse_openai(fields.text("response_format") or DEFAULT_FORMAT),
        settings=read_settings(fields).overridden_by(SpeechSettings(speed=SPEED.read(fields))),
        model_id=model_id,
        kept=False,
    )
    return OpenAIRequest(speech, stream_format == "sse")


def _read_voice(fields: JsonFields) -> str:
    """Return the voice's name: `"alloy"`, or the id of `{"id": "…"}`."""
    if isinstance(fields.values.get("voice"), dict):
        voice_id = fields.members("voice").text("id")
        if voice_id is None:
            raise MissingField("voice.id")
        return voice_id
    name = fields.text("voice")
    if name is None:
        raise MissingField("voice")
    return name


def audio_event(audio: Audio) -> bytes:
    """Return a chunk as a server-sent event."""
    encoded = base64.b64encode(audio.data).decode("ascii")
    return _event({"type": "speech.audio.delta", "audio": encoded})


def done_event(*, input_tokens: int, output_tokens: int) -> bytes:
    """Return the last server-sent event."""
    usage = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }
    return _event({"type": "speech.audio.done", "usage": usage})


def _event(value: JsonObject) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def models_body() -> JsonObject:
    """Return `GET /v1/models`."""
    return {"object": "list", "data": [model_body(name) for name in MODELS]}


def model_body(name: str) -> JsonObject:
    """Return `GET /v1/models/{model}`; raise `UnknownModel` if it is not listed."""
    if name not in MODELS:
        raise UnknownModel(name)
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "csm-trio"}


def audio_models_body() -> JsonObject:
    """Return `GET /v1/audio/models`, which Open WebUI reads; OpenAI has no such list."""
    return {"models": [{"id": name, "name": name} for name in MODELS]}


def audio_voices_body(voices: Iterable[Voice]) -> JsonObject:
    """Return `GET /v1/audio/voices`, which Open WebUI reads; OpenAI has no such list."""
    return {"voices": [{"id": voice.voice_id, "name": voice.name} for voice in voices]}


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> JsonObject:
    """Return an error body in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_STATUSES: Mapping[type[SpeechError], tuple[int, str, str]] = {
    UnknownModel: (404, "invalid_request_error", "model_not_found"),
    MissingField: (400, "invalid_request_error", "missing_required_parameter"),
    TextTooLong: (400, "invalid_request_error", "string_above_max_length"),
    InvalidRequest: (400, "invalid_request_error", "invalid_value"),
    Unauthorized: (401, "invalid_request_error", "invalid_api_key"),
    TooManyRequests: (429, "rate_limit_error", "rate_limit_exceeded"),
    NotOffered: (403, "invalid_request_error", "unsupported_value"),
    EngineBusy: (503, "server_error", "system_busy"),
    ServerLeaving: (503, "server_error", "system_busy"),
    SpeechError: (500, "server_error", "internal_error"),
}

# OpenAI's names of fields that `InvalidRequest.param` names in ElevenLabs' way.
_PARAMS = {"voice_id": "voice", "text": "input"}


def openai_status(kind: type[SpeechError]) -> int:
    """Return the HTTP status that errors of this type are answered with."""
    return _entry_of(kind)[0]


def _entry_of(kind: type[SpeechError]) -> tuple[int, str, str]:
    return next(_STATUSES[ancestor] for ancestor in kind.__mro__ if ancestor in _STATUSES)


def openai_error(error: SpeechError) -> RestError:
    """Return `error` in the form of OpenAI's API."""
    status, kind, code = _entry_of(type(error))
    message, param = error.message, None
    if isinstance(error, InvalidRequest):
        param = _PARAMS.get(error.param, error.param)
        if isinstance(error, UnknownVoice):
            message = f"The voice '{error.voice_id}' is not known; GET /v1/audio/voices lists them."
        elif isinstance(error, MissingField):
            message = f"Missing required parameter: '{param}'."
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return RestError(status, error_body(message, kind, param=param, code=code), headers)
