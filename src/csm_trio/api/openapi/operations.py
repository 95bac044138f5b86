"""Every operation and socket of the server, by its endpoint in the application.

Fields come from the descriptions that check the requests, schemas of answers from the functions
that make them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from csm_trio.alignment.alignment import Aligned, Alignment
from csm_trio.api.openapi.operation import FORM, Answer, Operation, Socket, json_answer
from csm_trio.api.openapi.sample_schema import schema_of_samples
from csm_trio.api.state import ServerState
from csm_trio.audio.formats import FORMATS, OPENAI_FORMATS, AudioFormat
from csm_trio.errors import (
    CrossSiteRequest,
    EngineBusy,
    EngineFailed,
    InvalidRequest,
    NotOffered,
    NotStored,
    ServerLeaving,
    SpeechError,
    TextTooLong,
    TooManyRequests,
    TooManyVoices,
    UnknownFormat,
    UnknownModel,
    UnknownSample,
    UnknownVoice,
)
from csm_trio.protocol import openai
from csm_trio.protocol.described import Schema
from csm_trio.protocol.elevenlabs import catalog
from csm_trio.protocol.elevenlabs.dialogue_request import DIALOGUE_QUERY, dialogue_body
from csm_trio.protocol.elevenlabs.dialogue_socket import DIALOGUE_MESSAGE, MULTI_DIALOGUE_MESSAGE
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.protocol.elevenlabs.multi_stream_input import MULTI_SPEECH_MESSAGE
from csm_trio.protocol.elevenlabs.socket_messages_out import (
    Message,
    dialogue_message,
    message_text,
    named_message,
    speech_message,
)
from csm_trio.protocol.elevenlabs.socket_query import DIALOGUE_SOCKET_QUERY, SOCKET_QUERY
from csm_trio.protocol.elevenlabs.speech_request import SPEECH_QUERY, speech_body
from csm_trio.protocol.elevenlabs.stream_input import STREAM_INPUT_MESSAGE
from csm_trio.protocol.elevenlabs.timestamps import rest_timestamps, voice_segments
from csm_trio.protocol.elevenlabs.voice_form import NEW_VOICE_FORM, VOICE_FORM
from csm_trio.protocol.events import Audio, ContextCleared, ContextDone, TurnDone
from csm_trio.protocol.speech_fields import VOICE_SETTINGS_FIELDS
from csm_trio.protocol.voice_settings import DEFAULT_VOICE_SETTINGS
from csm_trio.telemetry import METRICS_CONTENT_TYPE
from csm_trio.voices import Voice, VoiceClip

_SPEECH_ERRORS: tuple[type[SpeechError], ...] = (
    InvalidRequest, TextTooLong, UnknownFormat, UnknownVoice, TooManyRequests, EngineBusy,
    ServerLeaving, EngineFailed,
)  # fmt: skip
_CHANGE_ERRORS: tuple[type[SpeechError], ...] = (
    InvalidRequest, UnknownVoice, NotOffered, CrossSiteRequest, NotStored,
)  # fmt: skip
_UPLOAD_ERRORS = (*_CHANGE_ERRORS, TooManyRequests, TooManyVoices)
_BINARY: Schema = {"type": "string", "format": "binary"}
_TEXT: Schema = {"type": "string"}
_STATUS = schema_of_samples({"status": "ok"})
_ALIGNMENT = Alignment(("H", "i"), (0, 80), (80, 80))
_CHUNK = Audio("", b"\0\0", aligned=Aligned(_ALIGNMENT, _ALIGNMENT, 0))
_CHUNK_ALONE = Audio("", b"\0\0")
_VOICE = Voice("id", "Name", 0)
_CLONED = Voice(
    "id", "Name", 0, "cloned", "Text.", (VoiceClip("sample", "Words.", Path("clip.wav")),),
    labels={"accent": "none"}, added_at_unix=1,
)  # fmt: skip
_ACCOUNT = catalog.VoiceAccount(used=1, limit=1, may_add=True)


def operations(state: ServerState) -> dict[str, Operation]:
    """Return the operations by endpoint, with the limits of this server."""
    max_chars = state.speech.max_text_chars
    return {
        **_speech(max_chars),
        **_dialogue(max_chars),
        **_openai(max_chars),
        **_voices(max_chars),
        **_voice_changes(),
        **_operator(),
    }


def sockets() -> dict[str, Socket]:
    """Return the sockets by endpoint."""
    return {
        "sockets.stream_input": Socket(
            SOCKET_QUERY, STREAM_INPUT_MESSAGE, _speech_messages(named=False)
        ),
        "sockets.multi_stream_input": Socket(
            SOCKET_QUERY, MULTI_SPEECH_MESSAGE, _speech_messages(named=True)
        ),
        "sockets.dialogue": Socket(
            DIALOGUE_SOCKET_QUERY, DIALOGUE_MESSAGE, _dialogue_messages(named=False)
        ),
        "sockets.multi_dialogue": Socket(
            DIALOGUE_SOCKET_QUERY, MULTI_DIALOGUE_MESSAGE, _dialogue_messages(named=True)
        ),
    }


def _speech_messages(*, named: bool) -> dict[str, Schema]:
    events: dict[str, list[Message]] = {
        "audio": [speech_message(_CHUNK), speech_message(_CHUNK_ALONE)],
        "end": [speech_message(ContextDone(""))],
        "error": _socket_errors(),
    }
    if not named:
        events["cleared"] = [speech_message(ContextCleared(""))]
        return {name: _message_schema(messages) for name, messages in events.items()}
    named_events = {
        name: [named_message(dict(one), id) for one in messages for id in ("a", "")]
        for name, messages in events.items()
    }
    return _with_session_errors(named_events)


def _dialogue_messages(*, named: bool) -> dict[str, Schema]:
    context: Message = {"context_id": "a"} if named else {}
    events: dict[str, list[Message]] = {
        "audio": [dialogue_message(_CHUNK), dialogue_message(_CHUNK_ALONE)],
        "end of turn": [dialogue_message(TurnDone(""))],
        "end": [dialogue_message(ContextDone(""))],
        "error": _socket_errors(),
    }
    return _with_session_errors(
        {name: [{**one, **context} for one in messages] for name, messages in events.items()}
    )


def _with_session_errors(events: dict[str, list[Message]]) -> dict[str, Schema]:
    """Return the schemas of messages, with errors of the session as a whole: they have no name."""
    errors = [*events["error"], *_socket_errors()]
    return {name: _message_schema(all_) for name, all_ in {**events, "error": errors}.items()}


def _socket_errors() -> list[Message]:
    errors = (EngineBusy(), InvalidRequest("Text.", param="text"))
    return [socket_error(error).to_message() for error in errors]


def _message_schema(messages: list[Message]) -> Schema:
    return schema_of_samples(*(json.loads(message_text(one)) for one in messages))


def _audio(names: tuple[str, ...], parse: Mapping[str, str]) -> Answer:
    types = sorted({parse[name] for name in names})
    about = "Audio in the requested format."
    return Answer(about, dict.fromkeys(types, _BINARY), speech=True)


def _speech_answer() -> Answer:
    return _audio(FORMATS, {name: AudioFormat.parse(name).content_type for name in FORMATS})


def _timestamps(schema: Schema) -> Answer:
    return Answer(
        "Audio and the times of its characters.", {"application/json": schema}, speech=True
    )


def _timestamp_stream(schema: Schema) -> Answer:
    about = "An object for each chunk: one a line, or one a server-sent event."
    line: Schema = {**_TEXT, "contentMediaType": "application/json", "contentSchema": schema}
    event: Schema = {"type": "object", "properties": {"data": line}}  # of each, not of all
    content = {"application/x-ndjson": line, "text/event-stream": event}
    return Answer(about, content, speech=True)


def _speech(max_chars: int) -> dict[str, Operation]:
    chunk = schema_of_samples(rest_timestamps(_CHUNK), rest_timestamps(Audio("", b"")))
    answers = {
        "convert": _speech_answer(),
        "convert_streaming": _speech_answer(),
        "convert_with_timestamps": _timestamps(chunk),
        "stream_with_timestamps": _timestamp_stream(chunk),
    }
    return {
        f"elevenlabs.{name}": Operation(
            "Speech", (answer,), query=SPEECH_QUERY, body=speech_body(max_chars),
            errors=_SPEECH_ERRORS, example={"text": "Thank you for calling."},
        )
        for name, answer in answers.items()
    }  # fmt: skip


def _dialogue(max_chars: int) -> dict[str, Operation]:
    segments = voice_segments([_CHUNK], ["id"])
    whole = schema_of_samples(
        rest_timestamps(_CHUNK, voice_segments=segments),
        rest_timestamps(Audio("", b""), voice_segments=[]),
    )
    answers = {
        "convert": _speech_answer(),
        "convert_streaming": _speech_answer(),
        "convert_with_timestamps": _timestamps(whole),
        "stream_with_timestamps": _timestamp_stream(whole),
    }
    example = {"inputs": [{"voice_id": "default", "text": "Hello."}]}
    return {
        f"dialogue.{name}": Operation(
            "Dialogue", (answer,), query=DIALOGUE_QUERY, body=dialogue_body(max_chars),
            errors=_SPEECH_ERRORS, example=example,
        )
        for name, answer in answers.items()
    }  # fmt: skip


def _openai(max_chars: int) -> dict[str, Operation]:
    types = {name: AudioFormat.parse_openai(name).content_type for name in OPENAI_FORMATS}
    audio = _audio(OPENAI_FORMATS, types)
    models = schema_of_samples(openai.audio_models_body())
    voices = schema_of_samples(openai.audio_voices_body([_VOICE]))
    speech = Answer(audio.about, {**audio.content, "text/event-stream": {}}, speech=True)
    return {
        "openai.speech": Operation(
            "OpenAI", (speech,), body=openai.openai_body(max_chars), errors=_SPEECH_ERRORS,
            error_form="openai",
            example={"model": "tts-1", "input": "Thank you for calling.", "voice": "alloy"},
        ),
        "openai.model": Operation(
            "OpenAI",
            (json_answer("The model.", schema_of_samples(openai.model_body("tts-1"))),),
            errors=(UnknownModel,), error_form="by header",
        ),
        "openai.audio_models": Operation(
            "OpenAI", (json_answer("The models.", models),), error_form="openai", keyless=True
        ),
        "openai.audio_voices": Operation(
            "OpenAI", (json_answer("The voices.", voices),), error_form="openai", keyless=True
        ),
    }  # fmt: skip


def _voices(max_chars: int) -> dict[str, Operation]:
    one, cloned = (catalog.voice_body(it, DEFAULT_VOICE_SETTINGS) for it in (_VOICE, _CLONED))
    voice, settings = (
        schema_of_samples(one, cloned),
        schema_of_samples(asdict(DEFAULT_VOICE_SETTINGS)),
    )
    page = catalog.voices_page(catalog.VoicesQuery(page_size=1), [one, cloned])
    last = catalog.voices_page(catalog.VoicesQuery(), [one, cloned])
    models: Schema = {
        "anyOf": [
            schema_of_samples(catalog.models_body(max_chars)),
            schema_of_samples(openai.models_body()),
        ]
    }
    edit_errors = (InvalidRequest, UnknownVoice, NotOffered, NotStored)

    def listing(about: str, schema: Schema) -> Operation:
        return Operation("Voices", (json_answer(about, schema),))

    def of_voice(about: str, schema: Schema) -> Operation:
        return Operation("Voices", (json_answer(about, schema),), errors=(UnknownVoice,))

    return {
        "catalog.voices": listing("All voices.", schema_of_samples({"voices": [one, cloned]})),
        "catalog.search_voices": Operation(
            "Voices", (json_answer("One page.", schema_of_samples(page, last)),),
            query=catalog.VOICES_QUERY, errors=(InvalidRequest,),
        ),
        "catalog.voice": of_voice("The voice.", voice),
        "catalog.settings": of_voice("Its settings.", settings),
        "catalog.default_settings": listing("The defaults.", settings),
        "catalog.edit_settings": Operation(
            "Voices", (json_answer("They hold from now on.", _STATUS),),
            body=VOICE_SETTINGS_FIELDS, errors=edit_errors, http_errors=(415,),
            example={"stability": 0.7},
        ),
        "catalog.models": Operation(
            "Account", (json_answer("The models, in the form of the client.", models),),
            error_form="by header",
        ),
        "catalog.user": Operation(
            "Account",
            (json_answer("No limits.", schema_of_samples(catalog.user_body(_ACCOUNT))),),
        ),
        "catalog.subscription": Operation(
            "Account",
            (json_answer("No limits.", schema_of_samples(catalog.subscription_body(_ACCOUNT))),),
        ),
        "catalog.history": Operation(
            "Account", (json_answer("None.", schema_of_samples(catalog.history_body())),)
        ),
        "catalog.single_use_token": Operation(
            "Account", (json_answer("A token.", schema_of_samples({"token": "text"})),),
            errors=(InvalidRequest,), path_values={"purpose": ("tts_websocket",)},
        ),
    }  # fmt: skip


def _voice_changes() -> dict[str, Operation]:
    added = schema_of_samples(
        {"voice_id": "id", "requires_verification": False, "warnings": ["Text."]}
    )
    return {
        "voice_changes.add_voice": Operation(
            "Voices", (json_answer("The voice is ready.", added),), body=NEW_VOICE_FORM,
            body_type=FORM, errors=_UPLOAD_ERRORS, http_errors=(408, 415),
        ),
        "voice_changes.add_professional_voice": Operation(
            "Voices", (), errors=(NotOffered,)
        ),
        "voice_changes.edit_voice": Operation(
            "Voices", (json_answer("The voice is changed.", _STATUS),), body=VOICE_FORM,
            body_type=FORM, errors=_UPLOAD_ERRORS, http_errors=(408, 415),
        ),
        "voice_changes.delete_voice": Operation(
            "Voices", (json_answer("The voice is gone.", _STATUS),), errors=_CHANGE_ERRORS
        ),
        "voice_changes.sample_audio": Operation(
            "Voices",
            (Answer("The clip.", {"audio/x-wav": _BINARY, "application/octet-stream": _BINARY}),),
            errors=(UnknownVoice, UnknownSample),
        ),
        "voice_changes.delete_sample": Operation(
            "Voices", (json_answer("The clip is gone.", _STATUS),),
            errors=(*_CHANGE_ERRORS, UnknownSample),
        ),
    }  # fmt: skip


def _operator() -> dict[str, Operation]:
    def probe(good: str, bad: str) -> Operation:
        answers = (json_answer(good, _STATUS), json_answer(bad, _STATUS, status=503))
        return Operation("Operation", answers, keyless=True)

    health = probe("The step loop answers.", "It does not.")
    return {
        "ops.healthz": health,
        "ops.readyz": probe("New sessions are admitted.", "The server is draining."),
        "ops.metrics": Operation(
            "Operation", (Answer("Prometheus' text format.", {METRICS_CONTENT_TYPE: _TEXT}),),
            keyless=True,
        ),
        **{
            f"descriptions.{name}": Operation(
                "Operation", (json_answer(about, {"type": "object"}),), keyless=True,
                            )
            for name, about in (
                ("openapi", "This document."), ("asyncapi", "The description of the sockets."),
            )
        },
    }  # fmt: skip
