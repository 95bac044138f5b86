"""Batches killed by SIGKILL, beside live calls, with a server that restarts: nothing is lost.

Real processes on the loopback; 36 lines here, 500 by `pytest -m soak`.
"""

import base64
import json
import math
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from csm_trio.bench.load.report import MAX_C100_UNDERRUN_S
from support.batch_runs import (
    PATHS,
    audio_files,
    kill_batch_process,
    recorded,
    run_batch_process,
)
from support.client_calls import SOCKET
from support.server_process import ServerProcess, server_process
from support.serving import dial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

GUARD_S = 100.0
SOAK_GUARD_S = 900.0
LIVE_CALLS = 3
# 40 words are 80 frames: 6.4 s of speech.
TURN = "One word after the other, as people talk on the telephone all day long. " * 3
FRAME_BYTES = 2 * 1_920
BYTES_PER_S = 2 * 24_000


@contextmanager
def sine_server(port: int = 0) -> Iterator[ServerProcess]:
    """Serve seven sessions of sines in real processes."""
    flags = ["--pool-size", "7", "--workers", "1", *(["--port", str(port)] if port else [])]
    with server_process(*flags, environ=PATHS, program=["support.sine_server"]) as server:
        yield server


def write_lines(path: Path, n_lines: int) -> Path:
    source = path / "lines.txt"
    lines = (f"Line {n} of the batch FRAMES={5 + n % 13}." for n in range(n_lines))
    source.write_text("\n".join(lines))
    return source


class LiveCall:
    """A live session that speaks again and again, and is played as it comes.

    `turns` has the bytes of each turn's audio.
    """

    def __init__(self) -> None:
        self.turns: list[int] = []
        self.worst_underrun_s = 0.0

    async def run(self, port: int, ended: trio.Event) -> None:
        """Speak turn after turn until the batch has ended."""
        while not ended.is_set():
            self.turns.append(await self._turn(port))

    async def _turn(self, port: int) -> int:
        """Return the bytes of one turn's audio."""
        n_bytes, played_until_s = 0, math.inf
        async with dial(port, f"{SOCKET}?output_format=pcm_24000") as ws:
            await ws.send_message(json.dumps({"text": TURN}))
            await ws.send_message(json.dumps({"text": ""}))
            final = False
            while not final:
                message = json.loads(await ws.get_message())
                assert "error" not in message, message
                audio = base64.b64decode(message["audio"] or "")
                if audio:
                    now_s = trio.current_time()
                    self.worst_underrun_s = max(self.worst_underrun_s, now_s - played_until_s)
                    starts_s = now_s if not n_bytes else max(now_s, played_until_s)
                    played_until_s = starts_s + len(audio) / BYTES_PER_S
                n_bytes += len(audio)
                final = message["isFinal"]
        return n_bytes


async def kill_three_times(source: Path, out: Path, n_lines: int, *flags: str) -> None:
    """Run and kill a batch at three random moments, of which the last leaves something to do."""
    for third in range(3):
        low, high = (n_lines * (third + share) // 4 for share in (0, 1))
        after = random.randint(max(low, recorded(out) + 1), max(high, recorded(out) + 1))
        killed_at = await kill_batch_process(source, out, *flags, after_files=after)
        assert after <= killed_at < n_lines


def entries_of(out: Path) -> list[str]:
    """Return the file of every line of the manifest."""
    lines = (out / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line)["file"] for line in lines]


async def beside_live_calls(tmp_path: Path, n_lines: int, *, worst_underrun_s: float) -> None:
    source = write_lines(tmp_path, n_lines)
    calls = [LiveCall() for _ in range(LIVE_CALLS)]
    with sine_server() as server:
        flags = ["--url", server.url, "--seed", "7"]
        quiet = await run_batch_process(source, tmp_path / "undisturbed", *flags)
        assert quiet.status == 0
        ended = trio.Event()
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call.run, server.port, ended)
            out = tmp_path / "out"
            await kill_three_times(source, out, n_lines, *flags)
            last = await run_batch_process(source, out, *flags)
            ended.set()
        metrics = server.metrics()
    assert last.status == 0
    assert audio_files(out) == audio_files(tmp_path / "undisturbed")
    # Nothing is repeated: each file was finished once.
    assert sorted(entries_of(out)) == sorted(audio_files(out))
    assert all(call.turns for call in calls)
    # Nothing of the live calls is lost, refused or late.
    assert {n_bytes for call in calls for n_bytes in call.turns} == {84 * FRAME_BYTES}
    assert max(call.worst_underrun_s for call in calls) <= worst_underrun_s
    # Of live and batch contexts together: batch ones wait for live ones.
    within = metrics['csm_underrun_seconds_bucket{le="0.5"}']
    assert within == metrics["csm_underrun_seconds_count"] > 0
    assert not any(
        value for name, value in metrics.items() if name.startswith("csm_refusals_total")
    )


async def with_a_server_that_restarts(tmp_path: Path, n_lines: int) -> None:
    source, out = write_lines(tmp_path, n_lines), tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--url", f"http://127.0.0.1:{port}", "--seed", "7"]
    with ExitStack() as stack:
        server = stack.enter_context(sine_server(port))
        assert (await run_batch_process(source, tmp_path / "undisturbed", *flags)).status == 0
        results = []
        async with trio.open_nursery() as nursery:

            async def run_last() -> None:
                results.append(await run_batch_process(source, out, *flags))

            await kill_three_times(source, out, n_lines, *flags)
            done_before = recorded(out)
            nursery.start_soon(run_last)
            await trio.to_thread.run_sync(wait_until_more, out, done_before)
            kill_server(server)
            await trio.sleep(1.0)
            assert not results
            stack.enter_context(sine_server(port))
    (last,) = results
    assert last.status == 0, last.lines
    assert audio_files(out) == audio_files(tmp_path / "undisturbed")
    assert sorted(entries_of(out)) == sorted(audio_files(out))


def wait_until_more(out: Path, n_lines: int) -> None:
    while recorded(out) <= n_lines:
        time.sleep(0.002)


def kill_server(server: ServerProcess) -> None:
    """Kill the server and its children by SIGKILL."""
    children = server.children("engine") + server.children("worker")
    server.process.kill()
    for pid in children:
        subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(pid)], check=False)
    server.process.wait()


@pytest.mark.soak
async def test_36_lines_killed_three_times_beside_live_calls(tmp_path: Path) -> None:
    with trio.fail_after(GUARD_S):
        # A bound that a machine busy with other tests keeps, too; the soak has C100's.
        await beside_live_calls(tmp_path, 36, worst_underrun_s=0.5)


async def test_36_lines_killed_three_times_and_a_server_restarted(tmp_path: Path) -> None:
    with trio.fail_after(GUARD_S):
        await with_a_server_that_restarts(tmp_path, 36)


@pytest.mark.soak
async def test_500_lines_killed_three_times_beside_live_calls(tmp_path: Path) -> None:
    with trio.fail_after(SOAK_GUARD_S):
        await beside_live_calls(tmp_path, 500, worst_underrun_s=MAX_C100_UNDERRUN_S)


@pytest.mark.soak
async def test_500_lines_killed_three_times_and_a_server_restarted(tmp_path: Path) -> None:
    with trio.fail_after(SOAK_GUARD_S):
        await with_a_server_that_restarts(tmp_path, 500)


async def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path, 60), tmp_path / "out"
    with sine_server() as server, trio.fail_after(GUARD_S):
        flags = ["--url", server.url]
        result = await run_batch_process(source, out, *flags, stop_after_files=5)
    assert result.status == 130
    assert result.lines[-1] == "stopped: the same command goes on from here"
    assert 5 <= len(audio_files(out)) < 60
    assert sorted(entries_of(out)) == sorted(audio_files(out))


async def test_bad_input_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    missing = await run_batch_process(tmp_path / "missing.txt", tmp_path / "out")
    assert missing.status == 2
    (line,) = missing.lines
    assert line.startswith("csm-trio batch: ")
    assert "missing.txt: it cannot be read: No such file" in line
    assert not (tmp_path / "out").exists()


async def test_standard_input_is_read_as_text(tmp_path: Path) -> None:
    with sine_server() as server, trio.fail_after(GUARD_S):
        flags = ["--url", server.url]
        result = await run_batch_process(Path("-"), tmp_path, *flags, stdin=b"Hello.\nBye.\n")
    assert result.status == 0
    assert sorted(audio_files(tmp_path)) == ["00001.wav", "00002.wav"]
