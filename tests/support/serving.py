"""A whole server in the test's own Trio loop: real sockets, real HTTP, real device thread."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.api.state import ServerState
from csm_trio.config import Config, ServerConfig
from csm_trio.engine.scheduler import Runner
from csm_trio.server import serve

TEST_SERVER = ServerConfig(host="127.0.0.1", port=0, drain_s=5.0)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server of a test: its port, its state, its nursery."""

    port: int
    state: ServerState
    nursery: trio.Nursery

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @asynccontextmanager
    async def dial(
        self,
        voice: str = "default",
        *,
        endpoint: str = "text-to-speech/{voice}/stream-input",
        headers: dict[str, str] | None = None,
        **query: object,
    ) -> AsyncIterator[WebSocketConnection]:
        """Open a WebSocket; its TCP stream is closed at exit."""
        query_string = urlencode(query)
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream, trio.open_nursery() as nursery:
            ws = await wrap_client_stream(
                nursery,
                stream,
                f"127.0.0.1:{self.port}",
                f"/v1/{endpoint.format(voice=voice)}?{query_string}",
                extra_headers=[
                    (name.encode(), text.encode()) for name, text in (headers or {}).items()
                ],
            )
            async with ws:
                yield ws
            nursery.cancel_scope.cancel()

    def metric(self, name: str, **labels: str) -> float:
        return self.state.metrics.registry.get_sample_value(name, labels) or 0.0

    def tasks(self) -> int:
        """Count the tasks of the server."""
        return _count_tasks(self.nursery)


def _count_tasks(nursery: trio.Nursery) -> int:
    children = list(nursery.child_tasks)
    below = (_count_tasks(inner) for task in children for inner in task.child_nurseries)
    return len(children) + sum(below)


@asynccontextmanager
async def serving(
    make_runner: Callable[[], Runner],
    config: Config | None = None,
    *,
    limits: ConnectionLimits | None = None,
) -> AsyncIterator[Server]:
    """Serve on a free port of the loopback until the block is left."""
    given = config or Config()
    config = given if given.server != ServerConfig() else replace(given, server=TEST_SERVER)
    async with trio.open_nursery() as nursery:
        started = await nursery.start(
            partial(serve, config, lambda voices: make_runner(), limits=limits)
        )
        yield Server(started.port, started.state, nursery)
        nursery.cancel_scope.cancel()


async def http_post(
    stream: trio.SocketStream, path: str, body: dict[str, Any], **headers: str
) -> None:
    """Send one bare HTTP/1.1 request, so that a test owns every byte of the socket."""
    payload = json.dumps(body).encode()
    fields = {"host": "test", "content-length": str(len(payload)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    await stream.send_all(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + payload)
