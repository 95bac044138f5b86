"""A WebSocket server that runs a test's script, on a free port."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from csm_trio.protocol.elevenlabs.socket_messages_out import speech_message
from csm_trio.protocol.events import Audio, ContextDone

FINAL = json.dumps(speech_message(ContextDone("")))

Script = Callable[[WebSocketRequest], Awaitable[None]]


@asynccontextmanager
async def scripted_server(script: Script) -> AsyncIterator[str]:
    """Run `script` for every client and yield the base URL; a client's hang-up ends its script."""

    async def serve_client(request: WebSocketRequest) -> None:
        with suppress(ConnectionClosed):
            await script(request)

    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, serve_client, "127.0.0.1", 0, None)
        server = await nursery.start(serve)
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


def spoken(data: bytes) -> str:
    """Return the message that carries `data`."""
    return json.dumps(speech_message(Audio("", data)))


async def next_text(socket: WebSocketConnection) -> str:
    """Return the text of the client's next message, which must have nothing else."""
    message = json.loads(await socket.get_message())
    assert list(message) == ["text"]
    text = message["text"]
    assert isinstance(text, str)
    return text


async def all_text(socket: WebSocketConnection) -> list[str]:
    """Return all texts up to the empty one that ends the stream."""
    texts = []
    while text := await next_text(socket):
        texts.append(text)
    return texts


async def close_code(socket: WebSocketConnection) -> int:
    """Wait until the client has closed and return its code."""
    with pytest.raises(ConnectionClosed) as closed:
        await socket.get_message()
    assert closed.value.reason is not None
    return closed.value.reason.code
