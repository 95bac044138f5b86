"""Faults of the processes of one server, each killed or stopped: who notices, and who does not."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from csm_trio.engine.scheduler import CREDIT_FRAMES
from support.client_calls import SOCKET
from support.server_process import ServerProcess, has_ended, server_process
from support.serving import dial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

GUARD_S = 60.0
PATHS = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
FRAME_BYTES = 2 * 1_920
LONG = "FRAMES=400 of speech that goes on and on, with words in it, so that it takes a while. "


@contextmanager
def sine_server(*flags: str, workers: int = 2) -> Iterator[ServerProcess]:
    """Serve sines with real processes."""
    flags = ("--workers", str(workers), "--pool-size", "8", *flags)
    with server_process(*flags, environ=PATHS, program=["support.sine_server"]) as server:
        yield server


def until(holds: Callable[[], bool], guard_s: float = GUARD_S) -> None:
    """Wait for a condition that another process brings about."""
    give_up_s = time.monotonic() + guard_s
    while not holds():
        assert time.monotonic() < give_up_s, "it does not come about"
        time.sleep(0.02)


async def until_async(holds: Callable[[], bool]) -> None:
    await trio.to_thread.run_sync(until, holds)


class Call:
    """A socket that speaks: the audio that it has received, and how it ended."""

    def __init__(self) -> None:
        self.audio = b""
        self.errors: list[str] = []
        self.code: int | None = None
        self.begun = trio.Event()

    async def run(self, server: ServerProcess, text: str = LONG) -> None:
        """Speak one text to its end, or to the end of the connection."""
        async with dial(server.port, f"{SOCKET}?output_format=pcm_24000") as ws:
            await ws.send_message(json.dumps({"text": text}))
            await ws.send_message(json.dumps({"text": ""}))
            await self._receive(ws)

    async def _receive(self, ws: WebSocketConnection) -> None:
        try:
            while True:
                message = json.loads(await ws.get_message())
                if message.get("audio"):
                    self.audio += base64.b64decode(message["audio"])
                    self.begun.set()
                elif "error" in message:
                    self.errors.append(message["error"])
        except ConnectionClosed as closed:
            self.code = closed.reason.code if closed.reason else 1006


async def undisturbed(server: ServerProcess) -> Call:
    """Speak alone; what others get must equal it to the byte."""
    call = Call()
    await call.run(server)
    assert call.code == 1000
    assert len(call.audio) > FRAME_BYTES * CREDIT_FRAMES
    return call


def complete(calls: Iterable[Call], like: Call) -> bool:
    """Return whether all calls got the very audio that an undisturbed one gets."""
    return all((call.code, call.audio) == (1000, like.audio) for call in calls)


async def started(nursery: trio.Nursery, server: ServerProcess, count: int) -> list[Call]:
    """Start calls one after the other, so that they spread over the workers."""
    calls = [Call() for _ in range(count)]
    for call in calls:
        nursery.start_soon(call.run, server)
        await call.begun.wait()
    return calls


async def test_a_killed_worker_costs_its_own_calls_only_and_is_replaced() -> None:
    with sine_server() as server, trio.fail_after(GUARD_S):
        alone = await undisturbed(server)
        async with trio.open_nursery() as nursery:
            calls = await started(nursery, server, 4)
            victim, other = server.children("worker")
            os.kill(victim, signal.SIGKILL)
        broken = [call for call in calls if call.code not in (None, 1000)]
        assert len(broken) == 2
        assert complete([call for call in calls if call not in broken], alone)
        await until_async(lambda: len(server.children("worker")) == 2)
        await until_async(lambda: server.metrics()["csm_workers"] == 2)
        assert other in server.children("worker")
        async with trio.open_nursery() as nursery:
            again = await started(nursery, server, 4)
        assert complete(again, alone)
        metrics = server.metrics()
        assert metrics["csm_worker_restarts_total"] == 1
        assert metrics["csm_sessions"] == 0
        assert metrics["csm_slots_used"] == 0
        # A sum over processes does not fall with the end of one.
        assert metrics["csm_frames_total"] * FRAME_BYTES >= 7 * len(alone.audio)
    assert any("SIGKILL" in line for line in server.log)


async def test_a_killed_engine_ends_the_server_and_every_client_gets_an_error() -> None:
    with sine_server() as server, trio.fail_after(GUARD_S):
        children = [*server.children("worker"), *server.children("engine")]
        async with trio.open_nursery() as nursery:
            calls = await started(nursery, server, 4)
            os.kill(server.children("engine")[0], signal.SIGKILL)
        assert [(call.errors, call.code) for call in calls] == [(["internal_error"], 1011)] * 4
        assert await trio.to_thread.run_sync(server.process.wait) == 1
        await until_async(lambda: all(has_ended(pid) for pid in children))
    assert any("engine process was ended by SIGKILL" in line for line in server.log)


async def test_a_killed_supervisor_leaves_no_process() -> None:
    with sine_server() as server, trio.fail_after(GUARD_S):
        children = [*server.children("worker"), *server.children("engine")]
        assert len(children) == 3
        async with trio.open_nursery() as nursery:
            calls = await started(nursery, server, 2)
            os.kill(server.process.pid, signal.SIGKILL)
        assert [call.code for call in calls] == [1001, 1001]
        await until_async(lambda: all(has_ended(pid) for pid in children))


async def test_a_stopped_worker_holds_no_other_up_and_goes_on_later() -> None:
    with sine_server() as server, trio.fail_after(GUARD_S):
        alone = await undisturbed(server)
        victim = server.children("worker")[0]
        async with trio.open_nursery() as nursery:
            calls = await started(nursery, server, 4)
            os.kill(victim, signal.SIGSTOP)
            try:
                # New calls go to the other worker, and every call there gets all of its audio.
                await until_async(lambda: sum(call.code == 1000 for call in calls) == 2)
                stopped = [call for call in calls if call.code is None]
                more = await started(nursery, server, 1)
                assert all(len(call.audio) < len(alone.audio) for call in stopped)
            finally:
                os.kill(victim, signal.SIGCONT)
        assert complete([*calls, *more], alone)
        assert victim in server.children("worker"), "it was not replaced"


@pytest.mark.parametrize("signals", [1, 2])
async def test_sigterm_drains_and_a_second_one_ends_the_drain(signals: int) -> None:
    with sine_server("--drain-s", "30") as server, trio.fail_after(GUARD_S):
        alone = await undisturbed(server)
        children = [*server.children("worker"), *server.children("engine")]
        async with trio.open_nursery() as nursery:
            calls = await started(nursery, server, 2)
            for _ in range(signals):
                server.process.terminate()
                await until_async(lambda: "draining" in "".join(server.log))
        if signals == 1:
            assert complete(calls, alone)
        else:
            assert [call.code for call in calls] == [1001, 1001]
        assert await trio.to_thread.run_sync(server.process.wait) == 0
        await until_async(lambda: all(has_ended(pid) for pid in children))


def test_an_engine_that_cannot_start_is_one_sentence_and_exit_1() -> None:
    command = [sys.executable, "-m", "csm_trio", "serve", "--workers", "1", "--port", "0"]
    started = subprocess.run(
        [*command, "--cpu", "--weights-path", "/nonexistent"],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    assert started.returncode == 1
    last = started.stderr.strip().splitlines()[-1]
    assert last.startswith("csm-trio: ")
    assert "/nonexistent" in last
    assert "Traceback" not in started.stderr


def test_a_supervisor_killed_while_the_model_loads_leaves_no_process() -> None:
    command = [sys.executable, "-m", "support.sine_server", "--workers", "1", "--port", "0"]
    process = subprocess.Popen(command, env={**os.environ, **PATHS, "LOAD_S": "600"}, text=True)
    server = ServerProcess(process, 0, [])
    try:
        until(lambda: bool(server.children("engine")))
        (engine,) = server.children("engine")
    finally:
        process.kill()
        process.wait()
    until(lambda: has_ended(engine))


def test_requests_of_one_client_share_state_whichever_worker_gets_them() -> None:
    with sine_server("--api-key", "k3y") as server:
        headers = {"xi-api-key": "k3y"}
        # A new connection each, so that the workers take turns.
        for stability in (0.1, 0.9):
            edit = httpx.post(
                f"{server.url}/v1/voices/default/settings/edit",
                json={"stability": stability},
                headers=headers,
                trust_env=False,
            )
            assert edit.status_code == 200
            for _ in range(4):
                shown = httpx.get(
                    f"{server.url}/v1/voices/default/settings", headers=headers, trust_env=False
                )
                assert shown.json()["stability"] == stability
        token = httpx.post(
            f"{server.url}/v1/single-use-token/tts_websocket", headers=headers, trust_env=False
        ).json()["token"]
        url = f"{server.url}{SOCKET}?single_use_token={token}"
        upgrade = {
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        codes = []
        for _ in range(3):
            with httpx.stream("GET", url, headers=upgrade, trust_env=False) as answer:
                codes.append(answer.status_code)
        assert codes[0] == 101
