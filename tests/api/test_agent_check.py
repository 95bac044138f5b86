"""The agent port: what it tells HAProxy, in one process and with workers."""

import socket
from dataclasses import replace

import pytest
import trio

from csm_trio.api.admission import LocalSessions
from csm_trio.api.agent_check import AgentCheck
from csm_trio.config import Config
from csm_trio.telemetry import Metrics
from support.client_calls import send
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Topology, serving

GUARD_S = 30.0
LONG = "FRAMES=60 of speech, please. "


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def ask(port: int, sent: bytes = b"") -> str:
    """Return what the agent port says until it closes the connection."""
    said = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if sent:
            await stream.send_all(sent)
        async for data in stream:
            said += data
    return said.decode()


async def until_said(port: int, line: str) -> None:
    while await ask(port) != line:
        await trio.lowlevel.checkpoint()


@pytest.fixture
def config() -> Config:
    return Config(server=replace(TEST_SERVER, agent_port=free_port(), max_sessions=10))


def check(*, sessions: int = 0, used: int | None = 0, draining: bool = False) -> AgentCheck:
    local = LocalSessions(30, Metrics())

    async def count() -> int | None:
        await trio.lowlevel.checkpoint()
        return used

    agent = AgentCheck(local, 10, is_draining=lambda: draining, count_used_slots=count)
    agent._used_slots = used
    for _ in range(sessions):
        local._limiter.acquire_on_behalf_of_nowait(object())
    return agent


@pytest.mark.parametrize(
    ("sessions", "used", "draining", "answer"),
    [
        (0, 0, False, "up 100% ready"),
        (3, 0, False, "up 90% ready"),
        (10, 0, False, "up 66% ready"),
        (3, 7, False, "up 30% ready"),
        (27, 7, False, "up 10% ready"),
        (30, 0, False, "up 1% ready"),
        (0, 10, False, "up 1% ready"),
        (0, None, False, "down"),
        (0, 0, True, "drain"),
        (0, None, True, "drain"),
    ],
)
async def test_the_answer_is_the_smaller_free_share(
    sessions: int, used: int | None, draining: bool, answer: str
) -> None:
    assert check(sessions=sessions, used=used, draining=draining).answer == answer


async def test_the_share_falls_with_each_session_and_ends_in_drain(
    each_topology: Topology, config: Config
) -> None:
    port = config.server.agent_port or 0
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(10), config) as server:
            assert await ask(port) == "up 100% ready\n"
            async with server.dial() as first, server.dial():
                await send(first, {"text": LONG})
                await first.get_message()
                assert await ask(port) == "up 80% ready\n"
                server.state.admission.drain_begun.set()
                if not each_topology.workers:
                    assert await ask(port) == "drain\n"


async def test_a_step_loop_that_does_not_answer_is_down(
    each_topology: Topology, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = StepGate()
    port = config.server.agent_port or 0
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(10, step_gate=gate), config) as server:
            engine = type(server.state.engine)
            patient = engine.responds
            monkeypatch.setattr(engine, "responds", lambda engine: patient(engine, 0.05))
            try:
                async with server.dial() as ws:
                    await send(ws, {"text": LONG})
                    await gate.held()
                    await until_said(port, "down\n")
                    gate.open()
                    await until_said(port, "up 90% ready\n")
            finally:
                gate.open()


async def test_clients_that_send_or_hang_up_change_nothing(config: Config) -> None:
    port = config.server.agent_port or 0
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(10), config):
            streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
            for stream in streams:
                await stream.aclose()
            with trio.move_on_after(1):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(b"GET / HTTP/1.1\r\n" * 100)
            assert await ask(port) == "up 100% ready\n"
