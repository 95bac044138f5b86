"""A WebSocket server whose every move a test writes down, on a port of its own."""

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
    """Serve `script` to every caller and yield the base URL; a caller who leaves ends it."""

    async def serve_caller(request: WebSocketRequest) -> None:
        with suppress(ConnectionClosed):
            await script(request)

    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, serve_caller, "127.0.0.1", 0, None)
        server = await nursery.start(serve)
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


def spoken(data: bytes) -> str:
    """Return the frame that carries `data`."""
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
