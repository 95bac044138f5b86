"""The engine process: the device thread, and a socket to each worker. No HTTP, no encoders."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NoReturn

import trio

from csm_trio.engine.host import EngineHost, open_engine_host
from csm_trio.engine.scheduler import Runner
from csm_trio.errors import StartupError, first_leaf
from csm_trio.metrics_snapshot import Snapshot, take_snapshot
from csm_trio.processes.control_channel import ControlChannel
from csm_trio.processes.handover import HandedOver
from csm_trio.processes.setup import EngineSetup
from csm_trio.server import buffer_targets
from csm_trio.telemetry import Metrics, observed_gc

_POLLS, _POLL_S = 100, 0.01
"""How often, and after how many seconds each, an engine without a supervisor looks for workers."""


@dataclass(frozen=True, slots=True)
class EngineSockets:
    """The engine process's sockets: to the supervisor, and for sockets to workers."""

    control: socket.socket
    handover: socket.socket


async def run_engine_process(
    setup: EngineSetup,
    sockets: EngineSockets,
    make_runner: Callable[[], Runner],
    metrics: Metrics | None = None,
    *,
    supervisor_lost: Callable[[], None] = lambda: None,
) -> None:
    """Load the model and serve workers, until the supervisor closes its channel.

    `supervisor_lost` is called then. A StartupError is sent to the supervisor. Raises what ends the
    device thread.
    """
    metrics = metrics or Metrics()

    async def collect() -> Snapshot:
        await trio.lowlevel.checkpoint()
        return take_snapshot(metrics.registry)

    control = ControlChannel(sockets.control, {"collect": collect}, {})
    host: EngineHost | None = None
    with ExitStack() as stack:
        stack.enter_context(observed_gc(metrics))
        async with trio.open_nursery() as nursery:

            async def end_with_supervisor() -> None:
                await control.run()
                supervisor_lost()
                if host is not None:
                    await _until_workers_end(host)
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_supervisor)
            try:
                async with open_engine_host(
                    make_runner,
                    metrics,
                    targets=buffer_targets(setup.config.engine),
                ) as host:
                    await control.call("ready", host.slots)
                    await _add_workers(host, HandedOver(sockets.handover))
            except* StartupError as group:
                await control.call("failed", str(first_leaf(group)))
            nursery.cancel_scope.cancel()


async def _add_workers(host: EngineHost, handed_over: HandedOver) -> NoReturn:
    async with handed_over:
        while True:
            host.add_worker(await handed_over.accept_socket())


async def _until_workers_end(host: EngineHost) -> None:
    """Wait, within a bound, for the workers, which end with the supervisor as well.

    A worker that sees the end of the engine first would tell its clients that it has failed.
    """
    for _ in range(_POLLS):
        if not host.count_workers():
            return
        await trio.sleep(_POLL_S)
