"""Three servers behind HAProxy: how calls spread, and what a death, a restart and a full fleet do.

    PYTHONPATH=src:tests python -m tools.fleet [--calls 42] [--slots 20]

Starts HAProxy with deploy/haproxy/haproxy.cfg and three servers on the loopback. A sine
runner at a fixed pace stands for the model; processes, sockets and HAProxy are real. Exit status 1
where a bound is missed.
"""

import argparse
import base64
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, open_websocket_url

from support.server_process import ServerProcess, server_process
from tools.hang_ups import SPEECH

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy"
N_SERVERS = 3
MAX_SPREAD = 1.3
MAX_RECONNECT_S = 1.0
MAX_REFUSAL_S = 0.05
_BYTES_PER_S = 48_000
_TEXT = "FRAMES=50 of speech. "
LONG = "FRAMES=300 of speech. " * 5
SHORT = "FRAMES=5 of speech. "


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that are free now."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in taken]


def haproxy_config(front: int, servers: Sequence[tuple[int, int]]) -> str:
    """Return deploy/haproxy/haproxy.cfg for these ports: of the frontend, of servers and agents."""
    text = (CONFIG / "haproxy.cfg").read_text(encoding="utf-8")
    text = text.replace("bind :8000", f"bind 127.0.0.1:{front}")
    text = text.replace("/etc/haproxy/503.http", str(CONFIG / "503.http"))
    text = text.replace("agent-port 8090 ", "").replace("maxconn 20000", "maxconn 4000")
    lines = [
        f"    server csm-{index} 127.0.0.1:{port} agent-port {agent}"
        for index, (port, agent) in enumerate(servers, 1)
    ]
    return re.sub(r"(    server csm-\d+ .*\n)+", "\n".join(lines) + "\n", text)


@contextmanager
def haproxy(config: str) -> Iterator[None]:
    """Run HAProxy with a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "haproxy.cfg"
        path.write_text(config, encoding="utf-8")
        process = subprocess.Popen(["haproxy", "-db", "-f", str(path)], stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


@dataclass(slots=True)
class Fleet:
    """Running servers, and the port of HAProxy."""

    front: int
    ports: list[tuple[int, int]]
    slots: int
    stacks: list[ExitStack] = field(default_factory=list)
    servers: list[ServerProcess] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.front}{SPEECH}/stream-input?output_format=pcm_24000"

    def start(self, index: int) -> None:
        """Start a server on its ports, in place of the one before."""
        port, agent = self.ports[index]
        flags = ["--port", str(port), "--agent-port", str(agent), "--drain-s", "30"]
        flags += ["--pool-size", str(self.slots), "--admission-wait-ms", "0", "--workers", "1"]
        program = ("support.sine_server",)
        self.stacks[index : index + 1] = [ExitStack()]
        started = self.stacks[index].enter_context(server_process(*flags, program=program))
        self.servers[index : index + 1] = [started]

    def sessions(self) -> list[int]:
        """Return the open sessions of each server."""
        return [int(server.metrics()["csm_sessions"]) for server in self.servers]


@dataclass(slots=True)
class Seen:
    """What the calls saw: ended turns, errors, the longest underrun, gaps until audio came back."""

    turns: int = 0
    dropped: list[str] = field(default_factory=list)
    underrun_s: float = 0.0
    reconnects_s: list[float] = field(default_factory=list)
    again: int = 0


async def speak(url: str, seen: Seen, *, dropped_s: float | None = None) -> None:
    """Speak one turn on a socket of its own; raise what ends it early."""
    ends_s: float | None = None
    async with open_websocket_url(url) as ws:
        await ws.send_message(json.dumps({"text": _TEXT}))
        await ws.send_message(json.dumps({"text": ""}))
        while True:
            try:
                message = json.loads(await ws.get_message())
            except ConnectionClosed as closed:
                code = closed.reason.code if closed.reason else 1006
                if code == 1000:
                    seen.turns += 1
                    return
                raise Cut(code, heard=ends_s is not None) from None
            audio = base64.b64decode(message.get("audio") or "")
            if not audio:
                continue
            now_s = time.monotonic()
            if ends_s is None:
                if dropped_s is not None:
                    seen.reconnects_s.append(now_s - dropped_s)
                ends_s = now_s
            seen.underrun_s = max(seen.underrun_s, now_s - ends_s)
            ends_s = max(ends_s, now_s) + len(audio) / _BYTES_PER_S


class Cut(Exception):
    """A socket that ended early: its close code, and whether audio had come."""

    def __init__(self, code: int, *, heard: bool) -> None:
        super().__init__(f"closed with {code}, audio {'had' if heard else 'had not'} come")
        self.heard = heard


async def call(url: str, seen: Seen, stop: trio.Event) -> None:
    """Speak turn after turn, each on a new socket, until the event; note what goes wrong."""
    dropped_s: float | None = None
    while dropped_s is not None or not stop.is_set():
        try:
            await speak(url, seen, dropped_s=dropped_s)
            dropped_s = None
        except* (Cut, ConnectionRejected, HandshakeError, OSError) as group:
            error = group.exceptions[0]
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, Cut) and not error.heard:
                seen.again += 1  # closed before its text had come: the client connects again
            else:
                seen.dropped.append(f"{type(error).__name__}: {error}")
            dropped_s = dropped_s or time.monotonic()


@dataclass(slots=True)
class Load:
    """Calls that go on in the background."""

    fleet: Fleet
    seen: Seen = field(default_factory=Seen)
    stop: trio.Event = field(default_factory=trio.Event)

    def start(self, nursery: trio.Nursery, calls: int) -> None:
        for _ in range(calls):
            nursery.start_soon(call, self.fleet.url, self.seen, self.stop)


async def hold(
    url: str, text: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Keep a socket open that has begun to speak a text."""
    async with open_websocket_url(url) as ws:
        await ws.send_message(json.dumps({"text": text, "flush": True}))
        await ws.get_message()
        task_status.started()
        while True:
            await ws.get_message()


async def spread(fleet: Fleet, calls: int, *, past: int = 0) -> float:
    """Open calls one after the other; return the most of one server over the least.

    The first `past` of them go past HAProxy to the first server, whose agent check alone tells it.
    """
    direct = fleet.url.replace(str(fleet.front), str(fleet.ports[0][0]))
    async with trio.open_nursery() as nursery:
        for _ in range(past):
            await nursery.start(hold, direct, LONG)
        await trio.sleep(1.5 if past else 0)  # three checks
        for _ in range(calls - past):
            await nursery.start(hold, fleet.url, LONG)
        sessions = await trio.to_thread.run_sync(fleet.sessions)
        nursery.cancel_scope.cancel()
    print(f"{calls} calls, {past} past HAProxy, on {N_SERVERS * fleet.slots} slots: {sessions}")
    return max(sessions) / max(1, min(sessions))


async def refusals(fleet: Fleet, text: str, tries: int = 20) -> tuple[int, float]:
    """Fill the fleet; return how many tries got 503 with Retry-After, and the longest time."""
    times_s: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(N_SERVERS * fleet.slots):
            await nursery.start(hold, fleet.url, text)
        for _ in range(tries):
            # From a thread: this loop reads the audio of all calls.
            times_s += await trio.to_thread.run_sync(refusal_s, fleet.front)
        nursery.cancel_scope.cancel()
    longest_s = max(times_s, default=0)
    print(
        f"full of calls that {'speak' if text == LONG else 'are silent'}: "
        f"{len(times_s)} of {tries} got 503 with Retry-After, "
        f"p50 {1000 * statistics.median(times_s or [0]):.0f} ms, longest {1000 * longest_s:.0f} ms"
    )
    return len(times_s), longest_s


def refusal_s(port: int) -> list[float]:
    """Ask for speech on a new connection; return the time to a 503 with Retry-After, if it came."""
    begun_s = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", SPEECH, '{"text": "Hi."}', {"content-type": "application/json"})
    answer = connection.getresponse()
    taken_s = time.monotonic() - begun_s
    refused = answer.status == 503 and answer.getheader("retry-after") is not None
    connection.close()
    return [taken_s] if refused else []


async def death(fleet: Fleet, calls: int) -> Seen:
    """Kill one server in the middle of its calls, and start it again after them."""
    load = Load(fleet)
    async with trio.open_nursery() as nursery:
        load.start(nursery, calls)
        await trio.sleep(3)
        on_it = (await trio.to_thread.run_sync(fleet.sessions))[0]
        os.kill(fleet.servers[0].process.pid, signal.SIGKILL)
        await trio.sleep(4)
        load.stop.set()
    seen = load.seen
    print(
        f"kill -9 with {on_it} of {calls} calls on it: {len(seen.dropped)} cut, "
        f"audio again after {max(seen.reconnects_s, default=0):.2f} s at most, "
        f"longest underrun {1000 * seen.underrun_s:.0f} ms, {seen.turns} turns"
    )
    return seen


async def rolling_restart(fleet: Fleet, calls: int) -> Seen:
    """Restart every server in turn under load: SIGTERM, its drain, and the next one's start."""
    load = Load(fleet)
    async with trio.open_nursery() as nursery:
        load.start(nursery, calls)
        for index in range(N_SERVERS):
            await trio.sleep(2)
            await trio.to_thread.run_sync(fleet.stacks[index].close)
            await trio.to_thread.run_sync(fleet.start, index)
        await trio.sleep(2)
        load.stop.set()
    seen = load.seen
    print(
        f"rolling restart with {calls} calls: {len(seen.dropped)} dropped, "
        f"{seen.again} connected again before their text, {seen.turns} turns, "
        f"longest underrun {1000 * seen.underrun_s:.0f} ms"
    )
    return seen


@contextmanager
def running_fleet(slots: int) -> Iterator[Fleet]:
    """Start three servers and HAProxy in front of them."""
    front, *rest = free_ports(1 + 2 * N_SERVERS)
    fleet = Fleet(front, list(zip(rest[::2], rest[1::2], strict=True)), slots)
    try:
        for index in range(N_SERVERS):
            fleet.start(index)
        with haproxy(haproxy_config(front, fleet.ports)):
            time.sleep(2)  # the first checks
            yield fleet
    finally:
        for stack in fleet.stacks:
            stack.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=20)
    parser.add_argument("--calls", type=int, default=42, help="calls held for the spread")
    parser.add_argument("--speaking", type=int, default=12, help="calls that speak on")
    options = parser.parse_args(arguments)
    missed = []
    with running_fleet(options.slots) as fleet:
        if trio.run(spread, fleet, options.calls) > MAX_SPREAD:
            missed.append("spread")
        time.sleep(1)
        past = options.slots // 2
        each = (options.calls - past) / N_SERVERS
        # What leastconn without the agent check would come to.
        without = (past + each) / each
        if trio.run(partial(spread, past=past), fleet, options.calls) >= without:
            missed.append("spread by the agent check")
        time.sleep(1)
        # Speaking calls take the time of cores that the measurement shares: only shown.
        trio.run(refusals, fleet, LONG)
        time.sleep(1)
        good, longest_s = trio.run(refusals, fleet, SHORT)
        if good < 20 or longest_s > MAX_REFUSAL_S:
            missed.append("refusals")
        time.sleep(1)
        seen = trio.run(rolling_restart, fleet, options.speaking)
        if seen.dropped:
            missed.append("restart")
            print("\n".join(seen.dropped[:5]))
        seen = trio.run(death, fleet, options.speaking)
        if max(seen.reconnects_s, default=0) > MAX_RECONNECT_S:
            missed.append("death")
    print("missed: " + ", ".join(missed) if missed else "all bounds held")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
