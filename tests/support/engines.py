"""An engine behind sockets, as a worker has it, with the engine process's side in the same loop."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from csm_trio.engine.host import open_engine_host
from csm_trio.engine.remote import open_remote_engine
from csm_trio.engine.scheduler import Runner
from csm_trio.engine.service import Engine
from csm_trio.telemetry import Metrics


@asynccontextmanager
async def open_engine_behind_sockets(
    make_runner: Callable[[], Runner], metrics: Metrics
) -> AsyncIterator[Engine]:
    """Open a host, and yield the engine of its one worker."""
    async with open_engine_host(make_runner, metrics) as host:
        ours, theirs = socket.socketpair()
        host.add_worker(ours)
        async with open_remote_engine(theirs, host.slots, metrics) as engine:
            yield engine
