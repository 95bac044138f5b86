"""The engine for other processes: a device thread that talks to workers by itself."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from csm_trio.engine.device_thread import open_device_thread
from csm_trio.engine.scheduler import BufferTargets, Runner
from csm_trio.engine.worker_links import WorkerLinks
from csm_trio.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class EngineHost:
    """The slots of one device, and the way to give them to workers."""

    slots: int
    add_worker: Callable[[socket.socket], None]
    count_workers: Callable[[], int]


@asynccontextmanager
async def open_engine_host(
    make_runner: Callable[[], Runner], metrics: Metrics, *, targets: BufferTargets | None = None
) -> AsyncIterator[EngineHost]:
    """Load a runner on the device thread, and yield its host once it is warm.

    Raises the exception of `make_runner`, and later that of the device thread.
    """
    links = WorkerLinks()
    try:
        async with open_device_thread(
            make_runner,
            links,
            links,
            metrics,
            targets=targets or BufferTargets(),
            on_end=lambda: None,
            failure_grace_s=0.0,
        ) as slots:
            links.begin(slots)
            yield EngineHost(slots, links.add, lambda: links.n_workers)
    finally:
        links.close()
