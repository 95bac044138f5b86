"""The device thread: one resident thread that does all of torch, from loading to the last step.

Inference mode, the current stream and graph capture belong to a thread, so nothing of torch runs
on another.
"""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from csm_trio.engine.scheduler import BufferTargets, Runner
from csm_trio.engine.step_loop import Inbox, Output, StepLoop, Stop, Stream
from csm_trio.telemetry import Metrics


@asynccontextmanager
async def open_device_thread(
    make_runner: Callable[[], Runner],
    inbox: Inbox[Stream],
    output: Output[Stream],
    metrics: Metrics,
    *,
    targets: BufferTargets,
    on_end: Callable[[], None],
    failure_grace_s: float,
) -> AsyncIterator[int]:
    """Load a runner on the device thread, and yield its number of slots once it is warm.

    Raises the exception of `make_runner` before the body is entered (in an exception group).
    `on_end` is called on the Trio thread when a warm device thread has ended. If it has failed,
    the body is cancelled after `failure_grace_s`, and the cause is raised: nothing restarts it.
    """
    async with trio.open_nursery() as nursery:
        try:
            slots: int = await nursery.start(
                _run, make_runner, inbox, output, metrics, targets, on_end, failure_grace_s
            )
            metrics.slots.set(slots)
            yield slots
        finally:
            inbox.put(Stop())


async def _run(
    make_runner: Callable[[], Runner],
    inbox: Inbox[Any],
    output: Output[Any],
    metrics: Metrics,
    targets: BufferTargets,
    on_end: Callable[[], None],
    failure_grace_s: float,
    task_status: trio.TaskStatus[int],
) -> None:
    token = trio.lowlevel.current_trio_token()
    started = trio.Event()

    def warmed(slots: int) -> None:
        started.set()
        task_status.started(slots)
        if trio.current_effective_deadline() == -math.inf:
            # Cancelled while the model loaded: `open_device_thread` sends no stop command.
            inbox.put(Stop())

    def work() -> None:
        runner = make_runner()
        trio.from_thread.run_sync(warmed, runner.slots)
        try:
            StepLoop(runner, inbox, output, metrics, targets).run()
        finally:
            token.run_sync_soon(on_end)

    ended = False
    try:
        await trio.to_thread.run_sync(
            work, limiter=trio.CapacityLimiter(1), thread_name="csm-device"
        )
        ended = True
    finally:
        if started.is_set() and not ended:
            # Sessions tell their clients meanwhile. Bounded by the grace.
            with trio.CancelScope(shield=True):
                await trio.sleep(failure_grace_s)
