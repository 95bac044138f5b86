"""Errors in the vendor's form, over HTTP and on sockets."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import (
    ClientStalled,
    EngineBusy,
    EngineFailed,
    InputTimeout,
    InvalidMessage,
    InvalidRequest,
    MissingField,
    NotOffered,
    SpeechError,
    TextTooLong,
    Unauthorized,
    UnknownFormat,
    UnknownVoice,
)
from csm_trio.protocol.elevenlabs.errors import rest_error, socket_error

BAD_SEED = InvalidRequest("seed is wrong.", param="seed")


class Unforeseen(SpeechError):
    """An error in no table."""


@pytest.mark.parametrize(
    ("error", "name", "code", "param"),
    [
        (Unauthorized(), "invalid_api_key", 1008, None),
        (UnknownVoice("x"), "voice_id_does_not_exist", 1008, "voice_id"),
        (UnknownFormat("x", ("y",)), "invalid_output_format", 1008, "output_format"),
        (InvalidMessage(), "invalid_input_message", 1008, "message"),
        (BAD_SEED, "invalid_input_message", 1008, "seed"),
        (InputTimeout(20), "input_timeout_exceeded", 1008, None),
        (ClientStalled(10), "listener_stalled", 1008, None),
        (TextTooLong(5), "max_character_limit_exceeded", 1009, "text"),
        (NotOffered("Not here."), "feature_not_available", 1008, None),
        (EngineBusy(), "system_busy", 1013, None),
        (EngineFailed(), "internal_error", 1011, None),
        (Unforeseen("Odd."), "internal_error", 1011, None),
    ],
)
def test_a_socket_error_has_the_vendors_name_and_a_true_close_code(
    error: SpeechError, name: str, code: int, param: str | None
) -> None:
    rendered = socket_error(error)
    sent = json.loads(rendered.to_text())
    assert (sent["error"], sent["code"], sent.get("param")) == (name, code, param)
    assert (rendered.error, rendered.code, rendered.message) == (name, code, sent["message"])


def test_error_messages_match_the_recorded_ones() -> None:
    assert socket_error(Unauthorized()).message == "Invalid API key"
    assert socket_error(UnknownVoice("X")).message == "A voice with voice_id X does not exist."
    assert json.loads(socket_error(Unauthorized()).to_text()) == {
        "message": "Invalid API key",
        "error": "invalid_api_key",
        "code": 1008,
    }


@given(st.text(st.characters()))
def test_a_close_reason_fits_a_close_frame_and_is_a_prefix_of_the_message(message: str) -> None:
    reason = socket_error(EngineFailed(message)).reason
    assert len(reason.encode()) <= 123
    assert message.encode("utf-8", "replace").decode().startswith(reason)
    if len(message) <= 30:
        assert len(reason) == len(message)


@pytest.mark.parametrize(
    ("error", "status", "type_", "code", "legacy", "param"),
    [
        (Unauthorized(), 401, "authentication_error", "unauthorized", "invalid_api_key", None),
        (UnknownVoice("X"), 404, "not_found", "voice_not_found", "voice_not_found", "voice_id"),
        (
            UnknownFormat("X", ("y",)),
            403,
            "validation_error",
            "invalid_output_format",
            "invalid_output_format",
            "output_format",
        ),
        (
            TextTooLong(5),
            413,
            "validation_error",
            "text_too_long",
            "max_character_limit_exceeded",
            "text",
        ),
        (
            NotOffered("Not here."),
            403,
            "authorization_error",
            "feature_not_available",
            "feature_not_available",
            None,
        ),
        (EngineBusy(), 503, "service_unavailable", "system_busy", "system_busy", None),
        (EngineFailed(), 500, "internal_error", "internal_error", "internal_error", None),
        (Unforeseen("Odd."), 500, "internal_error", "internal_error", "internal_error", None),
    ],
)
def test_a_rest_error_is_one_object(
    error: SpeechError, status: int, type_: str, code: str, legacy: str, param: str | None
) -> None:
    rendered = rest_error(error, request_id="r1")
    detail = {
        "type": type_,
        "code": code,
        "message": error.message,
        "status": legacy,
        "request_id": "r1",
    }
    if param is not None:
        detail["param"] = param
    assert rendered.status == status
    assert rendered.body == {"detail": detail}


@pytest.mark.parametrize(
    ("error", "kind", "loc"),
    [
        (MissingField("text"), "missing", ["body", "text"]),
        (BAD_SEED, "value_error", ["body", "seed"]),
        (InvalidRequest("No.", param="top_k", location="query"), "value_error", ["query", "top_k"]),
        (InvalidRequest("No JSON.", param="body"), "value_error", ["body"]),
        (InvalidRequest("No.", param="a.b"), "value_error", ["body", "a", "b"]),
    ],
)
def test_a_wrong_field_is_answered_with_a_list_that_locates_it(
    error: InvalidRequest, kind: str, loc: list[str]
) -> None:
    rendered = rest_error(error, request_id="r1")
    assert rendered.status == 422
    assert rendered.body == {
        "detail": [{"type": kind, "loc": loc, "msg": error.message, "input": None}]
    }


def test_a_full_server_sends_retry_after() -> None:
    assert rest_error(EngineBusy(retry_after_s=7), request_id="r").headers == {"Retry-After": "7"}
    assert rest_error(Unauthorized(), request_id="r").headers == {}
