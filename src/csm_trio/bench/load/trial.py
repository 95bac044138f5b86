"""Run one trial of the open-loop load: in this process, or dealt out to several client processes.

A client process is this module as a program: it reads its plan from standard input, answers one
byte when it is ready, reads the moment of the start, and writes its share to standard output.
"""

import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from csm_trio.bench.load.open_loop import ClientShare, TrialPlan, run_share
from csm_trio.process_tuning import tuned_gc

REQUESTS_PER_CLIENT_HZ = 20.0
"""Requests a second that one client process makes, unless `--clients` says otherwise."""

_START_DELAY_S = 0.1
"""Seconds from the moment all clients are ready to the start, in which they learn of it."""

_READY = b"r"
_PROGRAM = ("-m", __name__)


@dataclass(slots=True)
class Trial:
    """One trial and the shares of its clients; may be read while it runs in this process."""

    plan: TrialPlan
    shares: list[ClientShare] = field(default_factory=list)
    started_s: float | None = None


def clients_for(rate_hz: float, max_clients: int) -> int:
    """Return the number of client processes for a rate: one per 20 requests a second."""
    return max(1, min(max_clients, -int(-rate_hz // REQUESTS_PER_CLIENT_HZ)))


async def run_trial(trial: Trial) -> None:
    """Run the trial; its shares are there at the end, that of a single client from the start on.

    Raises `subprocess.CalledProcessError`, in a group, if a client process fails.
    """
    plan = trial.plan
    if plan.clients == 1:
        share = ClientShare()
        trial.shares.append(share)
        trial.started_s = trio.current_time()
        await run_share(plan, share, trial.started_s)
        return
    async with trio.open_nursery() as nursery:
        processes = [await _open_client(nursery, plan, client) for client in range(plan.clients)]
        for process in processes:
            if not await process.stdout.receive_some(len(_READY)):
                await trio.sleep_forever()  # the process has died: `run_process` raises
        start_s = time.monotonic() + _START_DELAY_S
        trial.started_s = trio.current_time() + _START_DELAY_S
        shares: list[ClientShare | None] = [None] * len(processes)
        async with trio.open_nursery() as collecting:
            for client, process in enumerate(processes):
                await process.stdin.send_all(pickle.dumps(start_s))
                collecting.start_soon(_collect, process, client, shares)
        trial.shares += [share for share in shares if share is not None]


async def _open_client(nursery: trio.Nursery, plan: TrialPlan, client: int) -> Any:
    """Start a client process, which is killed if `nursery` is cancelled, and send it its plan."""
    process = await nursery.start(
        partial(
            trio.run_process,
            [sys.executable, *_PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    await process.stdin.send_all(pickle.dumps((plan, client)))
    return process


async def _collect(process: Any, client: int, shares: list[ClientShare | None]) -> None:
    answer = bytearray()
    async for data in process.stdout:
        answer += data
    if answer:  # else the process has died: `run_process` raises
        shares[client] = pickle.loads(bytes(answer))


def main(arguments: Sequence[str] = ()) -> None:
    """Run one client process."""
    # Ctrl-C goes to all processes of a terminal: the one that reports ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan, client = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    start_s = pickle.load(sys.stdin.buffer)
    share = ClientShare()
    with tuned_gc():
        trio.run(_run_client, plan, share, start_s, client)
    pickle.dump(share, sys.stdout.buffer)
    sys.stdout.buffer.flush()


async def _run_client(plan: TrialPlan, share: ClientShare, start_s: float, client: int) -> None:
    # Trio's clock has an origin of its own in every process; the system's is common to all.
    offset_s = trio.current_time() - time.monotonic()
    await run_share(plan, share, start_s + offset_s, client=client)


if __name__ == "__main__":
    main()
