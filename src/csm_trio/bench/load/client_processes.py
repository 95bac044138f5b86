"""Run the shares of a load in several client processes, all from one moment on.

A client process is this module as a program: it reads its share's function from standard input,
answers one byte when it is ready, reads the moment of the start, and writes what the function
returns to standard output. All of it is pickled: both ends are this program.
"""

import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio

from csm_trio.process_tuning import raise_descriptor_limit, tuned_gc

_START_DELAY_S = 0.1
"""Seconds from the moment all clients are ready to the start, in which they learn of it."""

_READY = b"r"
_PROGRAM = ("-m", __name__)

Result = TypeVar("Result")

RunShare = Callable[[float, int], Awaitable[Result]]
"""Runs the share of a client, given the start on Trio's clock in s and the client's index."""


async def run_in_processes(
    run: RunShare[Result], clients: int, started: Callable[[float], None]
) -> list[Result]:
    """Run a function of a module in `clients` processes; return its results.

    `started` is called with the moment of the start, in s on this process's Trio clock. Raises
    `subprocess.CalledProcessError`, in a group, if a client process fails.
    """
    results: dict[int, Result] = {}
    async with trio.open_nursery() as nursery:
        processes = [await _open_client(nursery, run, client) for client in range(clients)]
        for process in processes:
            if not await process.stdout.receive_some(len(_READY)):
                await trio.sleep_forever()  # the process has died: `run_process` raises
        start_s = time.monotonic() + _START_DELAY_S
        started(trio.current_time() + _START_DELAY_S)
        for client, process in enumerate(processes):
            await process.stdin.send_all(pickle.dumps(start_s))
            nursery.start_soon(_collect, process, client, results)
    return [results[client] for client in range(clients)]


async def _open_client(nursery: trio.Nursery, run: RunShare[Result], client: int) -> Any:
    """Start a client process, which is killed if `nursery` is cancelled, and send it its share."""
    process = await nursery.start(
        partial(
            trio.run_process,
            [sys.executable, *_PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    await process.stdin.send_all(pickle.dumps((run, client)))
    return process


async def _collect(process: Any, client: int, results: dict[int, Result]) -> None:
    answer = bytearray()
    async for data in process.stdout:
        answer += data
    if answer:  # else the process has died: `run_process` raises
        results[client] = pickle.loads(bytes(answer))


def main() -> None:
    """Run one client process."""
    # Ctrl-C goes to all processes of a terminal: the one that reports ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_descriptor_limit()
    run, client = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    start_s = pickle.load(sys.stdin.buffer)
    with tuned_gc():
        result = trio.run(_run_client, run, start_s, client)
    pickle.dump(result, sys.stdout.buffer)
    sys.stdout.buffer.flush()


async def _run_client(run: RunShare[Result], start_s: float, client: int) -> Result:
    # Trio's clock has an origin of its own in every process; the system's is common to all.
    offset_s = trio.current_time() - time.monotonic()
    return await run(start_s + offset_s, client)


if __name__ == "__main__":
    main()
