"""Run the trials of an open-loop sweep one after the other, with a line of progress."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from csm_trio.bench.load.flags import BenchOptions, RateOptions
from csm_trio.bench.load.open_loop import TrialPlan
from csm_trio.bench.load.point import settle
from csm_trio.bench.load.rate_report import RateFigures, TrialFigures, sum_up_trial
from csm_trio.bench.load.trial import Trial, clients_for, run_trial


@dataclass(slots=True)
class RateSweep:
    """The trials of a sweep; those that were measured stay if the sweep is cancelled."""

    options: BenchOptions
    rate: RateOptions
    note: Callable[[str], None]
    """Prints a line on standard error."""
    trial: Trial | None = None
    trials: list[TrialFigures] = field(default_factory=list)

    async def run(self) -> None:
        """Run a trial for every rate and seed, the seeds of a rate after each other."""
        max_clients = max(1, (os.cpu_count() or 1) // 2)  # the server may run on the same machine
        for rate_hz in self.rate.rates_hz:
            clients = self.rate.clients or clients_for(rate_hz, max_clients)
            for seed in self.rate.seeds:
                clients = await self._measure(rate_hz, seed, clients, max_clients)

    async def _measure(self, rate_hz: float, seed: int, clients: int, max_clients: int) -> int:
        """Run a trial, again with more clients if they were the limit; return their number."""
        while True:
            figures = await self._run_trial(rate_hz, seed, clients)
            more = min(2 * clients, max_clients)
            if not figures.saturated or self.rate.clients is not None or more == clients:
                self.trials.append(figures)
                return clients
            self.note(f"the client was the limit: once more with {more} client processes")
            clients = more

    async def _run_trial(self, rate_hz: float, seed: int, clients: int) -> TrialFigures:
        options = self.options
        if self.trial is not None:
            await settle(options.workload.base_url)
        plan = TrialPlan(
            options.workload, rate_hz, seed, self.rate.warm_up_s, options.duration_s, clients
        )
        self.trial = trial = Trial(plan)
        finished = False
        try:
            await run_trial(trial)
            finished = True
        finally:
            if not finished and any(share.seconds for share in trial.shares):
                self.trials.append(sum_up_trial(trial))
        return sum_up_trial(trial)

    def figures(self) -> list[RateFigures]:
        """Return the figures of every rate that has a trial, in the order of the rates."""
        by_rate: dict[float, list[TrialFigures]] = {}
        for trial in self.trials:
            by_rate.setdefault(trial.rate_hz, []).append(trial)
        return [RateFigures(tuple(trials)) for trials in by_rate.values()]

    def progress(self, now_s: float) -> str:
        """Return the state of the running trial in one line."""
        trial = self.trial
        if trial is None or trial.started_s is None:
            return "starting"
        plan = trial.plan
        left_s = trial.started_s + plan.warm_up_s + plan.duration_s - now_s
        if left_s > plan.duration_s:
            stage = f"warm-up, {left_s - plan.duration_s:.0f} s left"
        else:
            stage = f"{left_s:.0f} s left" if left_s > 0 else "waiting for the last requests"
        ended = sum(len(share.requests) for share in trial.shares)
        shown = f"{ended} requests ended, " if trial.shares else ""
        return f"{plan.rate_hz:g} a second, seed {plan.seed}: {shown}{stage}"
