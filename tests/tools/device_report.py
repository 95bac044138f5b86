"""Measure a device in at most ten minutes: the engine, calls, open-loop requests, cancels, memory.

    PYTHONPATH=tests python -m tools.device_report --out DIR [--device cpu]

Every part writes its result as it ends, `DIR/PART.json`; a part whose result is there is skipped,
so the same command goes on where a run was cut. A part that did not fit into the time is reported
as left out, a sweep that was cut keeps the points it has (`PART.partial.json`). At the end, and
also after a part fails: `report.json`, `report.md` (a table for docs/performance.md) and the plots.
With `--device cpu` the same parts run in seconds on the embedded voice, which checks this program
and measures nothing.
"""

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

from csm_trio.bench.load.command import provenance
from support.processes import child_processes

ROOT = Path(__file__).parents[2]
_PROGRAM = (sys.executable, "-m", "csm_trio")

_INTERRUPT_S = 10.0
"""Seconds in which an interrupted bench writes what it has."""
_STOP_S = 15.0
_POLL_S = 0.2
_REPORT_S = 20.0
"""Seconds of the limit that are kept for the end of a server, and for the report."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured, and for how long; times in s."""

    serve: tuple[str, ...]
    engine: tuple[str, ...]
    batches: tuple[int, ...]
    calls: tuple[int, ...]
    calls_for_s: float
    clients: int
    cancel_calls: int
    rates_hz: tuple[float, ...]
    warm_up_s: float
    rate_for_s: float
    ramp_s: float
    text: str | None
    """The one text of every turn and request; None has the bench's own."""
    server_start_s: float
    point_s: float
    """Expected time of a point beside its measured time: ramp, tail and settling."""
    engine_s: float
    tests_s: float
    test_files: int | None = None
    """Files of `pytest -m gpu` that are run; None runs all."""


_NOISE = ("--random-weights", "sesame/csm-1b-size", "--max-positions", "512")
CUDA = Scale(
    serve=(*_NOISE, "--pool-size", "1024"),
    engine=(*_NOISE, "--pool-size", "1024", "--steps", "40", "--transformers-batches", "none"),
    batches=(1, 8, 64, 256, 512, 1024),
    calls=(1, 64, 256, 512, 1024),
    calls_for_s=6.0,
    clients=4,
    cancel_calls=256,
    rates_hz=(1.0, 10.0, 20.0, 40.0),
    warm_up_s=3.0,
    rate_for_s=10.0,
    ramp_s=2.0,
    text=None,
    server_start_s=60.0,
    point_s=10.0,
    engine_s=110.0,
    tests_s=95.0,
)
CPU = Scale(
    serve=("--cpu", "--pool-size", "2", "--max-positions", "256"),
    engine=("--cpu", "--max-positions", "256", "--steps", "2", "--transformers-batches", "none"),
    batches=(1, 2),
    calls=(2,),
    calls_for_s=0.5,
    clients=1,
    cancel_calls=2,
    rates_hz=(2.0, 4.0),
    warm_up_s=0.2,
    rate_for_s=1.0,
    ramp_s=0.1,
    text="Hello there.",
    server_start_s=20.0,
    point_s=8.0,
    engine_s=30.0,
    tests_s=30.0,
    test_files=1,
)

# Bars for one H100, by rows, calls or requests a second: the most that is allowed.
_STEP_BARS_MS = {1: 3.8, 64: 7.0, 256: 11.0, 512: 16.0, 1024: 30.0}
_C100_BARS = {512: 0.99, 1024: 0.99}
_FIRST_AUDIO_BARS_MS = {512: 150.0}
_AUDIBLE_BARS_MS = {20.0: 30.0}
_CANCEL_BAR_MS = 80.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its name, the server it needs, how long it is expected and allowed to take.

    `run` gets the time it may take in s, and returns the figures and whether they are complete.
    """

    name: str
    alignment: str | None
    expected_s: float
    run: Callable[[float], tuple[dict[str, Any], bool]]


@dataclass(slots=True)
class Outcome:
    """What became of a part: done, partial, skipped (it was there), failed or left out."""

    name: str
    status: str
    took_s: float = 0.0
    reason: str | None = None


class PartFailed(Exception):
    """A part has no figures; the message is one sentence."""


@dataclass(slots=True)
class Server:
    """A running `csm-trio serve` in a process group of its own."""

    process: "subprocess.Popen[bytes]"
    port: int

    def stop(self) -> None:
        """Stop it with SIGTERM, then the whole group."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)
        _kill_group(self.process)


@dataclass(slots=True)
class Session:
    """One run of this program."""

    out: Path
    scale: Scale
    serve_flags: tuple[str, ...]
    deadline_s: float
    outcomes: list[Outcome] = field(default_factory=list)
    server: Server | None = None
    alignment: str | None = None

    def left_s(self) -> float:
        """Return the time left, without what the report takes."""
        return self.deadline_s - time.monotonic() - _REPORT_S

    def parts(self) -> list[Part]:
        """Return all parts, in their order: those of one server after each other."""
        scale = self.scale
        calls_s = len(scale.calls) * (scale.calls_for_s + scale.point_s)
        one_s = scale.calls_for_s + scale.point_s
        rate_s = scale.warm_up_s + scale.rate_for_s + scale.point_s / 2
        return [
            Part("engine", None, scale.engine_s, self._engine),
            Part("calls_alignment_on", "on", calls_s, self._calls),
            Part("cancels", "on", one_s, self._cancels),
            Part("rates", "on", len(scale.rates_hz) * rate_s, self._rates),
            Part("memory", "on", 1.0, self._memory),
            Part("calls_alignment_off", "off", calls_s, self._calls),
            Part("gpu_tests", None, scale.tests_s, self._gpu_tests),
        ]

    def run(self) -> None:
        """Run all parts that are not there yet and that fit into the time."""
        try:
            for part in self.parts():
                outcome = self._run_part(part)
                self.outcomes.append(outcome)
                reason = "" if outcome.reason is None else f": {outcome.reason}"
                print(f"{part.name}: {outcome.status}, {outcome.took_s:.0f} s{reason}", flush=True)
        finally:
            self._stop_server()

    def _run_part(self, part: Part) -> Outcome:
        if (self.out / f"{part.name}.json").exists():
            return Outcome(part.name, "skipped")
        needed_s = part.expected_s
        if part.alignment is not None and part.alignment != self.alignment:
            needed_s += self.scale.server_start_s
        left_s = self.left_s()
        # Half the expected time is enough for some points of a sweep.
        if left_s < needed_s / 2:
            reason = f"{max(0.0, left_s):.0f} s left, about {needed_s:.0f} needed"
            return Outcome(part.name, "left out", reason=reason)
        began_s = time.monotonic()
        try:
            self._use_server(part.alignment)
            limit_s = min(self.left_s(), 2 * part.expected_s)
            figures, complete = part.run(limit_s)
        except PartFailed as failure:
            return Outcome(part.name, "failed", time.monotonic() - began_s, str(failure))
        took_s = time.monotonic() - began_s
        partial = self.out / f"{part.name}.partial.json"
        file = self.out / f"{part.name}.json" if complete else partial
        write_json(file, {"took_s": took_s, "figures": figures})
        if complete:
            partial.unlink(missing_ok=True)
        return Outcome(part.name, "done" if complete else "partial", took_s)

    def _use_server(self, alignment: str | None) -> None:
        """Have the server with this alignment running; None needs the whole device."""
        if alignment is not None and alignment == self.alignment:
            return
        self._stop_server()
        if alignment is not None:
            flags = (*self.serve_flags, "--alignment", alignment)
            log = self.out / f"serve_alignment_{alignment}.log"
            limit_s = min(self.left_s(), 3 * self.scale.server_start_s)
            self.server, self.alignment = start_server(flags, log, limit_s), alignment

    def _stop_server(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.server = self.alignment = None

    @property
    def _url(self) -> str:
        assert self.server is not None
        return f"ws://127.0.0.1:{self.server.port}"

    def _engine(self, limit_s: float) -> tuple[dict[str, Any], bool]:
        batches = ",".join(map(str, self.scale.batches))
        flags = ("--engine", *self.scale.engine, "--batches", batches)
        return self._bench("engine", flags, limit_s)

    def _calls(self, limit_s: float) -> tuple[dict[str, Any], bool]:
        scale, name = self.scale, f"calls_alignment_{self.alignment}"
        flags = ("--calls", ",".join(map(str, scale.calls)), *self._call_flags())
        plot = ("--plot", str(self.out / f"{name}.svg"))
        return self._bench(name, (*flags, *plot), limit_s)

    def _call_flags(self) -> tuple[str, ...]:
        scale = self.scale
        times = ("--duration-s", f"{scale.calls_for_s:g}", "--ramp-s", f"{scale.ramp_s:g}")
        clients = ("--clients", str(scale.clients))
        return ("--url", self._url, *times, *clients, *self._text_flags())

    def _text_flags(self) -> tuple[str, ...]:
        if self.scale.text is None:
            return ()
        file = self.out / "text.txt"
        file.write_text(self.scale.text, encoding="utf-8")
        return ("--texts", str(file))

    def _cancels(self, limit_s: float) -> tuple[dict[str, Any], bool]:
        """Hang up every call in mid-speech; the server's histogram has the time to a free slot."""
        flags = ("--calls", str(self.scale.cancel_calls), "--barge-in", "1", "--turn-pause-s", "0")
        return self._bench("cancels", (*flags, *self._call_flags()), limit_s)

    def _rates(self, limit_s: float) -> tuple[dict[str, Any], bool]:
        scale = self.scale
        rates = ",".join(f"{rate_hz:g}" for rate_hz in scale.rates_hz)
        flags = ("--url", self._url, "--rate", rates, "--seeds", "1", "--formats", "pcm_24000")
        times = ("--warm-up-s", f"{scale.warm_up_s:g}", "--duration-s", f"{scale.rate_for_s:g}")
        plot = ("--plot", str(self.out / "rates.svg"))
        return self._bench("rates", (*flags, *times, *plot, *self._text_flags()), limit_s)

    def _bench(
        self, name: str, flags: Sequence[str], limit_s: float
    ) -> tuple[dict[str, Any], bool]:
        """Run `csm-trio bench`; return what it has written, and whether that is all.

        At the limit it is interrupted, and writes what it has.
        """
        file = self.out / f"{name}.bench"
        file.unlink(missing_ok=True)
        command = [*_PROGRAM, "bench", *flags, "--json", str(file)]
        with (self.out / f"{name}.log").open("wb") as log:
            cut = run_limited(command, limit_s, log)
        try:
            document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PartFailed(_failure(self.out / f"{name}.log", cut, limit_s)) from None
        file.unlink()
        return document | {"command": shlex.join(["csm-trio", "bench", *flags])}, not cut

    def _memory(self, limit_s: float) -> tuple[dict[str, Any], bool]:
        """Read the peak memory of the server's processes after the loads, and the GPU's now."""
        assert self.server is not None
        processes = [process_memory(pid) for pid in process_tree(self.server.process.pid)]
        return {"processes": processes, "gpu_used_mb": gpu_used_mb()}, True

    def _gpu_tests(self, limit_s: float) -> tuple[dict[str, Any], bool]:
        tests = sorted(
            str(path)
            for path in (ROOT / "tests").rglob("test_*.py")
            if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
        )[: self.scale.test_files]
        log = self.out / "gpu_tests.log"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        with log.open("wb") as file:
            cut = run_limited([*command, *tests], limit_s, file)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        summary = next((line for line in reversed(lines) if re.search(r" in [\d.]+s", line)), None)
        if cut or summary is None:
            raise PartFailed(_failure(log, cut, limit_s))
        return {"summary": summary.strip("= ")}, True


def write_json(path: Path, content: object) -> None:
    """Write a file that is there whole, or not at all."""
    partial = path.with_suffix(".writing")
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _failure(log: Path, cut: bool, limit_s: float) -> str:
    if cut:
        return f"did not end in {limit_s:.0f} s, see {log.name}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return f"{last.strip()} (see {log.name})"


def run_limited(command: Sequence[str], limit_s: float, log: Any) -> bool:
    """Run a command; return whether it was interrupted at the limit, as by Ctrl-C."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        process.wait(max(0.1, limit_s - _INTERRUPT_S))
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_INTERRUPT_S)
        return True
    finally:
        _kill_group(process)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start_server(flags: Sequence[str], log: Path, limit_s: float) -> Server:
    """Start a server on a free port; return it when it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [*_PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port), *flags]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--drain-s", "1"], cwd=ROOT, stderr=file, start_new_session=True
        )
    end_s = time.monotonic() + limit_s
    ready = False
    try:
        while process.poll() is None and time.monotonic() < end_s and not ready:
            time.sleep(_POLL_S)
            ready = is_ready(port)
        cut = process.poll() is None
    finally:
        if not ready:
            _kill_group(process)
    if ready:
        return Server(process, port)
    raise PartFailed(f"the server did not start: {_failure(log, cut, limit_s)}")


def is_ready(port: int) -> bool:
    """Return whether the server on this port answers that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def serve_knows(flag: str) -> bool:
    """Return whether the installed `csm-trio serve` has this flag."""
    answer = subprocess.run(
        [*_PROGRAM, "serve", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return re.search(rf"{re.escape(flag)}\b", answer.stdout) is not None


def process_tree(pid: int) -> list[int]:
    """Return a process and all below it (Linux); elsewhere the process alone."""
    below = [each for child in child_processes(pid) for each in process_tree(child)]
    return [pid, *sorted(below)]


def process_memory(pid: int) -> dict[str, Any]:
    """Return the resident memory of a process in MB, now and at most (Linux)."""
    memory: dict[str, Any] = {"pid": pid}
    with suppress(FileNotFoundError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        for name, key in (("VmRSS", "rss_mb"), ("VmHWM", "peak_rss_mb")):
            memory[key] = int(fields.get(name, "0 kB").split()[0]) / 1024
    return memory


def gpu_used_mb() -> float | None:
    """Return the memory in MB that is used on the first GPU, by all; None without one."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return float(answer.stdout.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def read_parts(out: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the figures of the parts that have some, whole ones before partial ones."""
    figures = {}
    for name in names:
        for file in (out / f"{name}.json", out / f"{name}.partial.json"):
            if file.exists():
                figures[name] = json.loads(file.read_text(encoding="utf-8"))["figures"]
                break
    return figures


def markdown(parts: dict[str, dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    return "\n".join(_markdown_lines(parts, about)) + "\n"


def _markdown_lines(parts: dict[str, dict[str, Any]], about: dict[str, Any]) -> Iterator[str]:
    engine = parts.get("engine", {}).get("engine")
    device = "a device that was not reached" if engine is None else engine["device"]
    yield f"### Device report: {device} (commit {about['commit']}, {about['date'][:10]})"
    yield ""
    yield f"`csm-trio serve {shlex.join(about['serve_flags'])}`; {about['machine']['cpus']} cores."
    if about["device"] != "cpu":
        yield "A figure that misses its bar is **bold**, with the bar behind it."
    if engine is not None:
        yield from _engine_lines(engine, about["device"])
    for alignment in ("on", "off"):
        if f"calls_alignment_{alignment}" in parts:
            points = parts[f"calls_alignment_{alignment}"]["points"]
            yield from _calls_lines(points, alignment, about["device"])
    if "rates" in parts:
        yield from _rates_lines(parts["rates"]["rates"], about["device"])
    yield ""
    for point in parts.get("cancels", {}).get("points", ()):
        yield from _cancel_lines(point, about["device"])
    if "memory" in parts:
        yield f"- {_memory_line(parts['memory'], engine)}"
    if "gpu_tests" in parts:
        yield f"- `pytest -m gpu`: {parts['gpu_tests']['summary']}"
    for outcome in about["outcomes"]:
        if outcome["status"] in ("partial", "failed", "left out"):
            reason = "" if outcome["reason"] is None else f": {outcome['reason']}"
            yield f"- {outcome['name']}: {outcome['status']}{reason}"


def _engine_lines(engine: dict[str, Any], device: str) -> Iterator[str]:
    yield from ("", "| rows | step median, ms | p99 | of which Mimi |", "|--:|--:|--:|--:|")
    for row in engine["batches"]:
        bar = _STEP_BARS_MS.get(row["batch"])
        median = _barred(row["median_ms"], bar, device)
        yield f"| {row['batch']} | {median} | {row['p99_ms']:.2f} | {row['codec_ms']:.2f} |"


def _calls_lines(points: Sequence[dict[str, Any]], alignment: str, device: str) -> Iterator[str]:
    yield from ("", f"Alignment {alignment}:", "")
    yield (
        "| calls | TTFA p50 / p95, ms | C100, % | audio s per s | turns | failed, unfinished "
        "| busiest client, % of a core |"
    )
    yield "|--:|--:|--:|--:|--:|--:|--:|"
    for point in points:
        calls, first = point["calls"], point["first_audio_ms"]
        p95 = _barred(first["p95"], _FIRST_AUDIO_BARS_MS.get(calls), device, digits=0)
        c100 = _c100(point["c100"], _C100_BARS.get(calls), device)
        failed = point["failed"] + point["unfinished"]
        yield (
            f"| {calls} | {_number(first['p50'])} / {p95} | {c100} | {point['streams']:.1f} "
            f"| {point['turns']} | {failed} | {_client(point['busy'], point['saturated'])} |"
        )


def _rates_lines(rates: Sequence[dict[str, Any]], device: str) -> Iterator[str]:
    seconds = rates[0]["trials"][0]["seconds"] if rates else 0
    yield from ("", f"Open-loop requests, one seed of {seconds:.0f} s each:", "")
    yield (
        "| requests a second | audible TTFA p50 / p95 / p99, ms | with an underrun, % "
        "| in flight, peak | audio s per s | requests | refused | failed, unfinished "
        "| busiest client, % of a core |"
    )
    yield "|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for rate in rates:
        median = rate["medians"]
        p95 = _barred(
            median["audible_p95_ms"], _AUDIBLE_BARS_MS.get(rate["rate_hz"]), device, digits=1
        )
        underruns = median["underrun_share"]
        busy = max(trial["busiest_client"] for trial in rate["trials"])
        saturated = any(trial["saturated"] for trial in rate["trials"])
        yield (
            f"| {rate['rate_hz']:g} | {_number(median['audible_p50_ms'], 1)} / {p95} / "
            f"{_number(median['audible_p99_ms'], 1)} "
            f"| {_number(None if underruns is None else 100 * underruns, 2)} "
            f"| {median['in_flight_peak']} | {_number(median['audio_s_per_s'], 1)} "
            f"| {median['requests']} | {median['refused']} "
            f"| {median['failed'] + median['unfinished']} | {_client(busy, saturated)} |"
        )


def _cancel_lines(point: dict[str, Any], device: str) -> Iterator[str]:
    cancels = point["cancel_to_free"]
    if cancels is None:
        return
    p99 = _barred(cancels["p99_ms_at_most"], _CANCEL_BAR_MS, device, digits=0)
    yield (
        f"- cancel to free slot, {point['calls']} calls that all hang up: p50 at most "
        f"{_number(cancels['p50_ms_at_most'])} ms, p99 at most {p99} ms "
        f"({cancels['count']} cancels)"
    )


def _memory_line(memory: dict[str, Any], engine: dict[str, Any] | None) -> str:
    peaks = [process.get("peak_rss_mb") for process in memory["processes"]]
    known = ", ".join(f"{peak:.0f}" for peak in peaks if peak is not None)
    words = [f"memory of the server's {len(peaks)} processes at most: {known} MB"]
    if memory["gpu_used_mb"] is not None:
        words.append(f"{memory['gpu_used_mb']:.0f} MB used on the GPU")
    if engine is not None:
        words.append(
            f"engine alone: weights {engine['weight_bytes'] / 2**20:.0f} MiB, "
            f"{engine['slots']} slots of {engine['slot_bytes'] / 2**20:.1f} MiB, "
            f"at most {engine['peak_bytes'] / 2**20:.0f} MiB"
        )
    return "; ".join(words)


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _barred(value: float | None, bar: float | None, device: str, *, digits: int = 2) -> str:
    text = _number(value, digits)
    if bar is None or device == "cpu" or (value is not None and value <= bar):
        return text
    return f"**{text}** (bar {bar:g})"


def _c100(value: float | None, bar: float | None, device: str) -> str:
    text = _number(None if value is None else 100 * value, 1)
    if bar is None or device == "cpu" or (value is not None and value >= bar):
        return text
    return f"**{text}** (bar {100 * bar:g})"


def _client(busy: float, saturated: bool) -> str:
    return f"{100 * busy:.0f}" + (", the limit" if saturated else "")


def commit() -> str:
    """Return the short hash of the working tree's commit, or `unknown` outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def write_report(session: Session, device: str, began_s: float) -> None:
    """Write `report.json` and `report.md` from the results in the folder."""
    about = provenance("tools.device_report") | {
        "commit": commit(),
        "device": device,
        "serve_flags": session.serve_flags,
        "took_s": time.monotonic() - began_s,
        "outcomes": [
            {"name": one.name, "status": one.status, "took_s": one.took_s, "reason": one.reason}
            for one in session.outcomes
        ],
    }
    parts = read_parts(session.out, [part.name for part in session.parts()])
    write_json(session.out / "report.json", about | {"parts": parts})
    (session.out / "report.md").write_text(markdown(parts, about), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 0 if every part has its result, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: small, a check of this")
    add("--time-limit-s", type=float, default=595.0, metavar="S", help="in all; default 595")
    add("--serve-flags", type=shlex.split, metavar="FLAGS", help="of the server, in one argument")
    add("--workers", default="auto", help="of the server, if it knows the flag; default auto")
    options = parser.parse_args(arguments)
    began_s = time.monotonic()
    scale = CPU if options.device == "cpu" else CUDA
    options.out.mkdir(parents=True, exist_ok=True)
    flags = scale.serve if options.serve_flags is None else tuple(options.serve_flags)
    if serve_knows("--workers"):
        flags = (*flags, "--workers", options.workers)
    session = Session(options.out.resolve(), scale, flags, began_s + options.time_limit_s)
    try:
        session.run()
    finally:
        write_report(session, options.device, began_s)
    print((options.out / "report.md").read_text(encoding="utf-8"))
    return int(any(one.status not in ("done", "skipped") for one in session.outcomes))


if __name__ == "__main__":
    # A server is a session of its own: without this it would outlive the program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
