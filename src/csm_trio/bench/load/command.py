"""`csm-trio bench`: run a sweep, show its progress, write its figures.

Any server with ElevenLabs' `stream-input` socket can be measured.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol, TextIO

import trio

from csm_trio.bench.load.audible import THRESHOLD_DBFS
from csm_trio.bench.load.flags import BenchOptions
from csm_trio.bench.load.plot import rate_svg, svg
from csm_trio.bench.load.point import Point, run_point, settle
from csm_trio.bench.load.rate_report import rate_table, rates_json
from csm_trio.bench.load.rate_sweep import RateSweep
from csm_trio.bench.load.report import points_json, sum_up, table
from csm_trio.bench.load.workload import TEXTS
from csm_trio.client_flags import EXIT_FAILED, EXIT_INTERRUPTED
from csm_trio.errors import first_leaf
from csm_trio.process_tuning import raise_descriptor_limit, tuned_gc

_TERMINAL_PROGRESS_S = 1.0
_PLAIN_PROGRESS_S = 5.0


async def bench(
    options: BenchOptions, *, out: TextIO | None = None, stderr: TextIO | None = None
) -> int:
    """Run the sweep of calls or of rates, print its table on `out`, and return the exit code.

    It is 0; 1 if no turn had audio, a file cannot be written or a client process fails; 130 after
    Ctrl-C, when the figures measured so far are still printed. Must run in the main thread, where
    signals arrive.
    """
    out = sys.stdout if out is None else out
    stderr = sys.stderr if stderr is None else stderr
    raise_descriptor_limit()  # a connection for each call
    failures: list[BaseException] = []
    scope = trio.CancelScope()
    sweep = _sweep(options, stderr)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_interrupt, scope)
            with tuned_gc(), scope:
                await sweep.run()
            nursery.cancel_scope.cancel()
    except* subprocess.CalledProcessError as group:
        failures.append(first_leaf(group))
    if failures:
        print(f"csm-trio bench: a client process failed: {failures[0]}", file=stderr)
        return EXIT_FAILED
    results = sweep.results()
    print(results.table, file=out, flush=True)
    try:
        await _write_files(options, results)
    except OSError as error:
        print(f"csm-trio bench: cannot write {error.filename}: {error.strerror}", file=stderr)
        return EXIT_FAILED
    if scope.cancelled_caught:
        print("csm-trio bench: interrupted", file=stderr)
        return EXIT_INTERRUPTED
    return 0 if results.any_audio else EXIT_FAILED


async def _cancel_on_interrupt(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        task_status.started()
        async for _ in interrupts:
            scope.cancel()


@dataclass(frozen=True, slots=True)
class _Results:
    """The figures of a sweep in every form they are given out in."""

    table: str
    json: dict[str, Any]
    picture: str
    any_audio: bool


class _Sweep(Protocol):
    """A sweep that can be cancelled: `results` has what was measured so far."""

    async def run(self) -> None: ...

    def results(self) -> _Results: ...


def _sweep(options: BenchOptions, stderr: TextIO) -> _Sweep:
    if options.rate is None:
        return _CallSweep(options, stderr)
    return _OpenLoopSweep(RateSweep(options, options.rate, partial(_print_line, stderr)), stderr)


@dataclass(slots=True)
class _CallSweep:
    """The points of a sweep of calls, one after the other, with a line of progress."""

    options: BenchOptions
    stderr: TextIO
    points: list[Point] = field(default_factory=list)

    async def run(self) -> None:
        """Run all points."""
        for index, calls in enumerate(self.options.calls):
            if index:
                await settle(self.options.workload.base_url)
            point = Point(calls)
            self.points.append(point)
            async with _progress(self.stderr, partial(_progress_line, point)):
                await run_point(
                    self.options.workload,
                    point,
                    self.options.duration_s,
                    min(self.options.clients, calls),
                )

    def results(self) -> _Results:
        figures = [sum_up(point) for point in self.points]
        title = f"{_title()}: {self.options.duration_s:g} s for each number of calls"
        return _Results(
            table(figures),
            {"points": points_json(figures)},
            svg(figures, title=title),
            any(point.first_audio_ms.count for point in figures),
        )


@dataclass(slots=True)
class _OpenLoopSweep:
    """The trials of open-loop arrivals, one after the other, with a line of progress."""

    sweep: RateSweep
    stderr: TextIO

    async def run(self) -> None:
        """Run all trials."""
        async with _progress(self.stderr, self.sweep.progress):
            await self.sweep.run()

    def results(self) -> _Results:
        rates = self.sweep.figures()
        rate, duration_s = self.sweep.rate, self.sweep.options.duration_s
        title = f"{_title()}: {duration_s:g} s a trial, {len(rate.seeds)} trials a rate"
        return _Results(
            rate_table(rates),
            {"rates": rates_json(rates)},
            rate_svg(rates, title=title),
            any(trial.audible_ms.count for one in rates for trial in one.trials),
        )


def _title() -> str:
    return f"csm-trio bench, {datetime.now(UTC):%Y-%m-%d}"


@asynccontextmanager
async def _progress(stderr: TextIO, line: Callable[[float], str]) -> AsyncIterator[None]:
    """Show `line` of the time on Trio's clock now and then, until the block is left."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show_progress, stderr, line)
            yield
            nursery.cancel_scope.cancel()
    finally:
        if stderr.isatty():
            print("\r\x1b[K", end="", file=stderr, flush=True)


async def _show_progress(stderr: TextIO, line: Callable[[float], str]) -> None:
    on_terminal = stderr.isatty()
    while True:
        await trio.sleep(_TERMINAL_PROGRESS_S if on_terminal else _PLAIN_PROGRESS_S)
        if on_terminal:
            print(f"\r\x1b[K{line(trio.current_time())}", end="", file=stderr, flush=True)
        else:
            print(line(trio.current_time()), file=stderr, flush=True)


def _print_line(stderr: TextIO, line: str) -> None:
    clear = "\r\x1b[K" if stderr.isatty() else ""
    print(f"{clear}csm-trio bench: {line}", file=stderr, flush=True)


def _progress_line(point: Point, now_s: float) -> str:
    recorder = point.recorder
    if now_s < recorder.from_s:
        stage = "ramp"
    elif now_s < recorder.until_s:
        stage = f"{recorder.until_s - now_s:.0f} s left"
    else:
        stage = f"waiting for {recorder.pending} turns"
    failed = sum(record.outcome == "failed" for record in recorder.turns)
    return (
        f"{point.calls} calls: {recorder.open_calls} open, {recorder.running_turns} in a turn, "
        f"{len(recorder.turns)} turns, {failed} failed, {recorder.audio_s:.0f} s of audio, {stage}"
    )


async def _write_files(options: BenchOptions, results: _Results) -> None:
    if options.json_file is not None:
        document = provenance("csm-trio bench") | {"config": _config(options)} | results.json
        text = json.dumps(document, indent=2, allow_nan=False)
        await trio.Path(options.json_file).write_text(text + "\n", encoding="utf-8")
    if options.plot_file is not None:
        await trio.Path(options.plot_file).write_text(results.picture, encoding="utf-8")


def _config(options: BenchOptions) -> dict[str, Any]:
    """Return the settings needed to repeat the figures, without the API key."""
    workload = options.workload
    common = {
        "url": workload.base_url,
        "voice": workload.voice_id,
        "formats": [audio_format.name for audio_format in workload.formats],
        "duration_s": options.duration_s,
        "words_per_s": workload.words_per_s,
        "texts": len(workload.texts),
        "own_texts": workload.texts == TEXTS,
    }
    if options.rate is not None:
        return common | {
            "rates_hz": list(options.rate.rates_hz),
            "warm_up_s": options.rate.warm_up_s,
            "seeds": list(options.rate.seeds),
            "clients": "auto" if options.rate.clients is None else options.rate.clients,
            "audible_dbfs": THRESHOLD_DBFS,
        }
    return common | {
        "calls": list(options.calls),
        "clients": options.clients,
        "arrivals": workload.arrivals,
        "ramp_s": workload.ramp_s,
        "turn_pause_s": workload.turn_pause_s,
        "barge_in": workload.barge_in,
        "seed": workload.seed,
    }


def provenance(tool: str) -> dict[str, Any]:
    """Return the tool, its version, the date and the machine of a measurement."""
    return {
        "tool": tool,
        "version": version("csm-trio"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
    }
