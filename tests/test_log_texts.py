"""What clients send to be spoken stays out of the log, unless --log-texts asks for it."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed

from csm_trio.config import Config, SpeechConfig
from csm_trio.pipeline import context
from csm_trio.telemetry import configure_logging
from support.client_calls import SPEECH, http_client, receive_all, send, until
from support.fakes import SineRunner
from support.serving import TEST_SERVER, Server, serving

MARK = "Xylophone"
TEXT = f"The {MARK} plays. A second {MARK}."
GUARD_S = 60.0
DIALOGUE = "/v1/text-to-dialogue"
TURNS = {"inputs": [{"text": TEXT, "voice_id": "speaker_1"}]}
SPOKEN_OVER_REST: list[tuple[str, dict[str, Any]]] = [
    *((f"{SPEECH}{tail}", {"text": TEXT, "previous_text": MARK, "next_text": MARK})
      for tail in ("", "/stream", "/with-timestamps", "/stream/with-timestamps")),
    *((f"{DIALOGUE}{tail}", TURNS)
      for tail in ("", "/stream", "/with-timestamps", "/stream/with-timestamps")),
    ("/v1/audio/speech", {"input": TEXT, "voice": "alloy", "model": "tts-1", "instructions": MARK}),
    ("/v1/audio/speech", {"input": TEXT, "voice": "alloy", "model": "x", "stream_format": "sse"}),
]  # fmt: skip
REFUSED_OVER_REST: list[tuple[str, Any]] = [
    (SPEECH, {"text": {"not": MARK}}),
    (SPEECH, {"text": MARK, "model_id": [MARK]}),
    (SPEECH, {"text": TEXT * 1000}),
    (SPEECH, {"text": f"REFUSE {MARK}"}),
    (SPEECH, {"text": TEXT, "voice_settings": {"speed": MARK}}),
    (SPEECH, {"text": TEXT, "seed": MARK}),
    (f"{SPEECH}?output_format={MARK}", {"text": TEXT}),
    (f"/v1/text-to-speech/{MARK}", {"text": TEXT}),
    (DIALOGUE, {"inputs": MARK}),
    (DIALOGUE, {"inputs": [{"text": MARK, "voice_id": MARK}]}),
    ("/v1/audio/speech", {"input": [MARK], "voice": "alloy"}),
    ("/v1/audio/speech", {"input": TEXT, "voice": "alloy", "response_format": MARK}),
    (f"/v1/{MARK}", {"text": MARK}),
    ("/v1/voices/add", {"name": MARK, "transcripts": [MARK]}),
]
SOCKETS = [
    "text-to-speech/{voice}/stream-input",
    "text-to-speech/{voice}/multi-stream-input",
    "text-to-dialogue/stream-input",
    "text-to-dialogue/multi-stream-input",
]


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Let a test configure the root logger, and restore it; the clients of the test log nothing."""
    root, client = logging.getLogger(), logging.getLogger("trio-websocket")
    handlers, level = root.handlers[:], root.level
    client.setLevel(logging.CRITICAL)
    yield
    client.setLevel(logging.NOTSET)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


async def call_rest(server: Server) -> None:
    async with http_client(server) as client:
        for path, body in SPOKEN_OVER_REST:
            answer = await client.post(path, json=body)
            assert answer.status_code == 200, path
        for path, body in REFUSED_OVER_REST:
            answer = await client.post(path, json=body)
            assert answer.status_code >= 400, path
        with pytest.raises(httpx.RemoteProtocolError):  # an answer that is broken off
            await client.post(f"{SPEECH}/stream", json={"text": f"First one. REFUSE {MARK} then."})
        broken = await client.post(SPEECH, content=f'{{"text": "{MARK}'.encode())
        assert broken.status_code >= 400


def message_of(endpoint: str, text: str) -> dict[str, Any]:
    """Return a message with a text, as an endpoint takes it."""
    if "dialogue" not in endpoint:
        return {"text": text, "context_id": MARK, "flush": True}
    turns = [{"text": text, "voice_id": "speaker_1"}]
    return {"voices": ["speaker_1"], "inputs": turns, "context_id": MARK, "flush": True}


async def call_sockets(server: Server) -> None:
    async with trio.open_nursery() as nursery:
        for endpoint in SOCKETS:
            good = message_of(endpoint, TEXT)
            bad = [f"{{{MARK}", {"text": [MARK]}, MARK.encode(), {**good, "voice_settings": MARK}]
            for message in (good, *bad):
                nursery.start_soon(call_socket, server, endpoint, message)
            nursery.start_soon(hang_up, server, endpoint)


async def call_socket(server: Server, endpoint: str, message: Any) -> None:
    async with server.dial(endpoint=endpoint) as ws:
        await send(ws, message)
        end = {"text": ""} if endpoint == SOCKETS[0] else {"close_socket": True}
        with contextlib.suppress(ConnectionClosed):
            await send(ws, end)
        await receive_all(ws)


async def hang_up(server: Server, endpoint: str) -> None:
    async with server.dial(endpoint=endpoint) as ws:
        await send(ws, message_of(endpoint, f"FRAMES=500 {MARK}. "))
        await ws.get_message()


@pytest.mark.usefixtures("own_logging", "each_topology")
async def test_no_text_is_logged_at_any_level(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(GUARD_S):
        config = Config(server=replace(TEST_SERVER, max_sessions=64))
        async with serving(SineRunner, config) as server:
            configure_logging("debug")
            await call_rest(server)
            await call_sockets(server)
            await until(lambda: server.metric("csm_sessions") == 0)
    logged = capsys.readouterr().err
    assert "context done" in logged
    assert "context cancelled" in logged
    assert "context failed" in logged
    assert MARK not in logged


def fail(*_: object) -> None:
    """Stand for a defect, whose exception quotes what it worked on."""
    raise ValueError(f"cannot read {TEXT!r}")


@pytest.mark.usefixtures("own_logging")
async def test_a_defect_is_logged_without_what_it_quotes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "TimestampTracker", fail)
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, http_client(server) as client:
            configure_logging("debug")
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(SPEECH, json={"text": TEXT})
            async with server.dial() as ws:
                await send(ws, {"text": TEXT}, {"text": ""})
                await receive_all(ws)
    logged = capsys.readouterr().err
    assert logged.count("Traceback (most recent call last):") >= 2
    assert "ValueError" in logged
    assert MARK not in logged


@pytest.mark.usefixtures("own_logging", "each_topology")
async def test_with_the_switch_each_sentence_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = Config(speech=SpeechConfig(log_texts=True))
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config) as server, http_client(server) as client:
            configure_logging("info", texts=True)
            answer = await client.post(SPEECH, json={"text": TEXT})
            async with server.dial(endpoint=SOCKETS[1]) as ws:
                await send(ws, {"text": "One\u2028two. ", "context_id": "a\nb"})
                await send(ws, {"close_socket": True})
                await receive_all(ws)
    lines = [line for line in capsys.readouterr().err.splitlines() if "sentence" in line]
    assert len(lines) == 4
    for index, line in enumerate(lines[:2]):
        assert f"[{answer.headers['request-id']}] context '', sentence {index}: '" in line
        assert MARK in line
    assert "context 'a\\nb', sentence 0: '" in lines[2]


@pytest.mark.usefixtures("own_logging")
async def test_a_logged_sentence_is_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(speech=SpeechConfig(log_texts=True))
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config) as server, http_client(server) as client:
            configure_logging("info", texts=True)
            body = {"text": "la" * 4000, "apply_text_normalization": "off"}
            await client.post(SPEECH, json=body)
    lines = [line for line in capsys.readouterr().err.splitlines() if "sentence" in line]
    assert lines
    assert max(map(len, lines)) < 1_300
