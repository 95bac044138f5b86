"""One point of a sweep: a number of concurrent calls for a duration, and the server's metrics.

Fills a `Point` with raw records; computes no figures and prints nothing.
"""

import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from urllib.error import URLError
from urllib.parse import urlsplit

import trio

from csm_trio.bench.load.call import TICKS_PER_S, Recorder, TurnRecord, run_call
from csm_trio.bench.load.client_processes import run_in_processes
from csm_trio.bench.load.workload import Workload, arrival_times_s, format_of, turns

TAIL_S = 20.0
"""Seconds that counted turns may run on after the measured time, under unchanged load."""

_LAG_PERIOD_S = 0.02
_SETTLE_S = 5.0
_SETTLE_POLL_S = 0.2

_METRICS_TIMEOUT_S = 2.0
_METRICS_READ_S = 1.0
_MAX_METRICS_BYTES = 4 << 20
_CANCEL_HISTOGRAM = "csm_cancel_to_free_seconds"
_SLOTS_USED = "csm_slots_used"

Metrics = dict[str, float]
"""Samples of Prometheus' text format, by name with labels as they stand in it."""


@dataclass(slots=True)
class Point:
    """All records of one point; may be read while it runs.

    `cancels` maps the upper bounds of the server's own cancel-to-free histogram, in seconds, to
    the number of cancels in that bucket; None if the server has no such metric. `busy` is the CPU
    time of this process, or of the busiest client process, as a share of the measured time.
    """

    calls: int
    recorder: Recorder = field(default_factory=Recorder)
    lag_ticks: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    busy: float = 0.0
    cancels: dict[float, float] | None = None


@dataclass(slots=True)
class CallsShare:
    """The records of the calls of one client process; `Point` has the terms."""

    turns: list[TurnRecord]
    gap_ticks: Counter[int]
    audio_s: float
    lag_ticks: Counter[int]
    seconds: float
    busy: float


async def run_point(workload: Workload, point: Point, duration_s: float, clients: int = 1) -> None:
    """Run `point.calls` calls until all turns that count have ended, or are overdue.

    Turns that end within the ramp do not count. May be cancelled; `point` keeps the records so
    far, those of a single client. Several clients are processes that share the calls out; raises
    `subprocess.CalledProcessError`, in a group, if one fails.
    """
    before = await read_metrics(workload.base_url)

    async def note_cancels() -> None:
        # Read before the calls are cancelled: their cancels all at once would distort the figure.
        after = await read_metrics(workload.base_url)
        if before is not None and after is not None:
            point.cancels = buckets_between(before, after, _CANCEL_HISTOGRAM)

    if clients == 1:
        start_s = trio.current_time()
        _set_times(point, workload, duration_s, start_s)
        await _run_calls(workload, point, start_s, note_cancels)
        return
    async with trio.open_nursery() as nursery:

        def started(start_s: float) -> None:
            _set_times(point, workload, duration_s, start_s)
            nursery.start_soon(_call_at, point.recorder.until_s, note_cancels)

        run = partial(_make_calls, workload, point.calls, duration_s, clients)
        _merge(point, await run_in_processes(run, clients, started))


def _set_times(point: Point, workload: Workload, duration_s: float, start_s: float) -> None:
    ramp_s = 0 if workload.arrivals == "together" else workload.ramp_s
    point.recorder.from_s = start_s + ramp_s
    point.recorder.until_s = point.recorder.from_s + duration_s


async def _call_at(at_s: float, work: Callable[[], Awaitable[None]]) -> None:
    await trio.sleep_until(at_s)
    await work()


async def _make_calls(
    workload: Workload, calls: int, duration_s: float, clients: int, start_s: float, client: int
) -> CallsShare:
    """Make every `clients`-th call, from `client` on; a client process runs this."""
    point = Point(calls)
    _set_times(point, workload, duration_s, start_s)
    # The load stays while the process that reports reads the server's metrics.
    metrics_time = partial(trio.sleep, _METRICS_READ_S)
    await _run_calls(workload, point, start_s, metrics_time, indices=range(client, calls, clients))
    recorder = point.recorder
    return CallsShare(
        recorder.turns,
        recorder.gap_ticks,
        recorder.audio_s,
        point.lag_ticks,
        point.seconds,
        point.busy,
    )


def _merge(point: Point, shares: Sequence[CallsShare]) -> None:
    """Add the shares to the point; its health is that of the busiest client."""
    for share in shares:
        point.recorder.turns += share.turns
        point.recorder.gap_ticks.update(share.gap_ticks)
        point.recorder.audio_s += share.audio_s
        point.lag_ticks.update(share.lag_ticks)
        point.seconds = max(point.seconds, share.seconds)
        point.busy = max(point.busy, share.busy)


async def _run_calls(
    workload: Workload,
    point: Point,
    start_s: float,
    measured: Callable[[], Awaitable[None]],
    indices: Sequence[int] | None = None,
) -> None:
    """Run the calls of these indices, or all; `measured` is awaited after the measured time."""
    recorder = point.recorder
    arrivals_s = arrival_times_s(workload, point.calls)
    async with trio.open_nursery() as nursery:
        for index in range(point.calls) if indices is None else indices:
            nursery.start_soon(_arrive, workload, point, index, start_s + arrivals_s[index])
        await trio.sleep_until(recorder.from_s)
        await measure_client(point)
        await measured()
        if recorder.pending:
            with trio.move_on_after(TAIL_S) as tail_scope:
                await recorder.drained.wait()
            recorder.overdue = tail_scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def _arrive(workload: Workload, point: Point, index: int, at_s: float) -> None:
    await trio.sleep_until(at_s)
    audio_format = format_of(workload, index)
    await run_call(workload, audio_format, turns(workload, point.calls, index), point.recorder)


async def measure_client(point: Point) -> None:
    """Record event-loop lag and CPU share of this process over the measured time."""
    busy_s, from_s = time.process_time(), trio.current_time()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note_lag, point.lag_ticks)
            await trio.sleep_until(point.recorder.until_s)
            nursery.cancel_scope.cancel()
    finally:
        # Audio is counted from the recorder's time on, also where this began later.
        point.seconds = trio.current_time() - point.recorder.from_s
        point.busy = (time.process_time() - busy_s) / max(trio.current_time() - from_s, 1e-9)


async def _note_lag(lag_ticks: Counter[int]) -> None:
    """Record the event loop's wake-up lag, which is part of every measured latency."""
    while True:
        due_s = trio.current_time() + _LAG_PERIOD_S
        await trio.sleep_until(due_s)
        lag_ticks[round((trio.current_time() - due_s) * TICKS_PER_S)] += 1


async def settle(base_url: str) -> None:
    """Wait until the server has released all slots, at most 5 s."""
    with trio.move_on_after(_SETTLE_S):
        while True:
            await trio.sleep(_SETTLE_POLL_S)
            metrics = await read_metrics(base_url)
            if metrics is not None and not metrics.get(_SLOTS_USED):
                return


async def read_metrics(base_url: str) -> Metrics | None:
    """Return the samples of the server's `/metrics`, or None where there are none.

    Sends no key, and goes straight to the server, as the sockets do.
    """
    url = urlsplit(base_url)
    scheme = "https" if url.scheme == "wss" else "http"
    address = f"{scheme}://{url.netloc}{url.path}/metrics"
    text = await trio.to_thread.run_sync(_fetch, address, abandon_on_cancel=True)
    return None if text is None else parse_metrics(text)


def _fetch(address: str) -> str | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=_METRICS_TIMEOUT_S) as answer:
            body: bytes = answer.read(_MAX_METRICS_BYTES)
    except (URLError, OSError):
        return None
    return body.decode("utf-8", "replace")


def parse_metrics(text: str) -> Metrics:
    """Parse Prometheus' text format; lines that are no sample are ignored."""
    samples: Metrics = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not name.startswith("#"):
            with suppress(ValueError):
                samples[name] = float(value)
    return samples


def buckets_between(before: Metrics, after: Metrics, name: str) -> dict[float, float] | None:
    """Return the number of observations per bucket, by upper bound, between two samples.

    None if the histogram is missing, or was reset in between.
    """
    prefix, suffix = f'{name}_bucket{{le="', '"}'
    bounds = {
        float(key.removeprefix(prefix).removesuffix(suffix)): total - before.get(key, 0.0)
        for key, total in after.items()
        if key.startswith(prefix) and key.endswith(suffix)
    }
    if not bounds:
        return None
    totals = [(0.0, 0.0), *sorted(bounds.items())]
    counts = {bound: total - below for (_, below), (bound, total) in pairwise(totals)}
    return None if min(counts.values()) < 0 else counts
