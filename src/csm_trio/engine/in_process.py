"""The engine in the process of its sessions: a device thread beside the event loop."""

import queue
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from csm_trio.engine.device_thread import open_device_thread
from csm_trio.engine.scheduler import BufferTargets, Delivery, Runner
from csm_trio.engine.service import Engine, FrameStream
from csm_trio.engine.slot_queue import SlotQueue
from csm_trio.engine.step_loop import Command
from csm_trio.errors import SpeechError
from csm_trio.telemetry import Metrics


@asynccontextmanager
async def open_engine(
    make_runner: Callable[[], Runner],
    metrics: Metrics,
    *,
    targets: BufferTargets | None = None,
    failure_grace_s: float = 0.0,
) -> AsyncIterator[Engine]:
    """Load a runner on the device thread, and yield the engine once it is warm.

    Raises the exception of `make_runner` before the body is entered (in an exception group). If
    the device thread fails later, `Engine.stopped` is set, and after `failure_grace_s` the body is
    cancelled and the cause is raised.
    """
    inbox: queue.SimpleQueue[Command[FrameStream]] = queue.SimpleQueue()
    link = _InProcessLink(inbox)
    async with open_device_thread(
        make_runner,
        inbox,
        link,
        metrics,
        targets=targets or BufferTargets(),
        on_end=link.stop,
        failure_grace_s=failure_grace_s,
    ) as slots:
        yield link.open(slots, metrics)


class _InProcessLink:
    """The link of an engine to the device thread of its own process, and that thread's output."""

    def __init__(self, inbox: "queue.SimpleQueue[Command[FrameStream]]") -> None:
        self._inbox = inbox
        self._token = trio.lowlevel.current_trio_token()
        self._engine: Engine | None = None
        self._queue: SlotQueue[FrameStream]

    def open(self, slots: int, metrics: Metrics) -> Engine:
        """Return the engine, with as many tokens as there are slots."""
        self._queue = SlotQueue(
            slots, self._inbox.put, on_grant=FrameStream.grant, on_release=FrameStream.close
        )
        self._engine = Engine(slots, self, metrics)
        return self._engine

    def stop(self) -> None:
        """Fail every stream: the device thread has ended."""
        if self._engine is not None:
            self._engine.stop()

    # On the Trio thread.

    def admit(self, stream: FrameStream, session_id: str) -> None:
        self._queue.admit(stream, session_id)

    def acknowledge(self, stream: FrameStream, frames: int) -> None:
        self._queue.acknowledge(stream, frames)

    def release(self, stream: FrameStream) -> None:
        self._queue.release(stream)

    def ping(self, answered: Callable[[], None]) -> None:
        self._queue.ping(partial(self._token.run_sync_soon, answered))

    # On the device thread.

    def deliver(self, due: Sequence[tuple[FrameStream, Delivery]]) -> None:
        self._token.run_sync_soon(deliver_all, due)

    def fail(self, stream: FrameStream, error: SpeechError) -> None:
        self._token.run_sync_soon(stream.finish, None, error)

    def released(self, stream: FrameStream) -> None:
        self._token.run_sync_soon(self._queue.released, stream)


def deliver_all(due: Sequence[tuple[FrameStream, Delivery]]) -> None:
    """Send frame batches and ends to their streams."""
    for stream, delivery in due:
        if delivery.frames:
            stream.deliver(delivery.frames)
        if delivery.end is not None:
            stream.finish(delivery.end)
