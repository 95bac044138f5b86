"""Clients of a test's server: REST by httpx, sockets by hand; and the audio they must receive."""

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import AudioFormat
from csm_trio.config import Config, ServerConfig, SpeechConfig
from csm_trio.engine.utterance import Utterance
from support.fakes import SineRunner, sine_frames
from support.serving import TEST_SERVER, Server, serving

SPEECH = "/v1/text-to-speech/default"
SOCKET = f"{SPEECH}/stream-input"
KEY = "s3cret-0123456789"
GUARD_S = 30.0
HI: dict[str, Any] = {"text": "Hi."}


@asynccontextmanager
async def running_server(
    server: ServerConfig = TEST_SERVER, speech: SpeechConfig | None = None
) -> AsyncIterator[Server]:
    """Serve with a sine runner, for as long as a test may take."""
    config = Config(server=server, speech=speech or SpeechConfig())
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config) as opened:
            yield opened


def locked() -> ServerConfig:
    """Return the settings of a server with an API key."""
    return replace(TEST_SERVER, api_key=KEY)


UPGRADE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
_TIMEOUT_S = 10.0


@asynccontextmanager
async def http_client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of `server`, which ignores the proxies of the machine."""
    async with httpx.AsyncClient(
        base_url=server.url(), trust_env=False, timeout=_TIMEOUT_S
    ) as client:
        yield client


async def dial_refused(server: Server, path: str, **headers: str) -> httpx.Response:
    """Request an upgrade that must be refused, and return the HTTP answer."""
    async with http_client(server) as client:
        return await client.get(path, headers={**UPGRADE, **headers})


async def send(ws: WebSocketConnection, *messages: str | bytes | dict[str, Any]) -> None:
    """Send messages: a string or bytes as they are, anything else as JSON."""
    for message in messages:
        await ws.send_message(json.dumps(message) if isinstance(message, dict) else message)


async def receive_all(ws: WebSocketConnection) -> tuple[list[dict[str, Any]], int]:
    """Return every message until the server closes, and its close code."""
    received = []
    try:
        while True:
            received.append(json.loads(await ws.get_message()))
    except ConnectionClosed as closed:
        return received, closed.reason.code if closed.reason else 1006


def joined_audio(messages: Iterable[dict[str, Any]]) -> bytes:
    """Return the audio of all messages that have some, as one stream."""
    return b"".join(base64.b64decode(one["audio"]) for one in messages if one.get("audio"))


def sine_speech(utterances: Iterable[Utterance], format_name: str, *, speed: float = 1.0) -> bytes:
    """Return the stream that a client must receive for these utterances, in order."""
    pcm = [frame.pcm for utterance in utterances for frame in sine_frames(utterance)]
    encoder = make_encoder(AudioFormat.parse(format_name), speed=speed)
    return encoder.encode(np.concatenate(pcm)) + encoder.finish()


async def until(holds: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds that no event announces."""
    while not holds():
        await trio.lowlevel.checkpoint()


async def assert_it_still_serves(server: Server, **headers: str) -> None:
    """Check that the next REST request and socket are served whole, and that no slot is leaked."""
    async with http_client(server) as client:
        answer = await client.post(
            f"{SPEECH}/stream?output_format=pcm_16000", json={"text": "Next."}, headers=headers
        )
        assert answer.status_code == 200
        assert answer.content
    async with server.dial(headers=headers) as ws:
        await send(ws, {"text": "Next."}, {"text": ""})
        received, code = await receive_all(ws)
    assert received[-1]["isFinal"] is True
    assert joined_audio(received)
    assert code == 1000
    assert server.state.engine.borrowed_slots == 0


def detail_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the detail of an error in the vendor's form, which must be complete."""
    assert answer.headers["content-type"] == "application/json"
    detail = answer.json()["detail"]
    assert isinstance(detail, dict)
    assert detail.keys() >= {"type", "code", "message", "status", "request_id"}
    # Before an upgrade there is no such header; REST answers all have one.
    assert answer.headers.get("request-id", detail["request_id"]) == detail["request_id"]
    return detail


def ways_to_present(key: str) -> list[tuple[str, dict[str, str]]]:
    """Return the ways to present a key, each as query and headers."""
    return [
        ("", {"xi-api-key": key}),
        ("", {"authorization": f"Bearer {key}"}),
        (f"?xi-api-key={key}", {}),
        (f"?xi_api_key={key}", {}),
    ]
