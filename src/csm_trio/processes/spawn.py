"""Start child processes: a new interpreter each, never a fork of this one."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio

from csm_trio.processes.control_channel import framed
from csm_trio.processes.setup import EngineSetup, Role, WorkerSetup

_END_S = 2.0
"""Seconds that a child has to end by itself once its channel is closed."""


class Child(Protocol):
    """A running child, as its supervisor sees it."""

    control: socket.socket
    handover: socket.socket

    async def wait(self) -> str:
        """Wait for its end; return a description of it, as in `ended with status 1`."""

    def kill(self) -> None:
        """End it at once."""


Spawn = Callable[
    [Role, EngineSetup | WorkerSetup, socket.socket | None], AbstractAsyncContextManager[Child]
]
"""Starts a child, to which the socket, if any, is given too; at exit the child is ended."""


class ChildProcess:
    """A child in a process of its own."""

    def __init__(
        self, process: trio.Process, control: socket.socket, handover: socket.socket
    ) -> None:
        self.control = control
        self.handover = handover
        self._process = process

    async def wait(self) -> str:
        """Wait for the end of the process; return how it ended."""
        status = await self._process.wait()
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()


@asynccontextmanager
async def spawn_process(
    role: Role, setup: EngineSetup | WorkerSetup, given: socket.socket | None
) -> AsyncIterator[Child]:
    """Start a child process; at exit close its channels, and kill it if it does not end then."""
    control, control_there = socket.socketpair()
    handover, handover_there = socket.socketpair()
    handover.setblocking(False)
    theirs = [control_there, handover_there] + ([] if given is None else [given])
    descriptors = [one.fileno() for one in theirs]
    command = [sys.executable, "-m", "csm_trio.processes.child", role, *map(str, descriptors)]
    with control, handover:
        process = await trio.lowlevel.open_process(
            command,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            # Ctrl-C in a terminal goes to the supervisor alone.
            process_group=0,
        )
        for one in theirs:
            one.close()
        try:
            await _send_setup(control, setup)
            yield ChildProcess(process, control, handover)
        finally:
            control.close()
            with trio.CancelScope(shield=True):
                with trio.move_on_after(_END_S):
                    await process.wait()
                process.kill()
                await process.wait()


async def _send_setup(control: socket.socket, setup: EngineSetup | WorkerSetup) -> None:
    # Not through a SocketStream, which would own the socket.
    sending = trio.socket.from_stdlib_socket(control)
    data = memoryview(framed(setup))
    with contextlib.suppress(OSError):  # the child has ended: `wait` says so
        while data:
            data = data[await sending.send(data) :]
