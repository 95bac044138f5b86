"""Callers of a test's server: REST by httpx, `stream-input` by hand; and what they must hear."""

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
    """Serve with a runner that hums, for as long as a test may take."""
    config = Config(server=server, speech=speech or SpeechConfig())
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config) as opened:
            yield opened


def locked() -> ServerConfig:
    """Return the settings of a server that asks for a key."""
    return replace(TEST_SERVER, api_key=KEY)


UPGRADE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
_TIMEOUT_S = 10.0


@asynccontextmanager
async def caller(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of `server`, blind to the proxies of the machine it runs on."""
    async with httpx.AsyncClient(
        base_url=server.url(), trust_env=False, timeout=_TIMEOUT_S
    ) as client:
        yield client


async def dial_refused(server: Server, path: str, **headers: str) -> httpx.Response:
    """Ask for an upgrade that must not come, and return the HTTP answer that does."""
    async with caller(server) as client:
        return await client.get(path, headers={**UPGRADE, **headers})


async def tell(ws: WebSocketConnection, *messages: str | bytes | dict[str, Any]) -> None:
    """Send messages: a string or bytes as they are, anything else as JSON."""
    for message in messages:
        await ws.send_message(json.dumps(message) if isinstance(message, dict) else message)


async def hear_all(ws: WebSocketConnection) -> tuple[list[dict[str, Any]], int]:
    """Return every message until the server closes, and its close code."""
    heard = []
    try:
        while True:
            heard.append(json.loads(await ws.get_message()))
    except ConnectionClosed as closed:
        return heard, closed.reason.code if closed.reason else 1006


def joined_audio(messages: Iterable[dict[str, Any]]) -> bytes:
    """Return the audio of all messages that have some, as one stream."""
    return b"".join(base64.b64decode(one["audio"]) for one in messages if one.get("audio"))


def sine_speech(utterances: Iterable[Utterance], format_name: str, *, speed: float = 1.0) -> bytes:
    """Return the one stream that a listener must hear of these utterances, said in a row."""
    pcm = [frame.pcm for utterance in utterances for frame in sine_frames(utterance)]
    encoder = make_encoder(AudioFormat.parse(format_name), speed=speed)
    return encoder.encode(np.concatenate(pcm)) + encoder.finish()


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until a condition holds that nothing announces."""
    while not holds():
        await trio.lowlevel.checkpoint()


async def assert_it_still_serves(server: Server, **headers: str) -> None:
    """Check that nobody is left inside, and that the next REST call and socket are heard out."""
    async with caller(server) as client:
        answer = await client.post(
            f"{SPEECH}/stream?output_format=pcm_16000", json={"text": "Next."}, headers=headers
        )
        assert answer.status_code == 200
        assert answer.content
    async with server.dial(headers=headers) as ws:
        await tell(ws, {"text": "Next."}, {"text": ""})
        heard, code = await hear_all(ws)
    assert heard[-1]["isFinal"] is True
    assert joined_audio(heard)
    assert code == 1000
    assert server.state.engine.borrowed_slots == 0


def detail_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the one object of an error in the vendor's form, which must be whole."""
    assert answer.headers["content-type"] == "application/json"
    detail = answer.json()["detail"]
    assert isinstance(detail, dict)
    assert detail.keys() >= {"type", "code", "message", "status", "request_id"}
    # Before an upgrade there is no such header; REST answers all have one.
    assert answer.headers.get("request-id", detail["request_id"]) == detail["request_id"]
    return detail


def key_shown(key: str) -> list[tuple[str, dict[str, str]]]:
    """Return the ways to show a key, each as query and headers."""
    return [
        ("", {"xi-api-key": key}),
        ("", {"authorization": f"Bearer {key}"}),
        (f"?xi-api-key={key}", {}),
        (f"?xi_api_key={key}", {}),
    ]
