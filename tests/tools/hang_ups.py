"""Hang up on a server in every way, many times, and show that nothing of it is left.

    PYTHONPATH=tests python -m tools.hang_ups [--count 10000] [--connections 32]

Starts a server of its own. Exit status 1 where a descriptor, thread, session, slot or pool token
is not back at its start, or where the memory grows from quarter to quarter.
"""

import argparse
import json
import random
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
import trio

from support.server_process import ServerProcess, server_process

SPEECH = "/v1/text-to-speech/default"
TEXT = "This sentence goes on and on with words in it so that it takes a while to be said aloud. "
_SETTLE_LOOKS = 50
_QUARTERS = 4

HangUp = Callable[[trio.SocketStream], Awaitable[None]]


def head(method: str, path: str, *fields: str) -> bytes:
    lines = "".join(f"{field}\r\n" for field in ("host: test", *fields))
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def post(path: str, behind: bytes = b"") -> bytes:
    body = json.dumps({"text": TEXT * 3}).encode()
    return head("POST", f"{SPEECH}{path}", f"content-length: {len(body)}") + body + behind


UPGRADE = head(
    "GET",
    f"{SPEECH}/stream-input?output_format=pcm_24000",
    "connection: upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


def frame(payload: bytes, *, opcode: int = 1, final: bool = True) -> bytes:
    """Return a masked frame (RFC 6455, 5.2); the mask is zero."""
    first = bytes([(0x80 if final else 0) | opcode])
    if len(payload) < 126:
        return first + bytes([0x80 | len(payload)]) + bytes(4) + payload
    return first + bytes([0x80 | 126]) + struct.pack("!H", len(payload)) + bytes(4) + payload


def message(**fields: object) -> bytes:
    return frame(json.dumps(fields).encode())


async def reset(stream: trio.SocketStream) -> None:
    """Close a connection with a reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


async def speak(stream: trio.SocketStream) -> None:
    """Open a socket that speaks, and read until it does."""
    await stream.send_all(UPGRADE)
    await stream.receive_some(4096)
    await stream.send_all(message(text=TEXT * 3))
    await stream.receive_some(4096)


def sending(data: bytes, *, pause_s: float = 0.0) -> HangUp:
    """Return a hang-up that sends bytes, waits, and resets."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.send_all(data)
        await trio.sleep(pause_s)
        await reset(stream)

    return hang_up


def speaking(data: bytes = b"", *, pause_s: float = 0.0, close: bool = False) -> HangUp:
    """Return a hang-up of a socket that speaks: sends bytes, waits, and resets or closes."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await speak(stream)
        await stream.send_all(data)
        await trio.sleep(pause_s)
        await (stream.aclose() if close else reset(stream))

    return hang_up


def answered(data: bytes, *, close: bool = False) -> HangUp:
    """Return a hang-up in the middle of an answer."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.send_all(data)
        await stream.receive_some(4096)
        await (stream.aclose() if close else reset(stream))

    return hang_up


WRONG = message(text=5)
BURST = b"".join(message(text="and so on ") for _ in range(400))
HANG_UPS: dict[str, HangUp] = {
    "socket, reset": speaking(),
    "socket, closed": speaking(close=True),
    "socket, close frame": speaking(frame(b"\x03\xe8", opcode=8), close=True),
    "socket, error and 30 messages": speaking(WRONG + 30 * message(text="x "), pause_s=0.005),
    "socket, error and 300 messages": speaking(WRONG + 300 * message(text="x "), pause_s=0.005),
    "socket, burst": speaking(BURST),
    "socket, burst at once": sending(UPGRADE, pause_s=0.0),
    "socket, half a message": speaking(frame(b'{"text": "', final=False)),
    "socket, message too long": speaking(frame(bytes(60_000), final=False) * 6),
    "socket, silent": answered(UPGRADE),
    "answer, reset": answered(post("/stream")),
    "answer, closed": answered(post("/stream"), close=True),
    "answer, bytes behind": answered(post("/stream", b"GET / HTTP/1.1\r\n" + bytes(200))),
    "whole answer, reset": sending(post("/with-timestamps"), pause_s=0.05),
    "whole answer, bytes behind": sending(post("", bytes(2000)), pause_s=0.05),
    "3 pipelined": sending(3 * head("GET", "/healthz")),
    "20 pipelined": sending(20 * head("GET", "/healthz"), pause_s=0.002),
    "half a head": sending(b"GET /healthz HTT"),
    "half a body": sending(head("POST", f"{SPEECH}/stream", "content-length: 500") + b'{"te'),
    "nothing": sending(b""),
}


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds at one moment."""

    descriptors: int
    threads: int
    sessions: float
    slots: float
    waiting: float
    connections: float

    @classmethod
    def of(cls, server: ServerProcess) -> "Held":
        metrics = server.metrics()
        return cls(
            server.descriptors(),
            server.threads(),
            metrics["csm_sessions"],
            metrics["csm_slots_used"],
            metrics["csm_utterances_waiting"] + metrics["csm_admissions_waiting"],
            metrics["csm_connections"],
        )


async def hang_up_once(server: ServerProcess, hang_up: HangUp) -> None:
    with trio.move_on_after(30):
        try:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await hang_up(stream)
        except (OSError, trio.BrokenResourceError):
            pass  # refused, or ended by the server first


async def attack(server: ServerProcess, count: int, connections: int, seed: int) -> None:
    """Hang up `count` times, `connections` at once."""
    draw = random.Random(seed)
    kinds = list(HANG_UPS.values())
    left = iter([draw.choice(kinds) for _ in range(count)])

    async def worker() -> None:
        for hang_up in left:
            await hang_up_once(server, hang_up)

    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(worker)


async def settle(server: ServerProcess, before: Held) -> Held:
    """Return what the server holds once it is back at its start, or after some seconds."""
    for _ in range(_SETTLE_LOOKS):
        await trio.sleep(0.1)
        if (held := await trio.to_thread.run_sync(Held.of, server)) == before:
            break
    return held


def quantile_s(metrics: dict[str, float], name: str, share: float) -> float:
    """Return the upper end of the histogram bucket that holds a quantile, in seconds."""
    total = metrics[f"{name}_count"]
    buckets = [
        (float(key.split('"')[1]), count)
        for key, count in metrics.items()
        if key.startswith(f"{name}_bucket")
    ]
    return next(le for le, count in sorted(buckets) if count >= share * total)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--pool-size", default="8")
    options = parser.parse_args(arguments)
    with server_process("--pool-size", options.pool_size) as server:
        # Once, so that everything that is loaded on first use is loaded.
        trio.run(attack, server, 400, options.connections, 0)
        before = trio.run(settle, server, Held.of(server))
        rss_mb = [server.rss_mb()]
        for quarter in range(_QUARTERS):
            trio.run(attack, server, options.count // _QUARTERS, options.connections, quarter + 1)
            after = trio.run(settle, server, before)
            rss_mb.append(server.rss_mb())
        metrics = server.metrics()
        serves = httpx.post(
            f"{server.url}{SPEECH}", json={"text": "Still here."}, trust_env=False, timeout=30
        )
        tracebacks = sum("Traceback" in line for line in server.log)
    print(f"{options.count} hang-ups of {len(HANG_UPS)} kinds on {options.connections} connections")
    print(f"before: {before}")
    print(f"after:  {after}")
    print("memory, MB: " + ", ".join(f"{one:.0f}" for one in rss_mb))
    for name in ("csm_cancel_to_free_seconds", "csm_step_seconds"):
        mean_s = metrics[f"{name}_sum"] / metrics[f"{name}_count"]
        p99_s = quantile_s(metrics, name, 0.99)
        print(f"{name}: mean {1000 * mean_s:.0f} ms, p99 within {1000 * p99_s:.0f} ms")
    print(f"then: HTTP {serves.status_code}; tracebacks in the log: {tracebacks}")
    growing = rss_mb[-1] - rss_mb[-2] > 0.02 * rss_mb[-1]
    return int(after != before or growing or serves.status_code != 200 or tracebacks > 0)


if __name__ == "__main__":
    sys.exit(main())
