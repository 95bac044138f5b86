"""Compute the figures of open-loop trials, and format them as a table and as JSON.

Pure: no clock, no socket, no file.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from csm_trio.bench.load.call import TurnRecord, error_kind
from csm_trio.bench.load.open_loop import ClientShare, RequestRecord
from csm_trio.bench.load.report import (
    Spread,
    aligned,
    c100_of,
    examples_of,
    has_audio,
    is_saturated,
    number,
    percent,
    spread,
    spread_ms,
    spread_of_ticks,
)
from csm_trio.bench.load.trial import Trial

_MIN_UNDERRUN_S = 1e-6
"""Seconds from which an underrun is one; below are the rounding errors of sums of seconds."""


@dataclass(frozen=True, slots=True)
class TrialFigures:
    """One trial, summed up over the requests that arrived in its measured `seconds`.

    `requests` arrived and were made; of them `refused` got an HTTP status instead of a socket,
    `failed` anything else but their audio, `unfinished` did not end within the tail, and
    `inaudible` had audio without an audible sample. `arrived_hz` is the rate that came about.

    `audible_ms` is audible TTFA: from the first text message to the first audible sample as it
    plays, without the connection's set-up; `audible_from_arrival_ms` counts from the planned
    arrival, so it has the set-up, and this client's own lateness (`start_lag_ms`), too.
    `last_audio_ms` runs from the first text message to the last audio. `underrun_share` is the
    share of requests with audio whose player ran empty before the end, for however short a time.
    `in_flight_peak` is the maximum of requests whose audio had not all arrived, `playing_peak`
    of those that had not played out. `busiest_client` is the largest share of a core that a
    client process used.
    """

    rate_hz: float
    seed: int
    clients: int
    seconds: float
    requests: int
    arrived_hz: float
    completed: int
    refused: int
    failed: int
    unfinished: int
    inaudible: int
    dropped: int
    errors: dict[str, int]
    error_examples: dict[str, str]
    audible_ms: Spread
    audible_from_arrival_ms: Spread
    leading_silence_ms: Spread
    last_audio_ms: Spread
    connect_ms: Spread
    chunk_gap_ms: Spread
    underrun_share: float | None
    worst_underrun_ms: Spread
    c100: float | None
    in_flight_peak: int
    playing_peak: int
    audio_s_per_s: float
    start_lag_ms: Spread
    loop_lag_ms: Spread
    busiest_client: float
    saturated: bool


@dataclass(frozen=True, slots=True)
class RateFigures:
    """The trials of one rate, a seed each; at least one."""

    trials: tuple[TrialFigures, ...]

    @property
    def rate_hz(self) -> float:
        """The rate of all trials."""
        return self.trials[0].rate_hz

    @property
    def saturated(self) -> bool:
        """Whether the client was the limit in any trial."""
        return any(trial.saturated for trial in self.trials)

    @property
    def smooth_share(self) -> float | None:
        """The share of requests with audio and without any underrun, median of the trials."""
        underruns = self.median(lambda trial: trial.underrun_share)
        return None if underruns is None else 1 - underruns

    def values(self, figure: Callable[[TrialFigures], float | None]) -> list[float]:
        """Return a figure of every trial that has it."""
        return [value for trial in self.trials if (value := figure(trial)) is not None]

    def median(self, figure: Callable[[TrialFigures], float | None]) -> float | None:
        """Return the median of a figure over the trials; None if none has it."""
        values = self.values(figure)
        return statistics.median(values) if values else None

    def total(self, count: Callable[[TrialFigures], int]) -> int:
        """Return the sum of a count over the trials."""
        return sum(map(count, self.trials))


def sum_up_trial(trial: Trial) -> TrialFigures:
    """Return the figures of all records of a trial."""
    plan, shares = trial.plan, trial.shares
    records = [record for share in shares for record in _counted(share, plan.duration_s)]
    turns = [record.turn for record in records]
    outcomes = Counter(turn.outcome for turn in turns)
    errors = [turn.error for turn in turns if turn.error is not None]
    kinds = Counter(map(error_kind, errors))
    refused = sum(count for kind, count in kinds.items() if kind.startswith("refused "))
    heard = [turn for turn in turns if has_audio(turn)]
    everything = [record for share in shares for record in share.requests]
    seconds = max((share.seconds for share in shares), default=0.0)
    lags = [spread_of_ticks(share.lag_ticks) for share in shares]
    dropped = sum(share.dropped for share in shares)
    return TrialFigures(
        rate_hz=plan.rate_hz,
        seed=plan.seed,
        clients=plan.clients,
        seconds=seconds,
        requests=len(records),
        arrived_hz=_per_s(len(records), seconds),
        completed=outcomes["completed"],
        refused=refused,
        failed=outcomes["failed"] - refused,
        unfinished=outcomes["unfinished"],
        inaudible=sum(has_audio(one.turn) and one.audible_s is None for one in records),
        dropped=dropped,
        errors=dict(kinds),
        error_examples=examples_of(errors),
        audible_ms=spread_ms(record.audible_s for record in records),
        audible_from_arrival_ms=spread_ms(record.audible_from_arrival_s for record in records),
        leading_silence_ms=spread_ms(record.leading_silence_s for record in records),
        last_audio_ms=spread_ms(
            one.last_audio_s for one in records if one.turn.outcome == "completed"
        ),
        connect_ms=spread_ms(turn.connect_s for turn in turns),
        chunk_gap_ms=spread_of_ticks(sum((share.gap_ticks for share in shares), Counter())),
        underrun_share=_underrun_share(heard),
        worst_underrun_ms=spread_ms(turn.worst_underrun_s for turn in heard),
        c100=c100_of(turns, [turn.worst_underrun_s for turn in turns]),
        in_flight_peak=peak(((one.began_s, one.ended_s) for one in everything), seconds),
        playing_peak=peak(((one.began_s, one.plays_until_s) for one in everything), seconds),
        audio_s_per_s=_per_s(sum(share.audio_s for share in shares), seconds),
        start_lag_ms=spread_ms(record.began_s - record.arrival_s for record in records),
        loop_lag_ms=max(lags, key=lambda lag: lag.p99 or 0, default=spread([])),
        busiest_client=max((share.busy for share in shares), default=0.0),
        saturated=dropped > 0
        or any(is_saturated(lag, share.busy) for lag, share in zip(lags, shares, strict=True)),
    )


def _counted(share: ClientShare, duration_s: float) -> Iterable[RequestRecord]:
    """Return the requests that arrived in the measured time and were not cut by the bench."""
    return (
        record
        for record in share.requests
        if 0 <= record.arrival_s < duration_s
        and (record.turn.outcome != "unfinished" or share.overdue)
    )


def _underrun_share(heard: Sequence[TurnRecord]) -> float | None:
    if not heard:
        return None
    return sum(turn.underrun_s >= _MIN_UNDERRUN_S for turn in heard) / len(heard)


def _per_s(value: float, seconds: float) -> float:
    return value / seconds if seconds else 0.0


def peak(intervals: Iterable[tuple[float, float]], until_s: float) -> int:
    """Return the maximum number of intervals at once between 0 and `until_s`."""
    changes = [
        change
        for begins_s, ends_s in intervals
        if begins_s < until_s and ends_s > 0
        for change in ((begins_s, 1), (ends_s, -1))
    ]
    most = now = 0
    for at_s, step in sorted(changes):
        if at_s >= until_s:
            break
        now += step
        most = max(most, now) if at_s > 0 else now
    return most


def rate_table(rates: Sequence[RateFigures]) -> str:
    """Return the figures as text: a row each, a column for every rate, then notes on errors."""
    notes = [note for figures in rates for note in _notes(figures)]
    return aligned([_column(figures) for figures in rates], notes)


def _column(rate: RateFigures) -> dict[str, str]:
    def median(
        figure: Callable[[TrialFigures], float | None], *, digits: int = 0, factor: float = 1
    ) -> str:
        value = rate.median(figure)
        return number(None if value is None else factor * value, digits=digits)

    p95s = rate.values(lambda trial: trial.audible_ms.p95)
    return {
        "requests a second": f"{rate.rate_hz:g}",
        "  that arrived": median(lambda trial: trial.arrived_hz, digits=2),
        "requests, all seeds": str(rate.total(lambda trial: trial.requests)),
        "  refused": str(rate.total(lambda trial: trial.refused)),
        "  failed or unfinished": str(rate.total(lambda trial: trial.failed + trial.unfinished)),
        "audible first audio p50, ms": median(lambda trial: trial.audible_ms.p50, digits=1),
        "audible first audio p95, ms": median(lambda trial: trial.audible_ms.p95, digits=1),
        "  least and most of the seeds": (f"{min(p95s):,.1f}..{max(p95s):,.1f}" if p95s else "-"),
        "audible first audio p99, ms": median(lambda trial: trial.audible_ms.p99, digits=1),
        "  with set-up, from arrival p50, ms": median(
            lambda trial: trial.audible_from_arrival_ms.p50, digits=1
        ),
        "  with set-up, from arrival p95, ms": median(
            lambda trial: trial.audible_from_arrival_ms.p95, digits=1
        ),
        "  with set-up, from arrival p99, ms": median(
            lambda trial: trial.audible_from_arrival_ms.p99, digits=1
        ),
        "leading silence p95, ms": median(lambda trial: trial.leading_silence_ms.p95),
        "last audio p95, ms": median(lambda trial: trial.last_audio_ms.p95),
        "requests with an underrun, %": median(
            lambda trial: trial.underrun_share, digits=2, factor=100
        ),
        "worst underrun max, ms": number(
            max(rate.values(lambda trial: trial.worst_underrun_ms.max), default=None)
        ),
        "C100, %": percent(rate.median(lambda trial: trial.c100)),
        "in flight, peak": number(max(trial.in_flight_peak for trial in rate.trials)),
        "playing, peak": number(max(trial.playing_peak for trial in rate.trials)),
        "audio s per s": median(lambda trial: trial.audio_s_per_s, digits=2),
        "connect p95, ms": median(lambda trial: trial.connect_ms.p95, digits=1),
        "clients": str(max(trial.clients for trial in rate.trials)),
        "  start lag p99, ms": median(lambda trial: trial.start_lag_ms.p99, digits=1),
        "  loop lag p99, ms": median(lambda trial: trial.loop_lag_ms.p99, digits=1),
        "  busiest, % of a core": number(100 * max(trial.busiest_client for trial in rate.trials)),
    }


def _notes(rate: RateFigures) -> list[str]:
    name = f"{rate.rate_hz:g} a second"
    kinds = sum((Counter(trial.errors) for trial in rate.trials), Counter())
    examples = {kind: text for trial in rate.trials for kind, text in trial.error_examples.items()}
    notes = [f"{name}: {count} {kind}: {examples[kind]}" for kind, count in kinds.items()]
    for words, count in (
        ("requests did not end in time", rate.total(lambda trial: trial.unfinished)),
        ("requests had no audible sample", rate.total(lambda trial: trial.inaudible)),
        ("requests were not made: too many open files", rate.total(lambda trial: trial.dropped)),
    ):
        if count:
            notes.append(f"{name}: {count} {words}")
    if rate.saturated:
        clients = max(trial.clients for trial in rate.trials)
        notes.append(
            f"{name}: THE CLIENT WAS THE LIMIT, its figures are not the server's: "
            f"try --clients {2 * clients}, or another machine for the client"
        )
    return notes


def rates_json(rates: Sequence[RateFigures]) -> list[dict[str, Any]]:
    """Return the figures of every trial as JSON's own types; a figure not measured is null."""
    return [
        {
            "rate_hz": rate.rate_hz,
            "medians": _medians(rate),
            "trials": [asdict(trial) for trial in rate.trials],
        }
        for rate in rates
    ]


def _medians(rate: RateFigures) -> dict[str, float | None]:
    """Return the headline figures, which are medians over the trials, and sums of counts."""
    return {
        "audible_p50_ms": rate.median(lambda trial: trial.audible_ms.p50),
        "audible_p95_ms": rate.median(lambda trial: trial.audible_ms.p95),
        "audible_p99_ms": rate.median(lambda trial: trial.audible_ms.p99),
        "audible_from_arrival_p95_ms": rate.median(lambda trial: trial.audible_from_arrival_ms.p95),
        "underrun_share": rate.median(lambda trial: trial.underrun_share),
        "c100": rate.median(lambda trial: trial.c100),
        "audio_s_per_s": rate.median(lambda trial: trial.audio_s_per_s),
        "in_flight_peak": max(trial.in_flight_peak for trial in rate.trials),
        "requests": rate.total(lambda trial: trial.requests),
        "refused": rate.total(lambda trial: trial.refused),
        "failed": rate.total(lambda trial: trial.failed),
        "unfinished": rate.total(lambda trial: trial.unfinished),
    }
