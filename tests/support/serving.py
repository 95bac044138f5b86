"""A whole server in the test's own Trio loop: real sockets, real HTTP, real device thread.

Also with a supervisor, an engine process and a worker, all three as tasks of that loop: the same
code and sockets as in processes of their own.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

import trio
from prometheus_client import CollectorRegistry
from trio_websocket import WebSocketConnection, wrap_client_stream

from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.api.state import ServerState
from csm_trio.config import Config, ServerConfig
from csm_trio.engine.scheduler import Runner
from csm_trio.processes.supervisor import supervise
from csm_trio.server import serve
from csm_trio.voice_store.encoder_process import EncodeVoices, encode_voices
from support.child_tasks import ChildTasks


@dataclass(slots=True)
class Topology:
    """Whether servers have a worker; the fixture `each_topology` sets it."""

    workers: bool = False


topology = Topology()

TEST_SERVER = ServerConfig(host="127.0.0.1", port=0, drain_s=5.0)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server of a test: its port, its state, its nursery."""

    port: int
    state: ServerState
    nursery: trio.Nursery
    registries: tuple[CollectorRegistry, ...]

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def dial(
        self,
        voice: str = "default",
        *,
        endpoint: str = "text-to-speech/{voice}/stream-input",
        headers: dict[str, str] | None = None,
        **query: object,
    ) -> AbstractAsyncContextManager[WebSocketConnection]:
        """Open a WebSocket; its TCP stream is closed at exit."""
        return dial(
            self.port, f"/v1/{endpoint.format(voice=voice)}?{urlencode(query)}", headers or {}
        )

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a sample over all processes."""
        return sum(one.get_sample_value(name, labels) or 0.0 for one in self.registries)

    def tasks(self) -> int:
        """Count the tasks of the server."""
        return _count_tasks(self.nursery)


@asynccontextmanager
async def dial(
    port: int, path: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket to the loopback; its TCP stream is closed at exit."""
    fields = [(name.encode(), text.encode()) for name, text in (headers or {}).items()]
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream, trio.open_nursery() as nursery:
        ws = await wrap_client_stream(
            nursery, stream, f"127.0.0.1:{port}", path, extra_headers=fields
        )
        async with ws:
            yield ws
        nursery.cancel_scope.cancel()


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
    encode: EncodeVoices = encode_voices,
) -> AsyncIterator[Server]:
    """Serve on a free port of the loopback until the block is left."""
    given = config or Config()
    config = given if given.server != ServerConfig() else replace(given, server=TEST_SERVER)
    async with trio.open_nursery() as nursery:
        if topology.workers:
            yield await _start_with_a_worker(nursery, make_runner, config, limits, encode)
        else:
            started = await nursery.start(
                partial(serve, config, make_runner, limits=limits, encode=encode)
            )
            registries = (started.state.metrics.registry,)
            yield Server(started.port, started.state, nursery, registries)
        nursery.cancel_scope.cancel()


async def _start_with_a_worker(
    nursery: trio.Nursery,
    make_runner: Callable[[], Runner],
    config: Config,
    limits: ConnectionLimits | None,
    encode: EncodeVoices,
) -> Server:
    children = ChildTasks(make_runner, limits)
    config = replace(config, server=replace(config.server, workers=1))
    started = await nursery.start(partial(supervise, config, spawn=children.spawn, encode=encode))
    (state,) = children.states
    metrics = (started.supervisor.metrics, children.engine_metrics, state.metrics)
    return Server(started.port, state, nursery, tuple(one.registry for one in metrics))


async def http_post(
    stream: trio.abc.SendStream, path: str, body: dict[str, Any], **headers: str
) -> None:
    """Send one bare HTTP/1.1 request, so that a test owns every byte of the socket."""
    payload = json.dumps(body).encode()
    fields = {"host": "test", "content-length": str(len(payload)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    await stream.send_all(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + payload)
