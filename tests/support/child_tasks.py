"""Children of a supervisor as tasks of the test's own loop, in place of processes."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.api.state import ServerState
from csm_trio.engine.scheduler import Runner
from csm_trio.processes.engine_process import EngineSockets, run_engine_process
from csm_trio.processes.setup import EngineSetup, Role, WorkerSetup
from csm_trio.processes.spawn import Child
from csm_trio.processes.worker import WorkerSockets, run_worker
from csm_trio.telemetry import Metrics


@dataclass(slots=True)
class ChildTask:
    """A child: its channels, and its end."""

    control: socket.socket
    handover: socket.socket
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    end: str = "ended"

    async def wait(self) -> str:
        await self.ended.wait()
        return self.end

    def kill(self) -> None:
        self.scope.cancel()


class ChildTasks:
    """Starts children as tasks; `states` are those of the workers, in the order of their start."""

    def __init__(
        self, make_runner: Callable[[], Runner], limits: ConnectionLimits | None = None
    ) -> None:
        self.states: list[ServerState] = []
        self.engine_metrics = Metrics()
        self._make_runner = make_runner
        self._limits = limits

    @asynccontextmanager
    async def spawn(
        self, role: Role, setup: EngineSetup | WorkerSetup, given: socket.socket | None
    ) -> AsyncIterator[Child]:
        """Start a child; at exit close its channels, and wait for its end."""
        control, control_there = socket.socketpair()
        handover, handover_there = socket.socketpair()
        handover.setblocking(False)
        child = ChildTask(control, handover)
        with control, handover:
            async with trio.open_nursery() as nursery:
                theirs = [control_there, handover_there] + ([given.dup()] if given else [])
                if isinstance(setup, WorkerSetup):
                    run: Callable[[], Awaitable[None]] = partial(
                        self._run_worker, setup, WorkerSockets(*theirs)
                    )
                else:
                    run = partial(self._run_engine, setup, EngineSockets(*theirs))
                nursery.start_soon(_run_to_its_end, child, run, theirs)
                try:
                    yield child
                finally:
                    control.close()

    async def _run_engine(self, setup: EngineSetup, sockets: EngineSockets) -> None:
        await run_engine_process(setup, sockets, self._make_runner, self.engine_metrics)

    async def _run_worker(self, setup: WorkerSetup, sockets: WorkerSockets) -> None:
        async with trio.open_nursery() as nursery:
            run = partial(run_worker, setup, sockets, limits=self._limits)
            self.states.append(await nursery.start(run))


async def _run_to_its_end(
    child: ChildTask, run: Callable[[], Awaitable[None]], sockets: Sequence[socket.socket]
) -> None:
    """Run a child; at its end close its sockets, as the system does with those of a process."""
    try:
        with child.scope:
            await run()
    except Exception as error:
        child.end = f"failed: {error!r}"
    finally:
        for one in sockets:
            one.close()
        child.ended.set()
