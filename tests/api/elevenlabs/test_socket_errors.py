"""Refusals on `stream-input` sockets: one error message and a close with its code.

After every refusal of the tables below the same server serves a REST request and a socket.
"""

import json
import logging
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketConnection

from csm_trio.config import SpeechConfig
from support.client_calls import (
    HI,
    KEY,
    SOCKET,
    SPEECH,
    assert_it_still_serves,
    detail_of,
    dial_refused,
    joined_audio,
    locked,
    receive_all,
    running_server,
    send,
    until,
    ways_to_present,
)

# query, HTTP status, words in the answer
UPGRADES = [
    ("output_format=pcm_1", 403, "output_format"),
    ("output_format=pcm_24000x", 403, "output_format"),
    ("temperature=hot", 422, "temperature"),
    ("top_k=0", 422, "top_k"),
    ("speaker_id=-1", 422, "speaker_id"),
    ("max_audio_len_ms=1", 422, "max_audio_len_ms"),
    ("buffer_size=a", 422, "buffer_size"),
    ("inactivity_timeout=181", 422, "inactivity_timeout"),
    ("auto_mode=perhaps", 422, "auto_mode"),
    ("apply_text_normalization=always", 422, "apply_text_normalization"),
    ("enable_ssml_parsing=2", 422, "enable_ssml_parsing"),
    ("language_code=ja", 422, "language_code"),
]


@pytest.mark.parametrize(("query", "status", "named"), UPGRADES)
async def test_an_invalid_query_is_refused_before_the_upgrade(
    query: str, status: int, named: str
) -> None:
    async with running_server() as server:
        idle = server.tasks()
        answer = await dial_refused(server, f"{SOCKET}?{query}")
        await until(lambda: server.tasks() == idle)
        assert answer.status_code == status
        assert answer.headers["x-trace-id"]
        if status == 403:
            detail = detail_of(answer)
            assert (detail["status"], detail["param"]) == ("invalid_output_format", named)
        else:
            assert [fault["loc"] for fault in answer.json()["detail"]] == [["query", named]]
        await assert_it_still_serves(server)


async def test_a_dialogue_model_is_refused_before_the_upgrade_as_recorded() -> None:
    async with running_server() as server:
        for endpoint in ("stream-input", "multi-stream-input"):
            answer = await dial_refused(server, f"{SPEECH}/{endpoint}?model_id=eleven_v3")
            assert answer.status_code == 400
            detail = detail_of(answer)
            del detail["request_id"]
            assert detail == {
                "type": "validation_error",
                "code": "unsupported_model",
                "status": "unsupported_model",
                "param": "model_id",
                "message": "Model 'eleven_v3' is not supported on the text-to-speech websocket "
                "endpoint. Use the text-to-dialogue websocket endpoint instead.",
            }
        await assert_it_still_serves(server)


async def test_a_wrong_key_is_upgraded_answered_with_an_error_and_closed_later() -> None:
    async with running_server(locked()) as server:
        async with server.dial(headers={"xi-api-key": "wrong"}) as ws:
            error = json.loads(await ws.get_message())
            error_at_s = trio.current_time()
            assert error == {"message": "Invalid API key", "error": "invalid_api_key", "code": 1008}
            assert await receive_all(ws) == ([], 1008)
            # Half of the vendor's delay, so that a client's reader is up before the close.
            assert trio.current_time() - error_at_s > 0.4
        await assert_it_still_serves(server, **{"xi-api-key": KEY})


@pytest.mark.usefixtures("short_error_to_close")
@pytest.mark.parametrize("field", ["xi_api_key", "xi-api-key", "authorization"])
async def test_the_first_message_may_carry_the_key(field: str) -> None:
    async with running_server(locked()) as server:
        async with server.dial() as ws:
            await send(ws, {"text": " ", field: KEY}, HI, {"text": ""})
            received, code = await receive_all(ws)
        assert (received[-1]["isFinal"], code) == (True, 1000)
        assert joined_audio(received)
        for opener in ({"text": " ", field: "wrong"}, {"text": " "}, {"text": ""}):
            async with server.dial() as ws:
                await send(ws, opener)
                received, code = await receive_all(ws)
            assert ([one["error"] for one in received], code) == (["invalid_api_key"], 1008)
        await assert_it_still_serves(server, **{"xi-api-key": KEY})


@pytest.mark.usefixtures("short_error_to_close")
@pytest.mark.parametrize(("query", "headers"), [*ways_to_present(KEY), *ways_to_present("wrong")])
async def test_a_socket_presents_its_key_like_a_request(
    query: str, headers: dict[str, str]
) -> None:
    right = KEY in query + str(headers)
    requested = dict([query[1:].split("=")]) if query else {}
    async with running_server(locked()) as server, server.dial(headers=headers, **requested) as ws:
        if right:
            await send(ws, HI, {"text": ""})
        received, code = await receive_all(ws)
    assert code == (1000 if right else 1008)
    assert received[-1].get("error") == (None if right else "invalid_api_key")


SCHEMA = (
    "Could not parse input message, make sure it is a json and follows the schema outlined in "
    "protocol."
)
BIG = json.dumps({"text": "a " * (1 << 20)})

# message, error, close code, part of the error text
MESSAGES: list[tuple[str | bytes | dict[str, Any], str, int, str]] = [
    ("{no json", "invalid_input_message", 1008, SCHEMA),
    ("", "invalid_input_message", 1008, SCHEMA),
    ("[]", "invalid_input_message", 1008, SCHEMA),
    ('"text"', "invalid_input_message", 1008, SCHEMA),
    ("null", "invalid_input_message", 1008, SCHEMA),
    ('{"text": NaN}', "invalid_input_message", 1008, SCHEMA),
    ("[" * 100_000, "invalid_input_message", 1008, SCHEMA),
    (b'{"text": "Hi."}', "invalid_input_message", 1003, SCHEMA),
    (b"", "invalid_input_message", 1003, SCHEMA),
    ({"text": 5}, "invalid_input_message", 1008, "text"),
    ({"text": "Hi.", "flush": "yes"}, "invalid_input_message", 1008, "flush"),
    ({"text": "Hi.", "try_trigger_generation": 1}, "invalid_input_message", 1008, "try_trigger"),
    ({"text": "Hi.", "speaker_id": -1}, "invalid_input_message", 1008, "speaker_id"),
    ({"text": "Hi.", "temperature": 9}, "invalid_input_message", 1008, "temperature"),
    ({"text": "Hi.", "top_k": "1"}, "invalid_input_message", 1008, "top_k"),
    ({"text": " ", "voice_settings": []}, "invalid_input_message", 1008, "voice_settings"),
    ({"text": " ", "generation_config": 3}, "invalid_input_message", 1008, "generation_config"),
    (
        {"text": " ", "generation_config": {"chunk_length_schedule": [9]}},
        "invalid_input_message",
        1008,
        "chunk_length_schedule",
    ),
    ({"text": "Hi.", "clear": "now"}, "invalid_input_message", 1008, "clear"),
    (
        {"text": "Hi. <!DOCTYPE a>", "enable_ssml_parsing": True},
        "invalid_input_message",
        1008,
        "DTD",
    ),
    ({"text": "a" * 51}, "max_character_limit_exceeded", 1009, "50 characters"),
    ({"text": "REFUSE me. "}, "max_character_limit_exceeded", 1009, "characters"),
]


@pytest.mark.usefixtures("short_error_to_close")
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(("message", "error", "code", "expected_text"), MESSAGES)
async def test_a_wrong_message_is_answered_with_one_error_and_a_close(
    message: str | bytes | dict[str, Any], error: str, code: int, expected_text: str, opened: bool
) -> None:
    async with running_server(speech=SpeechConfig(max_pending_chars=50)) as server:
        async with server.dial() as ws:
            await send(ws, *([{"text": " "}] if opened else []), message, HI, {"text": ""})
            received, closed = await receive_all(ws)
            assert ws.closed is not None
            assert ws.closed.reason == received[-1]["message"][:123]
        assert [(one["error"], one["code"]) for one in received] == [(error, code)]
        assert expected_text in received[0]["message"]
        assert closed == code
        await assert_it_still_serves(server)


@pytest.mark.usefixtures("short_error_to_close")
async def test_changed_voice_settings_end_the_session_with_the_vendors_error() -> None:
    async with running_server() as server:
        async with server.dial() as ws:
            for stability in (0.5, 0.5, 0.6):
                await send(ws, {"text": " ", "voice_settings": {"stability": stability}})
            received, code = await receive_all(ws)
        assert [one["message"] for one in received] == [
            "voice_settings field must be provided in the first message and then either be not "
            "provided or not change."
        ]
        assert (received[0]["error"], code) == ("invalid_input_message", 1008)
        await assert_it_still_serves(server)


@pytest.mark.usefixtures("short_error_to_close")
async def test_an_unknown_voice_is_refused_on_the_socket() -> None:
    async with running_server() as server:
        async with server.dial("nobody") as ws:
            received, code = await receive_all(ws)
        assert received == [
            {
                "message": "A voice with voice_id nobody does not exist.",
                "error": "voice_id_does_not_exist",
                "code": 1008,
                "param": "voice_id",
            }
        ]
        assert code == 1008
        await assert_it_still_serves(server)


async def test_a_message_of_two_mebibytes_closes_the_socket() -> None:
    async with running_server() as server:
        async with server.dial() as ws:
            await send_until_closed(ws, BIG)
            assert await receive_all(ws) == ([], 1009)
        await until(lambda: server.metric("csm_sessions") == 0)
        await assert_it_still_serves(server)


async def send_until_closed(ws: WebSocketConnection, message: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ws.send_message, message)


@pytest.mark.usefixtures("short_error_to_close")
async def test_an_inactive_client_gets_the_recorded_timeout_error() -> None:
    async with running_server() as server:
        async with server.dial(inactivity_timeout=1) as ws:
            await send(ws, {"text": " "})
            received, code = await receive_all(ws)
        assert received == [
            {
                "message": "Have not received a new text input within the timeout of 1.0 seconds. "
                "Streaming input terminated. Please make sure to either feed the input in the "
                "timely manner, or to send the end of input text (empty string "
                '"") when done.',
                "error": "input_timeout_exceeded",
                "code": 1008,
            }
        ]
        assert code == 1008
        await assert_it_still_serves(server)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/audio/speech", SPEECH, f"{SPEECH}/stream"])
async def test_an_upgrade_on_a_path_without_a_socket_is_answered_in_json_and_not_logged(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_server() as server:
        answer = await dial_refused(server, path)
        assert 400 <= answer.status_code < 500
        detail_of(answer)
        assert [one for one in caplog.records if one.levelno > logging.INFO] == []
        await assert_it_still_serves(server)


async def test_both_sides_closing_at_once_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with running_server() as server:
        for _ in range(10):
            async with server.dial() as ws:
                await send(ws, {"text": ""})
                await ws.aclose()
        await until(lambda: server.metric("csm_connections") == 0)
        assert [one for one in caplog.records if one.levelno > logging.INFO] == []
        await assert_it_still_serves(server)
