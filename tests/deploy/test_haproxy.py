"""deploy/haproxy.cfg with the real HAProxy: what it makes of the agent check, and where paths lead.

The figures of three servers are those of tools/fleet.py.
"""

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import trio

from csm_trio.config import Config
from support.client_calls import SOCKET, SPEECH, UPGRADE
from support.fakes import SineRunner
from support.haproxy import CONFIG, HAPROXY, Proxy, ServerPorts, ServerRow, free_ports, haproxy
from support.serving import TEST_SERVER, Server, dial, serving

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

GUARD_S = 60.0
SESSIONS = 4


@dataclass(frozen=True, slots=True)
class Fronted:
    """A server, and the HAProxy in front of it; its other two servers are not there."""

    server: Server
    proxy: Proxy

    async def until(self, holds: Callable[[ServerRow], bool]) -> None:
        """Wait until what HAProxy says of the server satisfies a condition."""
        await trio.to_thread.run_sync(self.proxy.wait, lambda rows: holds(rows["gpu1"]))

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.proxy.port}{path}", headers=headers)


@asynccontextmanager
async def fronted(folder: Path) -> AsyncIterator[Fronted]:
    """Serve behind HAProxy."""
    ports = [ServerPorts(*free_ports(2)) for _ in range(3)]
    config = replace(
        TEST_SERVER,
        port=ports[0].clients,
        agent_port=ports[0].agent,
        max_sessions=SESSIONS,
        admission_wait_ms=10,
    )
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, Config(server=config)) as server:
            with haproxy(ports, SESSIONS, folder) as proxy:
                opened = Fronted(server, proxy)
                await opened.until(lambda row: row.status == "UP" and row.weight == 100)
                yield opened


def test_haproxy_accepts_the_configuration() -> None:
    done = subprocess.run([str(HAPROXY), "-c", "-f", CONFIG], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


async def test_the_weight_is_the_free_share_and_a_drain_takes_no_more_calls(tmp_path: Path) -> None:
    async with fronted(tmp_path) as fleet:
        async with dial(fleet.proxy.port, SOCKET), dial(fleet.server.port, SOCKET):
            await fleet.until(lambda row: row.weight == 50)
        await fleet.until(lambda row: row.weight == 100)
        async with dial(fleet.proxy.port, SOCKET):
            fleet.server.state.admission.drain_begun.set()
            await fleet.until(lambda row: row.status.startswith(("DRAIN", "DOWN")))
            answer = await fleet.get(SOCKET, UPGRADE)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_full_fleet_refuses_calls_and_answers_the_rest(tmp_path: Path) -> None:
    async with fronted(tmp_path) as fleet, trio.open_nursery() as nursery:

        async def hold(task_status: trio.TaskStatus[None]) -> None:
            async with dial(fleet.proxy.port, SOCKET):
                task_status.started()
                await trio.sleep_forever()

        for _ in range(SESSIONS):
            await nursery.start(hold)
        for path in (SOCKET, f"{SPEECH}/stream"):
            answer = await fleet.get(path, UPGRADE)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["detail"]["code"] == "system_busy"
        assert (await fleet.get("/v1/voices")).status_code == 200
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "/%6detrics", "/metrics?a=b", "/tts/metrics"]
)
async def test_metrics_stay_inside(tmp_path: Path, path: str) -> None:
    ports = [ServerPorts(*free_ports(2)) for _ in range(3)]
    with trio.fail_after(GUARD_S), haproxy(ports, SESSIONS, tmp_path) as proxy:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{proxy.port}{path}")
    # Where it were passed on: 503, since no server is there.
    assert answer.status_code == 404
