"""`csm-trio bench`: run a sweep, show its progress, write its figures.

Any server with ElevenLabs' `stream-input` socket can be measured.
"""

import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TextIO

import trio

from csm_trio.bench.load.flags import BenchOptions
from csm_trio.bench.load.plot import svg
from csm_trio.bench.load.point import Point, run_point, settle
from csm_trio.bench.load.report import Figures, points_json, sum_up, table
from csm_trio.bench.load.workload import TEXTS
from csm_trio.client_flags import EXIT_FAILED, EXIT_INTERRUPTED
from csm_trio.process_tuning import tuned_gc

_TERMINAL_PROGRESS_S = 1.0
_PLAIN_PROGRESS_S = 5.0


async def bench(
    options: BenchOptions, *, out: TextIO | None = None, stderr: TextIO | None = None
) -> int:
    """Run the sweep, print its table on `out`, and return the exit code.

    It is 0; 1 if no turn had audio or a file cannot be written; 130 after Ctrl-C, when the
    figures measured so far are still printed. Must run in the main thread, where signals arrive.
    """
    out = sys.stdout if out is None else out
    stderr = sys.stderr if stderr is None else stderr
    sweep = _Sweep(options, stderr)
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_on_interrupt, sweep.scope)
        with tuned_gc():
            await sweep.run()
        nursery.cancel_scope.cancel()
    figures = [sum_up(point) for point in sweep.points]
    print(table(figures), file=out, flush=True)
    try:
        await _write_files(options, figures)
    except OSError as error:
        print(f"csm-trio bench: cannot write {error.filename}: {error.strerror}", file=stderr)
        return EXIT_FAILED
    if sweep.scope.cancelled_caught:
        print("csm-trio bench: interrupted", file=stderr)
        return EXIT_INTERRUPTED
    return 0 if any(point.first_audio_ms.count for point in figures) else EXIT_FAILED


async def _cancel_on_interrupt(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        task_status.started()
        async for _ in interrupts:
            scope.cancel()


@dataclass(slots=True)
class _Sweep:
    """The points of a sweep, one after the other, with a line of progress."""

    options: BenchOptions
    stderr: TextIO
    points: list[Point] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> None:
        """Run all points; cancelling `scope` ends the sweep and keeps the points so far."""
        with self.scope:
            for index, calls in enumerate(self.options.calls):
                if index:
                    await settle(self.options.workload.base_url)
                await self._run_point(calls)

    async def _run_point(self, calls: int) -> None:
        point = Point(calls)
        self.points.append(point)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._show_progress, point)
                await run_point(self.options.workload, point, self.options.duration_s)
                nursery.cancel_scope.cancel()
        finally:
            if self.stderr.isatty():
                print("\r\x1b[K", end="", file=self.stderr, flush=True)

    async def _show_progress(self, point: Point) -> None:
        on_terminal = self.stderr.isatty()
        while True:
            await trio.sleep(_TERMINAL_PROGRESS_S if on_terminal else _PLAIN_PROGRESS_S)
            line = _progress_line(point, trio.current_time())
            if on_terminal:
                print(f"\r\x1b[K{line}", end="", file=self.stderr, flush=True)
            else:
                print(line, file=self.stderr, flush=True)


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


async def _write_files(options: BenchOptions, figures: Sequence[Figures]) -> None:
    if options.json_file is not None:
        text = json.dumps(_document(options, figures), indent=2, allow_nan=False)
        await trio.Path(options.json_file).write_text(text + "\n", encoding="utf-8")
    if options.plot_file is not None:
        title = f"csm-trio bench, {datetime.now(UTC):%Y-%m-%d}"
        picture = svg(figures, title=f"{title}: {options.duration_s:g} s for each number of calls")
        await trio.Path(options.plot_file).write_text(picture, encoding="utf-8")


def _document(options: BenchOptions, figures: Sequence[Figures]) -> dict[str, Any]:
    """Return the figures with the settings needed to repeat them, without the API key."""
    workload = options.workload
    return provenance("csm-trio bench") | {
        "config": {
            "url": workload.base_url,
            "voice": workload.voice_id,
            "formats": [audio_format.name for audio_format in workload.formats],
            "calls": list(options.calls),
            "duration_s": options.duration_s,
            "arrivals": workload.arrivals,
            "ramp_s": workload.ramp_s,
            "words_per_s": workload.words_per_s,
            "turn_pause_s": workload.turn_pause_s,
            "barge_in": workload.barge_in,
            "texts": len(workload.texts),
            "own_texts": workload.texts == TEXTS,
            "seed": workload.seed,
        },
        "points": points_json(figures),
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
