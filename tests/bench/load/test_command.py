"""`csm-trio bench` against a whole server: what is counted, written, and left behind."""

import io
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trio
import trio.lowlevel
from trio_websocket import WebSocketRequest

from csm_trio.audio.formats import AudioFormat
from csm_trio.bench.load.command import bench
from csm_trio.bench.load.flags import BenchOptions, RateOptions
from csm_trio.bench.load.open_loop import ClientShare
from csm_trio.bench.load.trial import Trial
from csm_trio.bench.load.workload import Workload, request_times_s
from csm_trio.config import Config
from csm_trio.engine.utterance import StepResult
from support.fakes import SineRunner, StepGate
from support.scripted_server import FINAL, all_text, scripted_server, spoken
from support.serving import TEST_SERVER, Server, serving

PCM, ULAW = AudioFormat.parse("pcm_24000"), AudioFormat.parse("ulaw_8000")
GUARD_S = 30.0

LOUD = bytes(2) * 240 + b"\x00\x10\x00\xf0" * 2_400

# Two words are four frames: 0.32 s of sound.
BRIEF = Workload(
    "ws://127.0.0.1:1",
    (PCM, ULAW),
    texts=("Hi there.",),
    words_per_s=0.0,
    turn_pause_s=0.0,
    barge_in=0.0,
    arrivals="together",
)


def workload_of(server: Server) -> Workload:
    return replace(BRIEF, base_url=server.url().replace("http:", "ws:"))


async def run(options: BenchOptions) -> tuple[int, str, str]:
    out, stderr = io.StringIO(), io.StringIO()
    with trio.fail_after(GUARD_S):
        code = await bench(options, out=out, stderr=stderr)
    return code, out.getvalue(), stderr.getvalue()


async def test_a_sweep_is_counted_printed_and_written(tmp_path: Path) -> None:
    json_file, plot_file = tmp_path / "bench.json", tmp_path / "bench.svg"
    async with serving(lambda: SineRunner()) as server:
        workload = replace(workload_of(server), api_key="s3cret")
        options = BenchOptions(workload, (2, 3), 0.2, json_file, plot_file)
        code, out, stderr = await run(options)
    assert (code, stderr) == (0, "")
    assert out.splitlines()[0].split() == ["calls", "2", "3"]
    document = json.loads(json_file.read_text(encoding="utf-8"))
    assert "s3cret" not in json.dumps(document)
    assert set(document) == {"tool", "version", "date", "machine", "config", "points"}
    assert document["machine"]["cpus"] >= 1
    assert document["config"]["formats"] == ["pcm_24000", "ulaw_8000"]
    two, three = document["points"]
    for point, calls in ((two, 2), (three, 3)):
        assert (point["calls"], point["turns"], point["completed"]) == (calls, calls, calls)
        assert point["errors"] == {}
        assert point["first_audio_ms"]["count"] == calls
        assert point["connect_ms"]["count"] == calls
        assert point["seconds"] >= 0.2
        assert point["loop_lag_ms"]["count"] > 0
        # What came within the time: on a busy machine not everything.
        assert 0 < point["streams"] * point["seconds"] <= calls * 0.33
    picture = ElementTree.fromstring(plot_file.read_text(encoding="utf-8"))
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) == 6


async def test_client_processes_share_the_calls(tmp_path: Path) -> None:
    json_file = tmp_path / "bench.json"
    async with serving(lambda: SineRunner(8)) as server:
        workload = replace(workload_of(server), texts=("FRAMES=80",), barge_in=1.0)
        options = BenchOptions(workload, (1, 5), 0.3, json_file, clients=2)
        code, out, stderr = await run(options)
        assert server.metric("csm_slots_used") == 0
    assert (code, stderr) == (0, "")
    document = json.loads(json_file.read_text(encoding="utf-8"))
    assert document["config"]["clients"] == 2
    one, five = document["points"]
    assert (one["failed"], five["failed"]) == (0, 0)
    # All calls begin at once, each with a first turn that counts.
    assert five["turns"] >= 5
    assert five["first_audio_ms"]["count"] == five["turns"]
    assert five["cancel_to_free"] is not None
    assert five["seconds"] == pytest.approx(0.3, abs=0.2)
    assert five["streams"] > 0
    assert rows_of(out)["calls"] == ["1", "5"]


async def test_a_turn_takes_as_long_as_it_plays() -> None:
    async with serving(lambda: SineRunner()) as server:
        started_s = trio.current_time()
        code, _, _ = await run(BenchOptions(workload_of(server), (1,), 0.05))
        assert trio.current_time() - started_s >= 0.32
    assert code == 0


def rows_of(table: str) -> dict[str, list[str]]:
    """Return the values of a printed table by the name of their row."""
    lines = (line.strip().split("  ", 1) for line in table.splitlines() if "  " in line)
    return {name: values.split() for name, values in lines}


async def test_an_interrupted_call_releases_its_slot() -> None:
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    async with serving(lambda: runner) as server:
        workload = replace(workload_of(server), texts=("FRAMES=80",), barge_in=1.0)
        # Ten frames are heard; the caller, who had more to come, hangs up.
        gate.release(10)
        code, out, _ = await run(BenchOptions(workload, (1,), 0.05))
        gate.open()
        with trio.fail_after(GUARD_S):
            while server.metric("csm_slots_used") or server.metric("csm_sessions"):
                await trio.lowlevel.checkpoint()
        assert server.metric("csm_cancels_total", reason="hang_up") >= 1
    rows = rows_of(out)
    assert rows["interrupted (while audio came)"] == ["1", "(1)"]
    assert rows["failed or unfinished"] == ["0"]
    assert rows["C100, %"] == ["100.0"]
    assert code == 0
    assert runner.opens == runner.closes


async def test_refused_sessions_are_shown_in_the_table() -> None:
    config = Config(replace(TEST_SERVER, max_sessions=1, admission_wait_ms=0))
    async with serving(lambda: SineRunner(), config) as server:
        code, out, _ = await run(BenchOptions(workload_of(server), (2,), 0.1))
    assert code == 0
    assert "2 calls: 1 refused 503: The server is at capacity. (HTTP status 503)" in out


def rate_options(workload: Workload, rate: RateOptions, **files: Path) -> BenchOptions:
    return BenchOptions(workload, duration_s=0.5, rate=rate, **files)  # type: ignore[arg-type]


async def test_rates_are_measured_printed_written_and_drawn(tmp_path: Path) -> None:
    files = {"json_file": tmp_path / "a.json", "plot_file": tmp_path / "a.svg"}
    async with serving(lambda: SineRunner(64)) as server:
        rate = RateOptions((20.0, 40.0), 0.2, (1, 2))
        code, out, stderr = await run(rate_options(workload_of(server), rate, **files))
        assert server.metric("csm_slots_used") == 0
    assert (code, stderr) == (0, "")
    assert out.splitlines()[0].split() == ["requests", "a", "second", "20", "40"]
    document = json.loads(files["json_file"].read_text(encoding="utf-8"))
    assert set(document) == {"tool", "version", "date", "machine", "config", "rates"}
    assert document["config"]["rates_hz"] == [20.0, 40.0]
    assert document["config"]["seeds"] == [1, 2]
    assert "calls" not in document["config"]
    for point, rate_hz in zip(document["rates"], (20.0, 40.0), strict=True):
        assert point["rate_hz"] == rate_hz
        for trial in point["trials"]:
            assert trial["completed"] == trial["requests"] > 0
            assert trial["audible_ms"]["count"] == trial["requests"]
            assert trial["audible_ms"]["p50"] < trial["audible_from_arrival_ms"]["p50"]
            assert trial["seconds"] == pytest.approx(0.5, abs=0.2)
    picture = ElementTree.fromstring(files["plot_file"].read_text(encoding="utf-8"))
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) == 6


class LateRunner(SineRunner):
    """Takes 120 ms for a frame of 80 ms: no server with it keeps pace."""

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        time.sleep(0.12)
        return super().step(slots)


async def test_a_whole_server_that_misses_is_reported_as_missing(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    async with serving(lambda: LateRunner(16)) as server:
        workload = replace(workload_of(server), texts=("FRAMES=5",))
        code, out, _ = await run(
            rate_options(workload, RateOptions((8.0,), 0.0, (1,), 1), json_file=file)
        )
    (rate,) = json.loads(file.read_text(encoding="utf-8"))["rates"]
    assert rate["medians"]["underrun_share"] == 1.0
    assert rate["medians"]["audible_p50_ms"] >= 120
    assert rate["medians"]["failed"] == rate["medians"]["unfinished"] == 0
    assert rows_of(out)["requests with an underrun, %"] == ["100.00"]
    assert code == 0


async def test_refused_requests_of_a_rate_are_counted_apart() -> None:
    requests = 0

    async def script(request: WebSocketRequest) -> None:
        nonlocal requests
        requests += 1
        if requests % 2:
            await request.reject(503)
            return
        socket = await request.accept()
        await all_text(socket)
        await socket.send_message(spoken(LOUD))
        await socket.send_message(FINAL)
        await socket.get_message()

    async with scripted_server(script) as url:
        workload = replace(BRIEF, base_url=url)
        code, out, _ = await run(rate_options(workload, RateOptions((20.0,), 0.0, (1,), 1)))
    rows = rows_of(out)
    refused = int(rows["refused"][0])
    assert 0 < refused < int(rows["requests, all seeds"][0])
    assert rows["failed or unfinished"] == ["0"]
    assert f"{refused} refused 503: The server refused with HTTP status 503." in out
    assert code == 0


async def test_two_client_processes_make_all_requests(tmp_path: Path) -> None:
    files = {"json_file": tmp_path / "a.json"}
    async with serving(lambda: SineRunner(64)) as server:
        rate = RateOptions((20.0,), 0.2, (1,), 2)
        code, out, stderr = await run(rate_options(workload_of(server), rate, **files))
    assert (code, stderr) == (0, "")
    (point,) = json.loads(files["json_file"].read_text(encoding="utf-8"))["rates"]
    (trial,) = point["trials"]
    planned = takewhile(lambda at_s: at_s < 0.7, request_times_s(20.0, 1))
    assert trial["requests"] == trial["completed"] == sum(at_s >= 0.2 for at_s in planned)
    assert (trial["clients"], rows_of(out)["clients"]) == (2, ["2"])


async def test_a_client_process_that_fails_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "csm_trio.bench.load.client_processes._PROGRAM", ("-c", "raise SystemExit(3)")
    )
    options = rate_options(BRIEF, RateOptions((20.0,), 0.2, (1,), 2))
    code, out, stderr = await run(options)
    assert (code, out) == (1, "")
    assert stderr.startswith("csm-trio bench: a client process failed: ")
    assert "exit status 3" in stderr


async def test_a_client_that_is_the_limit_is_tried_again_with_more_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []

    async def run_trial(trial: Trial) -> None:
        tried.append(trial.plan.clients)
        busy = 0.95 if trial.plan.clients < 4 else 0.5
        trial.shares.append(ClientShare(seconds=1.0, busy=busy))

    async def settled(base_url: str) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("csm_trio.bench.load.rate_sweep.run_trial", run_trial)
    monkeypatch.setattr("csm_trio.bench.load.rate_sweep.settle", settled)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    code, out, stderr = await run(rate_options(BRIEF, RateOptions((30.0, 1.0), 0.0, (1, 2))))
    assert tried == [2, 4, 4, 1, 2, 4, 4]
    assert "the client was the limit: once more with 4 client processes" in stderr
    assert "THE CLIENT WAS THE LIMIT" not in out
    assert code == 1
    tried.clear()
    _, out, _ = await run(rate_options(BRIEF, RateOptions((30.0,), 0.0, (1,), 2)))
    assert tried == [2]
    assert "30 a second: THE CLIENT WAS THE LIMIT" in out


async def test_ctrl_c_prints_the_trials_so_far() -> None:
    requests = 0

    async def script(request: WebSocketRequest) -> None:
        nonlocal requests
        socket = await request.accept()
        await all_text(socket)
        requests += 1
        if requests == 5:
            signal.raise_signal(signal.SIGINT)
            await socket.get_message()
        await socket.send_message(spoken(LOUD))
        await socket.send_message(FINAL)

    async with scripted_server(script) as url:
        options = rate_options(
            replace(BRIEF, base_url=url), RateOptions((20.0, 40.0), 0.0, (1,), 1)
        )
        code, out, stderr = await run(replace(options, duration_s=3_600.0))
    assert (code, stderr) == (130, "csm-trio bench: interrupted\n")
    assert out.splitlines()[0].split() == ["requests", "a", "second", "20"]
    assert rows_of(out)["requests, all seeds"] == ["4"]
    assert rows_of(out)["failed or unfinished"] == ["0"]


async def test_progress_of_a_rate_names_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csm_trio.bench.load.command._PLAIN_PROGRESS_S", 0.1)
    async with serving(lambda: SineRunner(64)) as server:
        _, _, stderr = await run(
            rate_options(workload_of(server), RateOptions((20.0,), 0.3, (4,), 1))
        )
    assert "20 a second, seed 4: " in stderr
    assert " requests ended, warm-up, 0 s left\n" in stderr
    assert " requests ended, 0 s left\n" in stderr


async def test_the_exit_code_is_1_when_no_turn_had_audio() -> None:
    async def script(request: WebSocketRequest) -> None:
        await request.reject(401)

    async with scripted_server(script) as url:
        code, out, _ = await run(BenchOptions(replace(BRIEF, base_url=url), (1,), 0.05))
    assert code == 1
    assert "1 refused 401: The server refused with HTTP status 401." in out


async def test_a_turn_that_never_ends_is_counted_against_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        await socket.send_message(spoken(bytes(4_800)))
        await socket.get_message()

    monkeypatch.setattr("csm_trio.bench.load.point.TAIL_S", 0.1)
    async with scripted_server(script) as url:
        code, out, _ = await run(BenchOptions(replace(BRIEF, base_url=url), (1,), 0.1))
    assert "1 calls: 1 turns did not end in time" in out
    assert rows_of(out)["C100, %"] == ["0.0"]
    assert code == 0


async def test_ctrl_c_prints_what_there_is(tmp_path: Path) -> None:
    json_file = tmp_path / "bench.json"
    spoken_turns = 0

    async def script(request: WebSocketRequest) -> None:
        nonlocal spoken_turns
        socket = await request.accept()
        await all_text(socket)
        spoken_turns += 1
        if spoken_turns == 3:
            signal.raise_signal(signal.SIGINT)
            await socket.get_message()
        await socket.send_message(spoken(bytes(4_800)))
        await socket.send_message(FINAL)

    async with scripted_server(script) as url:
        workload = replace(BRIEF, base_url=url)
        code, out, stderr = await run(BenchOptions(workload, (1, 9), 3_600.0, json_file))
    assert (code, stderr) == (130, "csm-trio bench: interrupted\n")
    assert out.splitlines()[0].split() == ["calls", "1"]
    (point,) = json.loads(json_file.read_text(encoding="utf-8"))["points"]
    # The turn that the signal interrupted counts as no failure.
    assert (point["completed"], point["turns"]) == (2, 2)


async def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "bench.json"
    async with serving(lambda: SineRunner()) as server:
        code, out, stderr = await run(BenchOptions(workload_of(server), (1,), 0.05, gone))
    assert code == 1
    assert stderr == f"csm-trio bench: cannot write {gone}: No such file or directory\n"
    assert "first audio p50" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "mark"), [(io.StringIO(), ""), (Terminal(), "\r\x1b[K")])
async def test_progress_is_a_line_that_changes_on_a_terminal(
    stderr: io.StringIO, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_TERMINAL_PROGRESS_S", "_PLAIN_PROGRESS_S"):
        monkeypatch.setattr(f"csm_trio.bench.load.command.{name}", 0.1)
    async with serving(lambda: SineRunner()) as server:
        await bench(BenchOptions(workload_of(server), (2,), 0.25), out=io.StringIO(), stderr=stderr)
    shown = stderr.getvalue()
    assert f"{mark}2 calls: 2 open, 2 in a turn, 0 turns, 0 failed, " in shown
    assert ("\n" in shown) == (not mark)
    assert shown.endswith(mark or "\n")
