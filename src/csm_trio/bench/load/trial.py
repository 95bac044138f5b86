"""Run one trial of the open-loop load: in this process, or dealt out to client processes."""

from dataclasses import dataclass, field
from functools import partial

import trio

from csm_trio.bench.load.client_processes import run_in_processes
from csm_trio.bench.load.open_loop import ClientShare, TrialPlan, run_share

REQUESTS_PER_CLIENT_HZ = 20.0
"""Requests a second that one client process makes, unless `--clients` says otherwise."""


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

    def started(start_s: float) -> None:
        trial.started_s = start_s

    trial.shares += await run_in_processes(partial(_make_share, plan), plan.clients, started)


async def _make_share(plan: TrialPlan, start_s: float, client: int) -> ClientShare:
    share = ClientShare()
    await run_share(plan, share, start_s, client=client)
    return share
