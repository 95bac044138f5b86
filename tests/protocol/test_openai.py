"""OpenAI's convention: its body, events, lists and errors."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import (
    EngineBusy,
    EngineFailed,
    InvalidRequest,
    MissingField,
    NotOffered,
    ServerLeaving,
    SpeechError,
    TextTooLong,
    Unauthorized,
    UnknownFormat,
    UnknownModel,
    UnknownVoice,
)
from csm_trio.protocol.events import Audio, SpeechSettings
from csm_trio.protocol.openai import (
    OpenAIRequest,
    audio_event,
    done_event,
    model_body,
    models_body,
    openai_error,
    parse_openai_request,
)

SPEECH: dict[str, Any] = {"model": "tts-1", "input": "Hello.", "voice": "alloy"}


def parse(max_chars: int = 10_000, **fields: object) -> OpenAIRequest:
    body = json.dumps({**SPEECH, **fields}).encode()
    return parse_openai_request(body, max_chars=max_chars)


def test_three_fields_are_required() -> None:
    requested = parse()
    assert (requested.speech.voice_id, requested.speech.text, requested.speech.model_id) == (
        *("alloy", "Hello.", "tts-1"),
    )
    assert requested.speech.audio_format.codec == "mp3"
    assert requested.speech.settings == SpeechSettings()
    assert not requested.as_events
    assert not requested.speech.kept


def test_every_optional_field_is_read() -> None:
    requested = parse(
        voice={"id": "zoe"},
        instructions="Whisper.",
        response_format="wav",
        stream_format="sse",
        speed=4,
        seed=3,
        of_nobody=[1],
    )
    assert (requested.speech.voice_id, requested.speech.text) == ("zoe", "Hello.")
    assert requested.speech.audio_format.codec == "wav"
    assert (requested.speech.settings.seed, requested.speech.settings.speed) == (3, 4.0)
    assert requested.as_events


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": "a" * 4097}, "input"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"voice": None}, "voice"),
        ({"voice": 3}, "voice"),
        ({"voice": {}}, "voice.id"),
        ({"voice": {"id": 3}}, "voice.id"),
        ({"instructions": 3}, "instructions"),
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.1}, "speed"),
        ({"response_format": "ogg"}, "response_format"),
        ({"stream_format": "lines"}, "stream_format"),
    ],
)
def test_an_error_names_the_wrong_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    fault = openai_error(caught.value)
    assert fault.status == 400
    error = fault.body["error"]
    assert isinstance(error, dict)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["message"]


def test_the_servers_own_text_limit_applies_too() -> None:
    with pytest.raises(TextTooLong):
        parse(5)


@given(st.binary())
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_openai_request(body, max_chars=100)


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"),
    [
        (MissingField("input"), 400, "invalid_request_error", "input",
         "missing_required_parameter"),
        (UnknownVoice("x"), 400, "invalid_request_error", "voice", "invalid_value"),
        (UnknownFormat("x", ("y",), param="response_format"), 400, "invalid_request_error",
         "response_format", "invalid_value"),
        (TextTooLong(5), 400, "invalid_request_error", "input", "string_above_max_length"),
        (UnknownModel("x"), 404, "invalid_request_error", "model", "model_not_found"),
        (Unauthorized(), 401, "invalid_request_error", None, "invalid_api_key"),
        (NotOffered("No."), 403, "invalid_request_error", None, "unsupported_value"),
        (EngineBusy(), 503, "server_error", None, "system_busy"),
        (ServerLeaving(), 503, "server_error", None, "system_busy"),
        (EngineFailed(), 500, "server_error", None, "internal_error"),
    ],
)  # fmt: skip
def test_an_error_has_openais_form(
    error: SpeechError, status: int, kind: str, param: str | None, code: str
) -> None:
    rendered = openai_error(error)
    assert rendered.status == status
    assert rendered.body.keys() == {"error"}
    body = rendered.body["error"]
    assert isinstance(body, dict)
    assert body.pop("message")
    assert body == {"type": kind, "param": param, "code": code}


def test_a_full_server_sends_retry_after() -> None:
    assert openai_error(EngineBusy(retry_after_s=7)).headers == {"Retry-After": "7"}


@given(st.binary())
def test_a_chunk_is_one_event(data: bytes) -> None:
    event = audio_event(Audio("", data))
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    sent = json.loads(event.removeprefix(b"data: "))
    assert sent == {"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}


def test_the_last_event_sums_the_usage() -> None:
    sent = json.loads(done_event(input_tokens=3, output_tokens=4).removeprefix(b"data: "))
    assert sent == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }


def test_every_listed_model_can_be_shown() -> None:
    listed = models_body()
    assert listed["object"] == "list"
    assert isinstance(listed["data"], list)
    for model in listed["data"]:
        assert model_body(model["id"]) == model
        assert model.keys() == {"id", "object", "created", "owned_by"}
