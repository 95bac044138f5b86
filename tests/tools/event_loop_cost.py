"""Measure the CPU time of a frame, in each process: a real server, load, a runner without a model.

A program, not a test. The server runs in a process of its own over real sockets. Each step of its
runner sleeps as long as one on an H100 takes, with the interpreter lock released. `csm-trio bench`
makes the calls from another process. Several `--source` directories are measured one after the
other, so that a change can be compared with its baseline in one run:

    PYTHONPATH=tests python -m tools.event_loop_cost --calls 128 --source ../before/src --source src

With `--workers 2` the server has workers around an engine process. Times are CPU time, as Linux
counts it, not wall time; `--alignment off` serves without timestamps.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from support.processes import child_processes, command_line

SAMPLES = 1_920
CODEBOOKS = 32
ROWS_TOGETHER = 16
"""Rows whose frames are copied at once and share memory, as in the CUDA step."""


@dataclass(frozen=True, slots=True)
class Device:
    """Times in ms measured on an H100: a step, each row of it, a prefill of up to 8 prompts."""

    step_ms: float = 4.9
    row_ms: float = 0.027
    prefill_ms: float = 2.0


class PacedRunner:
    """A Runner that sleeps as long as a device would take, and uses almost no CPU."""

    max_prefills_per_step = 8

    def __init__(self, slots: int, device: Device) -> None:
        self.slots = slots
        self._device = device
        self._frames_left: dict[int, int] = {}
        self._pending: list[int] = []
        noise = np.random.default_rng(1).normal(0, 3_000, (slots, CODEBOOKS + SAMPLES))
        self._frames = noise.astype(np.int16)  # [slots, codebooks + samples]

    def open(self, batch: Sequence[tuple[int, Any]]) -> list[int]:
        for slot, utterance in batch:
            self._frames_left[slot] = (
                utterance.max_frames
            )  # every utterance runs to its limit, as with random weights
            self._pending.append(slot)
        return [utterance.max_frames for _, utterance in batch]

    def prefill(self) -> list[int]:
        time.sleep(self._device.prefill_ms / 1_000)
        done, self._pending = self._pending, []
        return done

    def step(self, slots: Sequence[int]) -> list[Any]:
        from csm_trio.engine.utterance import Frame

        time.sleep((self._device.step_ms + self._device.row_ms * len(slots)) / 1_000)
        frames: list[Any] = []
        self._frames[:, 0] += 1  # no two frames have equal codes
        for first in range(0, len(slots), ROWS_TOGETHER):
            rows = self._frames[first : first + len(slots[first : first + ROWS_TOGETHER])].copy()
            frames += [Frame(row[CODEBOOKS:], row[:CODEBOOKS]) for row in rows]
        for index, slot in enumerate(slots):
            self._frames_left[slot] -= 1
            if self._frames_left[slot] < 0:
                frames[index] = None
        return frames

    def close(self, slot: int) -> None:
        del self._frames_left[slot]
        self._pending = [other for other in self._pending if other != slot]


def load_paced(config: Any, *voices: object) -> Any:
    """Return this runner, in place of a model's."""
    return PacedRunner(config.pool_size, Device())


def serve_paced(options: argparse.Namespace) -> None:
    """Run `csm-trio serve` with this runner in place of the model, until terminated."""
    from csm_trio import cli, process_tuning
    from csm_trio.engine import load

    load.load_runner = load_paced
    if options.workers:
        from csm_trio.processes import supervisor

        factory = "tools.event_loop_cost:load_paced"
        supervisor.supervise = partial(supervisor.supervise, runner_factory=factory)
    if options.switch_interval_s is not None:
        process_tuning.SWITCH_INTERVAL_S = options.switch_interval_s
    flags = ["--host", "127.0.0.1", "--port", "0", "--drain-s", "0"]
    flags += ["--pool-size", str(options.slots), "--alignment", options.alignment]
    flags += ["--workers", str(options.workers)] if options.workers else []
    cli.main(["serve", *flags])


@contextmanager
def served(source: Path, options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Run a server from this source; yield its process id and port."""
    command = [sys.executable, __file__, "--serve", "--slots", str(options.slots)]
    command += ["--workers", str(options.workers), "--alignment", options.alignment]
    if options.switch_interval_s:
        command += ["--switch-interval-s", str(options.switch_interval_s)]
    path = os.pathsep.join([str(source.resolve()), str(Path(__file__).parents[1])])
    environ = os.environ | {"PYTHONPATH": path}
    with tempfile.NamedTemporaryFile("w+") as log:
        server = subprocess.Popen(command, env=environ, stderr=log)
        try:
            yield server.pid, port_in(Path(log.name), server)
        finally:
            server.terminate()
            server.wait(timeout=30)


def port_in(log: Path, server: subprocess.Popen[bytes]) -> int:
    """Wait until the server logs its port, and return it."""
    while server.poll() is None:
        if found := re.search(r"listening on http://[^:]+:(\d+)", log.read_text()):
            return int(found.group(1))
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def cpu_s(pid: int) -> dict[str, float]:
    """Return the CPU time in s of a server by its parts, from Linux' /proc.

    With workers the parts are its processes; else event loop and device thread of the one.
    """
    children = child_processes(pid)
    if not children:
        times = {"event loop": 0.0, "device thread": 0.0}
        for task in Path(f"/proc/{pid}/task").iterdir():
            if task.name == str(pid):
                times["event loop"] += task_cpu_s(task)
            elif (task / "comm").read_text().strip() == "csm-device":
                times["device thread"] += task_cpu_s(task)
        return times
    times = {"supervisor": process_cpu_s(pid), "engine": 0.0, "workers": 0.0}
    for child in children:
        role = command_line(child)[3]
        times["workers" if role == "worker" else role] += process_cpu_s(child)
    return times


def process_cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process."""
    return sum(map(task_cpu_s, Path(f"/proc/{pid}/task").iterdir()))


def task_cpu_s(task: Path) -> float:
    """Return the CPU time of one thread."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9


def metrics_of(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def run_load(source: Path, port: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run `csm-trio bench`; return the figures of its one point."""
    with tempfile.NamedTemporaryFile("r") as figures:
        command = [sys.executable, "-m", "csm_trio", "bench", "--json", figures.name]
        command += ["--url", f"ws://127.0.0.1:{port}", "--calls", str(options.calls)]
        command += ["--duration-s", str(options.duration_s), *options.bench]
        environ = os.environ | {"PYTHONPATH": str(source.resolve())}
        subprocess.run(command, env=environ, capture_output=True, check=True)
        (point,) = json.loads(Path(figures.name).read_text())["points"]
    assert isinstance(point, dict)
    return point


def measure(source: Path, options: argparse.Namespace) -> str:
    """Run one server under load; return its line of the table."""
    with served(source, options) as (pid, port):
        before, cpu_before, from_s = metrics_of(port), cpu_s(pid), time.monotonic()
        point = run_load(source, port, options)
        after, cpu, elapsed_s = metrics_of(port), cpu_s(pid), time.monotonic() - from_s
    frames, steps, step_s = (
        after[name] - before[name]
        for name in ("csm_frames_total", "csm_step_seconds_count", "csm_step_seconds_sum")
    )
    parts = ", ".join(
        f"{name} {1e6 * used_s / frames:.1f} us a frame "
        f"({100 * used_s / elapsed_s:.0f} % of a core)"
        for name, used_s in ((name, cpu[name] - cpu_before[name]) for name in cpu)
    )
    first = point["first_audio_ms"]
    return (
        f"{source}: {parts}; "
        f"{frames / elapsed_s:.0f} frames/s, step {1e3 * step_s / steps:.1f} ms, "
        f"{frames / steps:.0f} rows; first audio p50/p95 {first['p50']:.0f}/{first['p95']:.0f} ms, "
        f"C100 {100 * point['c100']:.1f} %; bench {100 * point['busy']:.0f} % of a core"
    )


def main() -> None:
    """Measure every source in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--source", type=Path, action="append", help="a src directory; may be given several times")
    add("--calls", type=int, default=64)
    add("--slots", type=int, default=512)
    add("--duration-s", type=float, default=10.0)
    add("--switch-interval-s", type=float)
    add("--workers", type=int, default=0, help="0: everything in one process")
    add("--alignment", choices=("on", "off"), default="on")
    add("--serve", action="store_true", help=argparse.SUPPRESS)
    options, bench_flags = parser.parse_known_args()
    options.bench = bench_flags
    if options.serve:
        serve_paced(options)
        return
    for source in options.source or [Path(__file__).parents[2] / "src"]:
        print(measure(source, options), flush=True)


if __name__ == "__main__":
    main()
