"""Compute the figures of a point, and format them as a table and as JSON.

Pure: no clock, no socket, no file.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from csm_trio.bench.load.call import TICKS_PER_S, TurnRecord, error_kind
from csm_trio.bench.load.point import Point

MAX_C100_UNDERRUN_S = 0.1
"""Maximum underrun that C100 allows, in seconds, as in sglang-omni and vllm-omni."""

# Above these limits the client itself distorts its measurements.
_MAX_LAG_MS = 20.0
_MAX_BUSY = 0.9

_MAX_EXAMPLE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Spread:
    """Exact percentiles (nearest rank) of `count` values; None where there is no value."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Cancels:
    """The server's own figures from cancel to free slot; percentiles are upper bounds.

    A percentile is None beyond the histogram's last bound, or without any cancel.
    """

    count: int
    p50_ms_at_most: float | None
    p99_ms_at_most: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """One point of a sweep, summed up over the turns of its measured `seconds`.

    `c100` is the share of turns that played to their end, or to the caller's barge-in, with
    no underrun above 100 ms; failed and unfinished turns do not count. `streams` is the audio
    delivered per second of time, in all calls together; `real_time_factor` is the time of a turn
    from its first text to its last audio, over the audio's length. `c100_after_text` and
    `worst_underrun_after_text_ms` leave out underruns while the text was still being
    sent. `first_audio_ms` is TTFA. `loop_lag_ms` and `busy` are this client's own health.
    """

    calls: int
    seconds: float
    turns: int
    completed: int
    interrupted: int
    hung_up: int
    failed: int
    unfinished: int
    errors: dict[str, int]
    error_examples: dict[str, str]
    first_audio_ms: Spread
    chunk_gap_ms: Spread
    worst_underrun_ms: Spread
    total_underrun_ms: Spread
    worst_underrun_after_text_ms: Spread
    c100: float | None
    c100_after_text: float | None
    streams: float
    real_time_factor: Spread
    connect_ms: Spread
    cancel_to_free: Cancels | None
    loop_lag_ms: Spread
    busy: float
    saturated: bool


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of `ordered` that `share` of them do not exceed: its nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Iterable[float]) -> Spread:
    """Return the percentiles of values, in their own unit."""
    ordered = sorted(values)
    if not ordered:
        return Spread(0, None, None, None, None)
    p50, p95, p99 = (percentile(ordered, share) for share in (0.5, 0.95, 0.99))
    return Spread(len(ordered), p50, p95, p99, ordered[-1])


def spread_of_ticks(ticks: Counter[int]) -> Spread:
    """Sum up counted ticks, in milliseconds."""
    if not ticks:
        return spread([])
    ordered = sorted(ticks)
    totals = list(accumulate(ticks[tick] for tick in ordered))

    def rank_ms(share: float) -> float:
        rank = math.ceil(share * totals[-1])
        tick = next(tick for tick, total in zip(ordered, totals, strict=True) if total >= rank)
        return tick * 1000 / TICKS_PER_S

    return Spread(totals[-1], *(rank_ms(share) for share in (0.5, 0.95, 0.99, 1.0)))


def sum_up(point: Point) -> Figures:
    """Return the figures of all records of a point."""
    records = point.recorder.turns
    outcomes = Counter(record.outcome for record in records)
    errors = [record.error for record in records if record.error is not None]
    lag_ms = spread_of_ticks(point.lag_ticks)
    factors = (record.real_time_factor for record in records if record.outcome == "completed")
    return Figures(
        calls=point.calls,
        seconds=point.seconds,
        turns=len(records),
        completed=outcomes["completed"],
        interrupted=outcomes["interrupted"],
        hung_up=sum(record.hung_up for record in records),
        failed=outcomes["failed"],
        unfinished=outcomes["unfinished"],
        errors=dict(Counter(map(error_kind, errors))),
        error_examples=examples_of(errors),
        first_audio_ms=spread_ms(record.first_audio_s for record in records),
        chunk_gap_ms=spread_of_ticks(point.recorder.gap_ticks),
        worst_underrun_ms=spread_ms(
            record.worst_underrun_s for record in records if has_audio(record)
        ),
        total_underrun_ms=spread_ms(record.underrun_s for record in records if has_audio(record)),
        worst_underrun_after_text_ms=spread_ms(
            record.worst_underrun_after_text_s for record in records if has_audio(record)
        ),
        c100=c100_of(records, [record.worst_underrun_s for record in records]),
        c100_after_text=c100_of(
            records, [record.worst_underrun_after_text_s for record in records]
        ),
        streams=point.recorder.audio_s / point.seconds if point.seconds else 0.0,
        real_time_factor=spread(factor for factor in factors if factor is not None),
        connect_ms=spread_ms(record.connect_s for record in records),
        cancel_to_free=None if point.cancels is None else cancels_of(point.cancels),
        loop_lag_ms=lag_ms,
        busy=point.busy,
        saturated=is_saturated(lag_ms, point.busy),
    )


def cancels_of(buckets: Mapping[float, float]) -> Cancels:
    """Sum up a histogram, given as counts by the upper bounds of its buckets in seconds."""
    bounds = sorted(buckets)
    totals = list(accumulate(buckets[bound] for bound in bounds))

    def at_most_ms(share: float) -> float | None:
        rank = math.ceil(share * totals[-1])
        bound = next(bound for bound, total in zip(bounds, totals, strict=True) if total >= rank)
        return bound * 1000 if rank and math.isfinite(bound) else None

    return Cancels(round(totals[-1]), at_most_ms(0.5), at_most_ms(0.99))


def examples_of(errors: Iterable[str]) -> dict[str, str]:
    """Return the last message of each kind of error, in the order of the first ones."""
    return {error_kind(error): error[:_MAX_EXAMPLE_CHARS] for error in errors}


def is_saturated(lag_ms: Spread, busy: float) -> bool:
    """Return whether a client of this lag and this share of a core is itself the limit."""
    return (lag_ms.p99 or 0) > _MAX_LAG_MS or busy > _MAX_BUSY


def has_audio(record: TurnRecord) -> bool:
    """Return whether any audio of the turn came."""
    return record.first_audio_s is not None


def c100_of(records: Sequence[TurnRecord], underruns_s: Sequence[float]) -> float | None:
    """Return the share of turns without failure and without an underrun above 100 ms."""
    if not records:
        return None
    smooth = (
        record.outcome in ("completed", "interrupted") and underrun_s <= MAX_C100_UNDERRUN_S
        for record, underrun_s in zip(records, underruns_s, strict=True)
    )
    return sum(smooth) / len(records)


def spread_ms(values_s: Iterable[float | None]) -> Spread:
    """Return the percentiles in ms of values in s; None is no value."""
    return spread(1000 * value_s for value_s in values_s if value_s is not None)


def table(sweep: Sequence[Figures]) -> str:
    """Return the figures as text: a row each, a column for every point, then notes on errors."""
    notes = [note for figures in sweep for note in _notes(figures)]
    return aligned([_column(figures) for figures in sweep], notes)


def aligned(columns: Sequence[Mapping[str, str]], notes: Iterable[str]) -> str:
    """Return columns of equally named values as text, a row for each name, then the notes."""
    if not columns:
        return "nothing was measured"
    names = list(columns[0])
    name_width = max(map(len, names))
    widths = [max(map(len, column.values())) for column in columns]
    lines = [
        f"{name:<{name_width}}"
        + "".join(f"  {one[name]:>{width}}" for one, width in zip(columns, widths, strict=True))
        for name in names
    ]
    return "\n".join([*lines, *notes])


def _column(figures: Figures) -> dict[str, str]:
    cancels = figures.cancel_to_free or Cancels(0, None, None)
    first, gap, underrun = figures.first_audio_ms, figures.chunk_gap_ms, figures.worst_underrun_ms
    return {
        "calls": str(figures.calls),
        "turns": str(figures.turns),
        "  interrupted (while audio came)": f"{figures.interrupted} ({figures.hung_up})",
        "  failed or unfinished": str(figures.failed + figures.unfinished),
        "first audio p50, ms": number(first.p50),
        "first audio p95, ms": number(first.p95),
        "first audio p99, ms": number(first.p99),
        "first audio max, ms": number(first.max),
        "chunk gap p50, ms": number(gap.p50),
        "chunk gap p99, ms": number(gap.p99),
        "worst underrun p95, ms": number(underrun.p95),
        "worst underrun max, ms": number(underrun.max),
        "C100, %": percent(figures.c100),
        "C100 once all text was sent, %": percent(figures.c100_after_text),
        "streams (audio s per s)": number(figures.streams, digits=2),
        "real-time factor p50": number(figures.real_time_factor.p50, digits=2),
        "real-time factor p95": number(figures.real_time_factor.p95, digits=2),
        "connect p50, ms": number(figures.connect_ms.p50),
        "connect p99, ms": number(figures.connect_ms.p99),
        "cancels seen by the server": str(cancels.count) if figures.cancel_to_free else "-",
        "cancel to free p50, ms at most": number(cancels.p50_ms_at_most),
        "cancel to free p99, ms at most": number(cancels.p99_ms_at_most),
        "client: loop lag p99, ms": number(figures.loop_lag_ms.p99, digits=1),
        "client: busy, %": number(100 * figures.busy),
    }


def number(value: float | None, *, digits: int = 0) -> str:
    """Format a figure for the table."""
    return "-" if value is None else f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    """Format a share as a percentage for the table."""
    return number(None if share is None else 100 * share, digits=1)


def _notes(figures: Figures) -> list[str]:
    notes = [
        f"{figures.calls} calls: {count} {kind}: {figures.error_examples[kind]}"
        for kind, count in figures.errors.items()
    ]
    if figures.unfinished:
        notes.append(f"{figures.calls} calls: {figures.unfinished} turns did not end in time")
    if figures.saturated:
        notes.append(
            f"{figures.calls} calls: THIS CLIENT IS SATURATED, its figures are not the server's"
        )
    return notes


def points_json(sweep: Sequence[Figures]) -> list[dict[str, Any]]:
    """Return the figures as JSON's own types; a figure not measured is null."""
    return [asdict(figures) for figures in sweep]
