"""Faults of the server itself: each client gets an error, and the process ends within its bound."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import httpx
import pytest
import trio

from csm_trio.config import Config
from csm_trio.errors import ProcessFailed
from support.client_calls import GUARD_S, SPEECH, http_client, receive_all, send, until
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Server, serving

LONG = "This sentence goes on and on with words in it so that it takes a while to be said aloud. "


@asynccontextmanager
async def failing_server(gate: StepGate) -> AsyncIterator[Server]:
    """Serve until the device thread fails, with its error."""
    with (
        pytest.RaisesGroup(
            pytest.RaisesExc((RuntimeError, ProcessFailed), match="gone"), flatten_subgroups=True
        ),
        trio.fail_after(GUARD_S),
    ):
        async with serving(lambda: SineRunner(step_gate=gate)) as server:
            yield server
            await trio.sleep_forever()


@pytest.mark.usefixtures("each_topology")
async def test_when_the_device_fails_every_client_gets_an_error_first() -> None:
    gate = StepGate()
    answers: list[httpx.Response] = []
    outcomes: dict[str, tuple[list[str], int]] = {}

    async def post(server: Server) -> None:
        async with http_client(server) as client:
            answers.append(await client.post(SPEECH, json={"text": "Not yet."}))

    async def dial(server: Server, text: str) -> None:
        async with server.dial() as ws:
            if text:
                await send(ws, {"text": text, "flush": True})
            received, code = await receive_all(ws)
            outcomes[text] = [one["error"] for one in received if "error" in one], code

    async with failing_server(gate) as server, trio.open_nursery() as clients:
        for text in ("", LONG, "EXPLODE now."):
            clients.start_soon(dial, server, text)
        clients.start_soon(post, server)
        await until(lambda: server.metric("csm_sessions") == 4)
        # Behind sockets a slot is granted between two steps.
        engine = server.state.engine
        await until(lambda: engine.borrowed_slots + server.metric("csm_utterances_waiting") == 3)
        gate.open()
    assert outcomes == {text: (["internal_error"], 1011) for text in ("", LONG, "EXPLODE now.")}
    assert [answer.status_code for answer in answers] == [500]
    assert answers[0].json()["detail"]["status"] == "internal_error"


@pytest.mark.usefixtures("each_topology")
async def test_a_row_that_fails_ends_its_call_alone() -> None:
    async with serving(SineRunner) as server, server.dial() as other:
        await send(other, {"text": "First words. ", "flush": True})
        assert json.loads(await other.get_message())["audio"]
        async with server.dial() as ws:
            await send(ws, {"text": "OVERFLOW FRAMES=3. ", "flush": True})
            received, code = await receive_all(ws)
        assert [one["error"] for one in received if "error" in one] == ["internal_error"]
        assert code == 1011
        async with http_client(server) as client:
            answer = await client.post(SPEECH, json={"text": "OVERFLOW FRAMES=0"})
        assert answer.status_code == 500
        await send(other, {"text": "Last words. "}, {"text": ""})
        rest, code = await receive_all(other)
        assert rest[-1]["isFinal"]
        assert code == 1000
        assert server.metric("csm_utterance_ends_total", reason="failed") == 2
        assert server.metric("csm_failures_total", error="NotFinite") == 2


@pytest.mark.usefixtures("each_topology")
@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
async def test_at_a_second_signal_every_client_gets_an_error(again: signal.Signals) -> None:
    gate = StepGate()
    config = Config(server=replace(TEST_SERVER, drain_s=60.0))
    answers: list[httpx.Response] = []

    async def post(server: Server) -> None:
        async with http_client(server) as client:
            answers.append(await client.post(SPEECH, json={"text": LONG}))

    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate), config) as server:
            async with server.dial() as ws, trio.open_nursery() as clients:
                clients.start_soon(post, server)
                await send(ws, {"text": LONG, "flush": True})
                await until(lambda: server.metric("csm_sessions") == 2)
                await gate.held()
                signal.raise_signal(signal.SIGTERM)
                await until(lambda: server.state.admission.draining)
                signal.raise_signal(again)
                await until(lambda: server.state.admission.aborted.is_set())
                gate.open()
                assert (await receive_all(ws))[1] == 1001
            await until(lambda: not server.nursery.child_tasks)
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].headers["retry-after"] == "1"


@pytest.mark.usefixtures("each_topology")
async def test_at_a_signal_connections_without_a_request_end() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            streams = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(3)]
            await streams[1].send_all(b"GET /healthz HTTP/1.1\r\nhost: te")
            await streams[2].send_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
            assert json.loads((await streams[2].receive_some(4096)).partition(b"\r\n\r\n")[2])
            await until(lambda: server.metric("csm_connections") == 3)
            signal.raise_signal(signal.SIGTERM)
            for stream in streams:
                async with stream:
                    assert await stream.receive_some(4096) == b""
            await until(lambda: not server.nursery.child_tasks)


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe is set by fcntl")
def test_a_server_whose_standard_error_is_not_read_serves_on() -> None:
    with unread_server() as port, httpx.Client(trust_env=False, timeout=GUARD_S) as client:
        for _ in range(24):  # each leaves a line of some 200 bytes; the pipe holds 4,096
            answer = client.post(f"http://127.0.0.1:{port}{SPEECH}", json={"text": "Hi."})
            assert answer.status_code == 200
        assert client.get(f"http://127.0.0.1:{port}/healthz").status_code == 200


@contextmanager
def unread_server() -> Iterator[int]:
    """Run a server, read its standard error up to its port, and no further; yield the port."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "csm_trio", "serve", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen([*command, "--cpu"], stderr=writer)
    os.close(writer)
    try:
        log = b""
        while not (found := re.search(rb"listening on \S+:(\d+)", log)):
            log += os.read(reader, 4096)
        yield int(found[1])
        process.terminate()
        assert process.wait(GUARD_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
