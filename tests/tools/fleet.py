"""Three servers behind HAProxy: the spread of calls, and faults.

    PYTHONPATH=tests python -m tools.fleet [--workers 0] [--duration-s 20]

Starts the servers, and HAProxy with `deploy/haproxy.cfg`, on the loopback. They speak sines at a
fixed pace: the figures are those of the balancing, not of a model. Exit status 1 where a bar is
missed:

- spread: at 70 % load, the calls of the busiest server over those of the idlest are 1.3 at most;
- kill: after `kill -9` of a server its callers are connected again within a second, and the
  other calls are complete and without a gap in their playback;
- restart: no call is refused or cut while one server after the other is restarted;
- full: with every session taken, 503 with `Retry-After` comes within 50 ms: p95 where HAProxy knows
  it, the median where it has to ask three servers, which share the cores with the callers.
"""

import argparse
import base64
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, connect_websocket_url

from support.client_calls import SPEECH, UPGRADE
from support.haproxy import Proxy, ServerPorts, ServerRow, free_ports, haproxy
from support.server_process import ServerProcess, server_process

N_SERVERS = 3
SESSIONS = 20
STEP_S = 0.05
FRAME_BYTES, FRAME_S = 2 * 1_920, 0.08
LOAD = 0.7
WORDS = "of speech that goes on and on with words in it so that it takes a while to be said"
REFUSALS = 60
MAX_SPREAD = 1.3
MAX_RECONNECT_S = 1.0
MAX_REFUSAL_S = 0.05
TESTS = Path(__file__).parents[1]


class Fleet:
    """Servers that are started, killed and restarted on ports of their own."""

    def __init__(self, workers: int) -> None:
        ports = free_ports(2 * N_SERVERS)
        self.ports = [ServerPorts(*pair) for pair in zip(ports[::2], ports[1::2], strict=True)]
        self.servers: list[ServerProcess] = []
        self._workers = workers
        self._stacks = [ExitStack() for _ in self.ports]

    def __enter__(self) -> "Fleet":
        self.servers = [self._start(index) for index in range(N_SERVERS)]
        return self

    def __exit__(self, *_: object) -> None:
        for stack in self._stacks:
            stack.close()

    def _start(self, index: int) -> ServerProcess:
        ports = self.ports[index]
        flags = {
            "--port": ports.clients,
            "--agent-port": ports.agent,
            "--pool-size": SESSIONS,
            "--admission-wait-ms": 2,
            "--workers": self._workers,
            "--drain-s": 30,
            "--log-level": "info",
        }
        environ = {
            "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
            "STEP_S": str(STEP_S),
        }
        words = [str(word) for pair in flags.items() for word in pair]
        program = ["support.sine_server"]
        return self._stacks[index].enter_context(
            server_process(*words, environ=environ, program=program)
        )

    def kill(self, index: int) -> None:
        """End a server as a crash does, without a word."""
        self.servers[index].process.kill()
        self.servers[index].process.wait()

    def restart(self, index: int) -> None:
        """End a server by SIGTERM, wait for its drain, and start it again."""
        self._stacks[index].close()
        self.servers[index] = self._start(index)


@dataclass(slots=True)
class Call:
    """A call through HAProxy: what it received, and how it ended.

    ahead_s: by the time of each chunk, how much audio its playback had left before it.
    """

    frames: int
    received_bytes: int = 0
    first_s: float | None = None
    ahead_s: list[tuple[float, float]] = field(default_factory=list)
    code: int | None = None
    status: int | None = None
    accepted: trio.Event = field(default_factory=trio.Event)
    begun: trio.Event = field(default_factory=trio.Event)

    @property
    def complete(self) -> bool:
        return self.code == 1000 and self.received_bytes == self.frames * FRAME_BYTES

    async def run(self, port: int) -> None:
        """Speak one text to its end, or to the end of the connection."""
        url = f"ws://127.0.0.1:{port}{SPEECH}/stream-input?output_format=pcm_24000"
        try:
            async with trio.open_nursery() as nursery:
                ws = await connect_websocket_url(nursery, url)
                self.accepted.set()
                await ws.send_message(json.dumps({"text": f"FRAMES={self.frames} {WORDS}. "}))
                await ws.send_message(json.dumps({"text": ""}))
                while True:
                    self._take(json.loads(await ws.get_message()))
        except* ConnectionRejected as group:
            (rejected,) = group.exceptions
            assert isinstance(rejected, ConnectionRejected)
            self.status = rejected.status_code
        except* ConnectionClosed as group:
            (closed,) = group.exceptions
            assert isinstance(closed, ConnectionClosed)
            self.code = closed.reason.code if closed.reason else 1006
        except* OSError:
            self.code = 1006

    def _take(self, message: dict[str, str]) -> None:
        audio = base64.b64decode(message.get("audio") or "")
        if not audio:
            return
        now_s = time.monotonic()
        if self.first_s is None:
            self.first_s = now_s
            self.begun.set()
        sent_s = self.received_bytes / FRAME_BYTES * FRAME_S
        self.ahead_s.append((now_s, sent_s - (now_s - self.first_s)))
        self.received_bytes += len(audio)


@dataclass(slots=True)
class Report:
    """The lines of the report, and the bars that were missed."""

    missed: list[str] = field(default_factory=list)

    def say(self, name: str, line: str, **bars: bool) -> None:
        """Print a line; note the bars that do not hold."""
        print(f"{name}: {line}", flush=True)
        self.missed += [f"{name}: {bar}" for bar, holds in bars.items() if not holds]


async def hold_load(proxy: Proxy, callers: int, until: trio.Event, calls: list[Call]) -> None:
    """Keep so many calls open, one after the other for each caller, until the event."""

    async def caller(seed: int) -> None:
        draw = random.Random(seed)
        while not until.is_set():
            call = Call(draw.randrange(20, 60))
            calls.append(call)
            await call.run(proxy.port)
            if call.status is not None:
                await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        for seed in range(callers):
            nursery.start_soon(caller, seed)


async def silent_sockets(nursery: trio.Nursery, port: int, count: int) -> None:
    """Open sockets that hold a session and say nothing, until the nursery ends."""
    url = f"ws://127.0.0.1:{port}{SPEECH}/stream-input?inactivity_timeout=180"
    for _ in range(count):
        await connect_websocket_url(nursery, url)


async def until_all_up(proxy: Proxy, least_weight: int = 1) -> None:
    """Wait until every server is up for HAProxy, with this weight."""

    def all_up(rows: dict[str, ServerRow]) -> bool:
        return all(row.status == "UP" and row.weight >= least_weight for row in rows.values())

    await trio.to_thread.run_sync(proxy.wait, all_up)


async def rows(proxy: Proxy) -> dict[str, ServerRow]:
    return await trio.to_thread.run_sync(proxy.rows)


async def spread(proxy: Proxy, duration_s: float, report: Report) -> None:
    """Hold 70 % of all sessions; compare the servers' calls."""
    callers = round(LOAD * SESSIONS * N_SERVERS)
    calls: list[Call] = []
    samples: list[list[int]] = []
    over = trio.Event()
    before = await rows(proxy)

    async def sample() -> None:
        await trio.sleep(2.0)
        while True:
            samples.append([row.current for row in (await rows(proxy)).values()])
            await trio.sleep(0.25)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_load, proxy, callers, over, calls)
        async with trio.open_nursery() as sampling:
            sampling.start_soon(sample)
            await trio.sleep(duration_s)
            sampling.cancel_scope.cancel()
        over.set()
    after = await rows(proxy)
    totals = [after[name].total - before[name].total for name in after]
    means = [sum(counts) / len(samples) for counts in zip(*samples, strict=True)]
    ratios = sorted(max(counts) / max(1, min(counts)) for counts in samples)
    failed = sum(not call.complete for call in calls)
    report.say(
        "spread",
        f"{len(calls)} calls, {callers} at once: {totals} by server, max/min "
        f"{max(totals) / min(totals):.2f}; at once {[round(mean, 1) for mean in means]}, max/min "
        f"{max(means) / min(means):.2f}, in 95 % of moments at most "
        f"{ratios[int(0.95 * (len(ratios) - 1))]:.2f}; {failed} failed",
        calls=max(totals) / min(totals) <= MAX_SPREAD,
        at_once=max(means) / min(means) <= MAX_SPREAD,
        complete=failed == 0,
    )


async def spread_beside_others(fleet: Fleet, proxy: Proxy, report: Report) -> None:
    """Take half of one server's sessions past HAProxy; the others must get more of its calls."""
    taken = SESSIONS // 2
    callers = round(LOAD * SESSIONS * N_SERVERS) - taken
    over = trio.Event()
    calls: list[Call] = []
    samples: list[list[int]] = []
    async with trio.open_nursery() as others:
        await silent_sockets(others, fleet.ports[0].clients, taken)
        await trio.sleep(1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_load, proxy, callers, over, calls)
            await trio.sleep(3.0)
            for _ in range(20):
                samples.append([row.current for row in (await rows(proxy)).values()])
                await trio.sleep(0.25)
            over.set()
        others.cancel_scope.cancel()
    first, *rest = [sum(counts) / len(samples) for counts in zip(*samples, strict=True)]
    failed = sum(not call.complete for call in calls)
    report.say(
        "spread beside others",
        f"{taken} sessions of one server are taken past HAProxy: {first + taken:.1f} in use there, "
        f"{' and '.join(f'{mean:.1f}' for mean in rest)} at the others; {failed} failed",
        weighed=first < 0.75 * min(rest),
        complete=failed == 0,
    )


async def kill(fleet: Fleet, proxy: Proxy, report: Report) -> None:
    """Kill one server in the middle of calls on all."""
    calls = [Call(120) for _ in range(36)]
    reconnected_s: list[float] = []
    killed_s = 0.0

    async def caller(call: Call) -> None:
        await call.run(proxy.port)
        if call.complete:
            return
        again = Call(20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.run, proxy.port)
            with trio.move_on_after(10.0):
                await again.accepted.wait()
                reconnected_s.append(time.monotonic() - killed_s)

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(caller, call)
        for call in calls:
            await call.begun.wait()
        await trio.sleep(1.0)
        victims = (await rows(proxy))["gpu2"].current
        killed_s = time.monotonic()
        await trio.to_thread.run_sync(fleet.kill, 1)
    unhurt = [call for call in calls if call.complete]
    ahead_s = min(ahead_s for call in unhurt for at_s, ahead_s in call.ahead_s if at_s > killed_s)
    slowest_s = max(reconnected_s, default=10.0)
    report.say(
        "kill",
        f"{victims} of {len(calls)} calls were on the killed server; {len(reconnected_s)} are "
        f"connected again within {1000 * slowest_s:.0f} ms; {len(unhurt)} others complete, "
        f"whose playback always had {1000 * ahead_s:.0f} ms left",
        reconnected=len(reconnected_s) == victims and slowest_s <= MAX_RECONNECT_S,
        others=len(unhurt) == len(calls) - victims and ahead_s > 0,
    )
    await trio.to_thread.run_sync(fleet.restart, 1)
    await until_all_up(proxy)


async def restart(fleet: Fleet, proxy: Proxy, report: Report) -> None:
    """Restart one server after the other under load."""
    calls: list[Call] = []
    over = trio.Event()
    begun_s = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_load, proxy, 24, over, calls)
        await trio.sleep(2.0)
        for index in range(N_SERVERS):
            await trio.to_thread.run_sync(fleet.restart, index)
            await until_all_up(proxy)
        over.set()
    refused = sum(call.status is not None for call in calls)
    cut = sum(not call.complete for call in calls) - refused
    report.say(
        "restart",
        f"{N_SERVERS} servers in {time.monotonic() - begun_s:.0f} s, {len(calls)} calls, 24 at "
        f"once: {refused} refused, {cut} cut",
        none_dropped=refused + cut == 0,
    )


async def full(fleet: Fleet, proxy: Proxy, report: Report, *, through_proxy: bool) -> None:
    """Take every session, through HAProxy or past it; ask for one more, by upgrade and by POST."""
    taken_s: list[float] = []
    wrong: list[str] = []
    ports = [proxy.port] if through_proxy else [one.clients for one in fleet.ports]
    async with (
        trio.open_nursery() as nursery,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", trust_env=False) as client,
    ):
        for port in ports:
            await silent_sockets(nursery, port, N_SERVERS * SESSIONS // len(ports))
        await trio.sleep(1.0)
        for number in range(REFUSALS):
            begun_s = time.monotonic()
            if number % 2:
                answer = await client.post(f"{SPEECH}/stream", json={"text": "One more."})
            else:
                answer = await client.get(f"{SPEECH}/stream-input", headers=UPGRADE)
            taken_s.append(time.monotonic() - begun_s)
            if answer.status_code != 503 or "retry-after" not in answer.headers:
                wrong.append(f"{answer.status_code} {answer.text[:80]}")
        nursery.cancel_scope.cancel()
    taken_s.sort()
    p50_s, p95_s = taken_s[REFUSALS // 2], taken_s[int(0.95 * REFUSALS)]
    report.say(
        f"full {'through' if through_proxy else 'past'} HAProxy",
        f"{REFUSALS} requests: {len(wrong)} not 503 with Retry-After {wrong[:3]}, p50 "
        f"{1000 * p50_s:.0f}, p95 {1000 * p95_s:.0f}, longest {1000 * taken_s[-1]:.0f} ms",
        refused=not wrong,
        at_once=(p95_s if through_proxy else p50_s) <= MAX_REFUSAL_S,
    )


async def run_all(fleet: Fleet, proxy: Proxy, duration_s: float) -> Report:
    """Run every scenario."""
    report = Report()
    await until_all_up(proxy, 100)
    await spread(proxy, duration_s, report)
    await spread_beside_others(fleet, proxy, report)
    await until_all_up(proxy, 100)
    await kill(fleet, proxy, report)
    await restart(fleet, proxy, report)
    await full(fleet, proxy, report, through_proxy=True)
    await until_all_up(proxy, 100)
    await full(fleet, proxy, report, through_proxy=False)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--duration-s", type=float, default=20.0)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(options.workers) as fleet,
        haproxy(fleet.ports, SESSIONS, Path(folder)) as proxy,
    ):
        report = trio.run(run_all, fleet, proxy, options.duration_s)
    for missed in report.missed:
        print(f"missed: {missed}")
    return int(bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
