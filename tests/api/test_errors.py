"""Refusals of REST requests: the error, and that the next request is served.

After every refusal of the tables below the same server serves a REST request and a socket.
"""

import json
import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
import trio

from csm_trio.api import app
from csm_trio.config import SpeechConfig
from support.client_calls import (
    GUARD_S,
    HI,
    KEY,
    SOCKET,
    SPEECH,
    assert_it_still_serves,
    detail_of,
    dial_refused,
    http_client,
    locked,
    receive_all,
    running_server,
    send,
    until,
    ways_to_present,
)
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, serving

# path after the voice, body, HTTP status, legacy status, param
OBJECTS = [
    ("nobody", HI, 404, "voice_not_found", "voice_id"),
    ("nobody/stream", HI, 404, "voice_not_found", "voice_id"),
    ("99999999999", HI, 404, "voice_not_found", "voice_id"),
    ("default?output_format=mp3_1", HI, 403, "invalid_output_format", "output_format"),
    ("default/stream?output_format=", HI, 403, "invalid_output_format", "output_format"),
    ("default/stream/with-timestamps?output_format=PCM_24000", HI, 403, "invalid_output_format",
     "output_format"),
    ("default", {"text": "a" * 51}, 413, "max_character_limit_exceeded", "text"),
    ("default/stream", {"text": "REFUSE me."}, 413, "max_character_limit_exceeded", "text"),
    ("default", {"text": "OVERFLOW."}, 500, "internal_error", None),
    ("default/stream", {"text": "OVERFLOW FRAMES=0"}, 500, "internal_error", None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "legacy", "param"), OBJECTS)
async def test_a_refusal_is_one_object(
    path: str, body: dict[str, Any], status: int, legacy: str, param: str
) -> None:
    async with running_server(speech=SpeechConfig(max_text_chars=50)) as server:
        async with http_client(server) as client:
            answer = await client.post(f"/v1/text-to-speech/{path}", json=body)
        assert answer.status_code == status
        detail = detail_of(answer)
        assert (detail["status"], detail.get("param")) == (legacy, param)
        await assert_it_still_serves(server)


# body, location of the error
FIELDS: list[tuple[dict[str, Any] | bytes, list[str]]] = [
    ({"text": ""}, ["body", "text"]),
    ({"text": " \n\t"}, ["body", "text"]),
    ({"text": 5}, ["body", "text"]),
    ({"text": ["Hi."]}, ["body", "text"]),
    ({**HI, "speaker_id": -1}, ["body", "speaker_id"]),
    ({**HI, "speaker_id": "0"}, ["body", "speaker_id"]),
    ({**HI, "speaker_id": 1.5}, ["body", "speaker_id"]),
    ({**HI, "temperature": 2.5}, ["body", "temperature"]),
    ({**HI, "temperature": True}, ["body", "temperature"]),
    ({**HI, "top_k": 0}, ["body", "top_k"]),
    ({**HI, "seed": 2**32}, ["body", "seed"]),
    ({**HI, "max_audio_len_ms": 10}, ["body", "max_audio_len_ms"]),
    ({**HI, "buffer_size": 0}, ["body", "buffer_size"]),
    ({**HI, "voice_settings": "calm"}, ["body", "voice_settings"]),
    ({**HI, "model_id": 3}, ["body", "model_id"]),
    ({**HI, "apply_text_normalization": "maybe"}, ["body", "apply_text_normalization"]),
    ({**HI, "language_code": "fr"}, ["body", "language_code"]),
    ({"text": "Hi. <?a?>", "enable_ssml_parsing": True}, ["body", "text"]),
    ({"text": "&hi;", "enable_ssml_parsing": True}, ["body", "text"]),
    (b"", ["body"]),
    (b"Hi.", ["body"]),
    (b'["Hi."]', ["body"]),
    (b'{"text": "Hi.", "temperature": NaN}', ["body"]),
    (b'{"text": "\xff"}', ["body"]),
    (b"[" * 100_000, ["body"]),
]


@pytest.mark.parametrize(("body", "location"), FIELDS)
async def test_a_wrong_field_is_named_in_a_list(
    body: dict[str, Any] | bytes, location: list[str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with running_server() as server:
        async with http_client(server) as client:
            answer = await client.post(SPEECH, content=content)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/json"
        (fault,) = answer.json()["detail"]
        assert (fault["type"], fault["loc"]) == ("value_error", location)
        assert fault["msg"]
        await assert_it_still_serves(server)


@pytest.mark.parametrize("body", [{}, {"text": None}, {"Text": "Hi."}])
async def test_a_missing_text_has_the_vendors_error(body: dict[str, Any]) -> None:
    async with running_server() as server:
        async with http_client(server) as client:
            answer = await client.post(f"{SPEECH}/stream", json=body)
        assert answer.status_code == 422
        assert answer.json() == {
            "detail": [
                {"type": "missing", "loc": ["body", "text"], "msg": "Field required", "input": None}
            ]
        }
        await assert_it_still_serves(server)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nowhere", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/playground/1/nothing.js", 404),
        ("POST", "/v1/text-to-speech/", 404),
        ("GET", SPEECH, 405),
        ("PUT", f"{SPEECH}/stream", 405),
        ("POST", "/healthz", 405),
    ],
)
async def test_an_unknown_path_is_answered_in_json(method: str, path: str, status: int) -> None:
    async with running_server() as server:
        async with http_client(server) as client:
            answer = await client.request(method, path)
        assert answer.status_code == status
        assert detail_of(answer)["type"] == "invalid_request"
        await assert_it_still_serves(server)


@pytest.mark.parametrize(("path", "allowed"), [(SPEECH, "POST"), ("/metrics", "GET")])
async def test_a_wrong_method_is_answered_with_the_allowed_ones(path: str, allowed: str) -> None:
    """RFC 9110 §15.5.6: a 405 must carry `Allow`."""
    async with running_server() as server, http_client(server) as client:
        answer = await client.delete(path)
    assert answer.status_code == 405
    assert allowed in answer.headers.get("allow", "")


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("size_bytes", [(1 << 20) + 1, 3 << 20])
async def test_a_body_over_a_mebibyte_is_refused_in_json(size_bytes: int, in_chunks: bool) -> None:
    async with running_server() as server:
        async with http_client(server) as client, aclosing(chunks_of(size_bytes)) as body:
            answer = await client.post(SPEECH, content=body if in_chunks else bytes(size_bytes))
            assert answer.status_code == 413
            assert detail_of(answer)["type"] == "invalid_request"
        await assert_it_still_serves(server)


async def chunks_of(size_bytes: int) -> AsyncGenerator[bytes, None]:
    for at in range(0, size_bytes, 4096):
        yield bytes(min(4096, size_bytes - at))


@pytest.mark.parametrize(("size_bytes", "key"), [(3 << 20, KEY), (900 << 10, "wrong")])
async def test_an_unread_body_does_not_stall_the_next_request(size_bytes: int, key: str) -> None:
    """The answer precedes the body: the connection must stay usable, or be closed."""
    async with running_server(locked()) as server:
        idle = server.tasks()
        for _ in range(6):  # it is a race
            async with http_client(server) as client:
                refused = await client.post(
                    SPEECH, content=bytes(size_bytes), headers={"xi-api-key": key}
                )
                assert refused.status_code in (401, 413)
                answer = await client.post(SPEECH, json=HI, headers={"xi-api-key": KEY}, timeout=2)
                assert answer.status_code == 200
        with trio.fail_after(2):
            await until(lambda: server.tasks() == idle)


async def test_a_body_that_never_arrives_is_refused_and_the_connection_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "UNREAD_BODY_S", 0.05)
    async with running_server() as server:
        idle = server.tasks()
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            head = f"POST {SPEECH} HTTP/1.1\r\nhost: test\r\ncontent-length: 5000000\r\n\r\n"
            await stream.send_all(head.encode())
            with trio.move_on_after(2) as patience:
                answer = b"".join([chunk async for chunk in stream])
            assert not patience.cancelled_caught, "the connection stays open"
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()
        await until(lambda: server.tasks() == idle)
        await assert_it_still_serves(server)


KEYLESS = ["/healthz", "/health", "/readyz", "/metrics"]


@pytest.mark.parametrize("endpoint", ["", "/stream", "/stream/with-timestamps"])
async def test_a_key_is_accepted_in_every_place(endpoint: str) -> None:
    path = SPEECH + endpoint
    async with running_server(locked()) as server, http_client(server) as client:
        for query, headers in ways_to_present(KEY):
            answer = await client.post(path + query, json=HI, headers=headers)
            assert answer.status_code == 200
        wrong = [
            *ways_to_present(KEY[:-1]),
            *ways_to_present(KEY + "0"),
            ("", {}),
            ("", {"xi-api-key": ""}),
        ]
        for query, headers in wrong:
            answer = await client.post(path + query, json=HI, headers=headers)
            assert answer.status_code == 401
            detail = detail_of(answer)
            assert (detail["type"], detail["status"], detail["message"]) == (
                *("authentication_error", "invalid_api_key", "Invalid API key"),
            )
        await assert_it_still_serves(server, **{"xi-api-key": KEY})


async def test_health_and_metrics_need_no_key() -> None:
    async with running_server(locked()) as server, http_client(server) as client:
        for path in KEYLESS:
            assert (await client.get(path)).status_code == 200


@pytest.mark.usefixtures("short_error_to_close")
async def test_no_key_is_logged_or_returned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    async with running_server(locked()) as server:
        async with http_client(server) as client:
            for path in (SPEECH, f"{SPEECH}?output_format=no", "/v1/text-to-speech/no", "/v1/no"):
                for key in (KEY, "wr0ng-key"):
                    for query, headers in ways_to_present(key):
                        mark = "&" if "?" in path else "?"
                        answer = await client.post(
                            path + query.replace("?", mark),
                            json={**HI, "top_k": 1},
                            headers=headers,
                        )
                        seen += [answer.text, str(answer.headers)]
            seen += [(await client.get(path)).text for path in KEYLESS]
        for message in (
            {"text": " ", "xi_api_key": KEY, "top_k": "x"},
            {"xi_api_key": "wr0ng-key"},
        ):
            async with server.dial() as ws:
                await send(ws, message)
                seen.append(str(await receive_all(ws)))
        seen.append(repr(server.state.server))
    # The client of this test logs in the same process.
    own = ("httpx", "httpcore", "trio-websocket")
    seen += [one.getMessage() for one in caplog.records if not one.name.startswith(own)]
    everything = "\n".join(seen)
    assert "context done" in everything, "the log was read"
    assert KEY not in everything
    assert "wr0ng-key" not in everything


async def test_a_full_server_sends_retry_after() -> None:
    async with running_server(replace(TEST_SERVER, max_sessions=1)) as server:
        async with server.dial() as ws, http_client(server) as client:
            answers = [
                await client.post(f"{SPEECH}{endpoint}", json=HI)
                for endpoint in ("", "/stream", "/stream/with-timestamps")
            ]
            answers.append(await dial_refused(server, SOCKET))
            for answer in answers:
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
                assert detail_of(answer)["status"] == "system_busy"
            await send(ws, HI, {"text": ""})
            received, code = await receive_all(ws)
            assert (received[-1]["isFinal"], code) == (True, 1000)
        await until(lambda: server.metric("csm_sessions") == 0)
        await assert_it_still_serves(server)


async def test_a_draining_server_refuses_new_sessions() -> None:
    gate = StepGate()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate)) as server:
            try:
                async with server.dial() as ws, http_client(server) as client:
                    await send(ws, {"text": "I was here before. "}, {"text": ""})
                    await gate.held()
                    signal.raise_signal(signal.SIGTERM)
                    await until(lambda: server.state.admission.draining)
                    for answer in (
                        await client.post(SPEECH, json=HI),
                        await client.post(f"{SPEECH}/stream", json=HI),
                        await dial_refused(server, SOCKET),
                    ):
                        assert answer.status_code == 503
                        assert "retry-after" in answer.headers
                        assert detail_of(answer)["status"] == "system_busy"
                    gate.open()
                    received, code = await receive_all(ws)
                    assert (received[-1]["isFinal"], code) == (True, 1000)
            finally:
                gate.open()
