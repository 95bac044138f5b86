"""A scripted WebSocket server without sockets: under a mock clock, its times are exact.

`trio.open_tcp_stream` of the client is replaced by a pair of memory streams, so that nothing waits
for the system and a `MockClock` may jump as soon as all tasks wait.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

URL = "ws://server.test"

SocketScript = Callable[[WebSocketConnection], Awaitable[None]]


@asynccontextmanager
async def virtual_server(
    script: SocketScript, monkeypatch: pytest.MonkeyPatch, *, connect_s: float = 0.0
) -> AsyncIterator[str]:
    """Run `script` for every socket; yield the base URL. A connection takes `connect_s`."""
    async with trio.open_nursery() as nursery:

        async def open_tcp_stream(host: str, port: int) -> trio.abc.Stream:
            await trio.sleep(connect_s)
            ours, theirs = memory_stream_pair()
            nursery.start_soon(_serve, theirs, script)
            return ours

        with monkeypatch.context() as patch:
            patch.setattr(trio, "open_tcp_stream", open_tcp_stream)
            yield URL
        nursery.cancel_scope.cancel()


async def _serve(stream: trio.abc.Stream, script: SocketScript) -> None:
    with suppress(trio.BrokenResourceError, ConnectionClosed):
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            socket = await request.accept()
            with suppress(ConnectionClosed):
                await script(socket)
            await socket.aclose()
            nursery.cancel_scope.cancel()
