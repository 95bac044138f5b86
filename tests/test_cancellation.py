"""Every way to cancel a session, on real sockets: after each, nothing of it is left.

The promise: the slot is back within two steps, no task is left, no word is sent after the cancel,
and no other session is affected.
"""

import base64
import json
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection

from csm_trio.config import Config, SpeechConfig
from csm_trio.engine.scheduler import CREDIT_FRAMES
from csm_trio.errors import ProcessFailed
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Server, http_post, serving

pytestmark = pytest.mark.usefixtures("each_topology")

LONG = "This sentence goes on and on with words in it so that it takes a while to be said aloud. "
ENDLESS = LONG * 20
GUARD_S = 30.0


@asynccontextmanager
async def held_server(
    config: Config | None = None,
) -> AsyncIterator[tuple[Server, SineRunner, StepGate]]:
    """Serve with a runner whose every step waits for the gate."""
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            try:
                yield server, runner, gate
            finally:
                gate.open()


async def next_audio(ws: WebSocketConnection) -> bytes:
    message = json.loads(await ws.get_message())
    return base64.b64decode(message["audio"])


async def send_text(ws: WebSocketConnection, text: str) -> None:
    await ws.send_message(json.dumps({"text": text}))


async def receive_through(ws: WebSocketConnection, gate: StepGate, frames: int) -> None:
    """Run steps one by one, each only after the audio of the last one was received."""
    for _ in range(frames):
        await gate.held()
        gate.release()
        assert await next_audio(ws)


async def assert_nothing_is_left(server: Server, *, tasks: int, reason: str | None) -> None:
    """Check that slot, pool token, session and tasks are released, and the label of the cancel."""
    await until(lambda: server.tasks() == tasks)
    assert server.state.engine.borrowed_slots == 0
    assert server.metric("csm_slots_used") == 0
    assert server.metric("csm_sessions") == 0
    if reason is not None:
        assert server.metric("csm_cancels_total", reason=reason) == 1


async def assert_freed_within_two_steps(
    server: Server, runner: SineRunner, gate: StepGate, *, tasks: int
) -> None:
    """After a hang-up: run two steps, and check that the slot is released by then."""
    await wait_all_tasks_blocked(0.02)  # the release waits in the inbox for the held step
    steps = len(runner.steps)
    gate.release(2)
    await until(lambda: bool(runner.closes))
    assert len(runner.steps) - steps <= 2
    gate.open()
    await assert_nothing_is_left(server, tasks=tasks, reason="hang_up")


async def receive_to_the_end(ws: WebSocketConnection) -> tuple[list[dict[str, Any]], int]:
    """Return every message until the server closes, and its close code."""
    received = []
    try:
        while True:
            received.append(json.loads(await ws.get_message()))
    except ConnectionClosed as closed:
        return received, closed.reason.code if closed.reason else 1006


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that no event announces, each time until all tasks are blocked."""
    while not holds():
        await wait_all_tasks_blocked(0.005)


def abort(stream: trio.SocketStream) -> None:
    """Hang up as a crashed client does: with a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def test_a_hang_up_during_speech_releases_the_slot_within_two_steps() -> None:
    async with held_server() as (server, runner, gate):
        idle = server.tasks()
        async with server.dial() as ws:
            await send_text(ws, LONG)
            await receive_through(ws, gate, 5)
        await assert_freed_within_two_steps(server, runner, gate, tasks=idle)


async def test_a_hang_up_behind_200_unread_messages_is_noticed_at_once() -> None:
    async with held_server() as (server, runner, gate):
        idle = server.tasks()
        async with server.dial() as ws:
            await send_text(ws, LONG)
            await receive_through(ws, gate, 2)
            for _ in range(200):
                await send_text(ws, "and so on ")
        await assert_freed_within_two_steps(server, runner, gate, tasks=idle)


async def test_a_client_that_resets_the_connection_leaves_nothing() -> None:
    async with held_server() as (server, _, gate):
        idle = server.tasks()
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await http_post(stream, "/v1/text-to-speech/default/stream", {"text": LONG})
        await gate.held()
        gate.release()
        assert b"200" in await stream.receive_some(65536)
        abort(stream)
        await wait_all_tasks_blocked(0.02)
        gate.open()
        await assert_nothing_is_left(server, tasks=idle, reason="hang_up")


@pytest.mark.parametrize("endpoint", ["", "/stream", "/stream/with-timestamps"])
async def test_a_hang_up_of_a_rest_client_releases_its_slot(endpoint: str) -> None:
    async with held_server() as (server, runner, gate):
        idle = server.tasks()
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await http_post(
                stream,
                f"/v1/text-to-speech/default{endpoint}?output_format=pcm_24000",
                {"text": LONG},
            )
            for _ in range(3):
                await gate.held()
                gate.release()
        await assert_freed_within_two_steps(server, runner, gate, tasks=idle)


@pytest.mark.parametrize("kind", ["socket", "rest"])
async def test_a_client_that_stops_reading_loses_its_slot(kind: str) -> None:
    # The kernel's buffers hold seconds of speech: 44.1 kHz WAV fills them soonest.
    config = Config(
        server=replace(TEST_SERVER, user_timeout_s=1.0),
        speech=SpeechConfig(stall_timeout_s=0.3, rest_max_audio_len_ms=600_000),
    )
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            idle = server.tasks()
            stream = await small_window_stream(server)
            if kind == "rest":
                path = "/v1/text-to-speech/default/stream?output_format=wav_44100"
                await http_post(stream, path, {"text": ENDLESS})
            else:
                await bare_websocket(stream, "output_format=wav_44100", ENDLESS)
            await until(lambda: server.metric("csm_cancels_total", reason="stalled") == 1)
            assert server.state.engine.borrowed_slots == 0
            # Unread audio is bounded: the engine stopped at the credit.
            assert len(runner.steps) < 2_000
            await until(lambda: server.tasks() == idle)  # the kernel gives the socket up
            await assert_nothing_is_left(server, tasks=idle, reason=None)
            stream.socket.close()


async def test_a_client_that_reads_nothing_costs_no_more_steps_than_its_credit() -> None:
    config = Config(server=TEST_SERVER, speech=SpeechConfig(stall_timeout_s=60))
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            stream = await small_window_stream(server)
            path = "/v1/text-to-speech/default/stream?output_format=wav_44100"
            await http_post(stream, path, {"text": ENDLESS, "max_audio_len_ms": 600_000})
            steps = -1
            while steps != len(runner.steps):
                steps = len(runner.steps)
                await wait_all_tasks_blocked(0.2)
            assert steps > CREDIT_FRAMES
            assert await server.state.engine.responds()
            assert len(runner.steps) == steps
            abort(stream)


async def test_a_failure_in_one_session_does_not_affect_another() -> None:
    async with held_server() as (server, runner, gate):
        idle = server.tasks()
        async with server.dial() as good, server.dial() as bad:
            await send_text(good, LONG)
            await receive_through(good, gate, 2)
            await send_text(bad, "REFUSE to say this. ")
            await wait_all_tasks_blocked(0.02)  # it waits in the inbox for the held step
            gate.release()  # now it is refused; its release waits for the next step to end
            await wait_all_tasks_blocked(0.02)
            gate.release()
            failure = json.loads(await bad.get_message())
            assert failure["error"] == "max_character_limit_exceeded"
            assert await receive_to_the_end(bad) == ([], 1009)
            assert await next_audio(good)
            gate.open()
            await send_text(good, "")
            received, code = await receive_to_the_end(good)
            assert received[-1]["isFinal"] is True
            assert code == 1000
        assert len(runner.opened) == 1
        await assert_nothing_is_left(server, tasks=idle, reason=None)


async def test_a_malformed_message_cancels_the_speech_and_the_error_is_the_last_message() -> None:
    async with held_server() as (server, runner, gate):
        idle = server.tasks()
        async with server.dial() as ws:
            await send_text(ws, LONG)
            await receive_through(ws, gate, 2)
            await ws.send_message("{no json")
            await wait_all_tasks_blocked(0.02)
            gate.open()
            received, code = await receive_to_the_end(ws)
        assert [message.get("error") for message in received] == ["invalid_input_message"]
        assert code == 1008
        assert runner.closes == [0]
        await assert_nothing_is_left(server, tasks=idle, reason="InvalidMessage")


async def test_a_hang_up_while_waiting_for_a_slot_leaves_the_queue() -> None:
    gate = StepGate()
    runner = SineRunner(slots=1, step_gate=gate)
    config = Config(server=replace(TEST_SERVER, max_sessions=3))
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            async with server.dial() as speaking:
                await send_text(speaking, LONG)
                await receive_through(speaking, gate, 1)
                async with server.dial() as waiting:
                    await send_text(waiting, "I wait for a place to speak in. ")
                    await wait_all_tasks_blocked(0.02)
                    assert server.metric("csm_utterances_waiting") == 1
                await wait_all_tasks_blocked(0.02)
                assert server.metric("csm_utterances_waiting") == 0
                assert server.metric("csm_cancels_total", reason="hang_up") == 1
                gate.open()
                assert await next_audio(speaking)
            assert len(runner.opened) == 1


@pytest.mark.parametrize("drain_s", [0.05, 5.0])
async def test_shutdown_with_open_sessions(drain_s: float) -> None:
    """A session may end within the drain; a longer one is cancelled, and its slot is released."""
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    config = Config(server=replace(TEST_SERVER, drain_s=drain_s))
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            async with server.dial() as ws:
                await send_text(ws, LONG)
                await send_text(ws, "")
                await receive_through(ws, gate, 2)
                signal.raise_signal(signal.SIGTERM)
                await wait_all_tasks_blocked(0.01)
                assert server.state.admission.draining
                gate.open()
                if drain_s > 1:
                    received, code = await receive_to_the_end(ws)
                    assert received[-1]["isFinal"] is True
                    assert code == 1000
            await until(lambda: not server.nursery.child_tasks)
            assert server.metric("csm_slots_used") == 0
            assert server.state.engine.borrowed_slots == 0


@pytest.mark.parametrize("before", ["nothing", "a turn", "a turn that is going on"])
async def test_at_shutdown_a_socket_is_closed_once_its_speech_is_complete(before: str) -> None:
    gate = StepGate()
    endpoint = "text-to-speech/{voice}/multi-stream-input"
    turn = {"text": LONG, "context_id": "a", "flush": True}
    end = {"context_id": "a", "close_context": True, "flush": True}
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate)) as server:
            async with server.dial(endpoint=endpoint) as ws:
                if before != "nothing":
                    await ws.send_message(json.dumps(turn))
                    await ws.send_message(json.dumps(end))
                    await gate.held()
                if before == "a turn":
                    gate.open()
                    while not json.loads(await ws.get_message())["isFinal"]:
                        pass
                signal.raise_signal(signal.SIGTERM)
                await until(lambda: server.state.admission.draining)
                gate.open()
                received, code = await receive_to_the_end(ws)
            assert [message["isFinal"] for message in received[-1:]] == (
                [True] if before == "a turn that is going on" else []
            )
            assert code == 1001
            await until(lambda: not server.nursery.child_tasks)


async def test_a_session_that_outlasts_the_drain_is_closed_as_going_away() -> None:
    gate = StepGate()
    config = Config(server=replace(TEST_SERVER, drain_s=0.0))
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate), config) as server:
            async with server.dial() as ws:
                await send_text(ws, LONG)
                await receive_through(ws, gate, 1)
                signal.raise_signal(signal.SIGTERM)
                await until(lambda: server.state.admission.draining)
                gate.open()
                _, code = await receive_to_the_end(ws)
            assert code == 1001
            await until(lambda: not server.nursery.child_tasks)
            assert server.metric("csm_cancels_total", reason="shutdown") == 1


async def test_a_dead_device_thread_ends_every_session_and_the_server() -> None:
    with pytest.raises(BaseExceptionGroup) as died:
        await connect_to_a_failing_server()
    assert died.group_contains((RuntimeError, ProcessFailed), match="gone")


async def connect_to_a_failing_server() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, server.dial() as ws:
            await send_text(ws, "EXPLODE now, please. ")
            await receive_to_the_end(ws)
            await trio.sleep_forever()


async def small_window_stream(server: Server) -> trio.SocketStream:
    """Connect with a receive window so small that a stalled client is soon noticed."""
    raw = trio.socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await raw.connect(("127.0.0.1", server.port))
    return trio.SocketStream(raw)


async def bare_websocket(stream: trio.SocketStream, query: str, text: str) -> None:
    """Upgrade and send one masked text message by hand: no library that reads along."""
    await stream.send_all(
        f"GET /v1/text-to-speech/default/stream-input?{query} HTTP/1.1\r\n"
        "host: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in await stream.receive_some(4096)
    payload = json.dumps({"text": text, "flush": True, "max_audio_len_ms": 600_000}).encode()
    head = struct.pack("!BBH", 0x81, 0x80 | 126, len(payload)) + bytes(4)
    await stream.send_all(head + payload)
