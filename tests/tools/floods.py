"""Flood a server from one connection, in every way, beside calls that play in real time.

    PYTHONPATH=tests python -m tools.floods [--duration-s 10] [--calls 3] [--kind NAME]

Starts a server of its own. Prints the worst underrun of the calls for each kind of flood, and the
growth of the server's memory. Exit status 1 where a call underruns by more than 100 ms, or the
memory grows by more than 100 MB.
"""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from csm_trio.bench.load.call import Player
from support.server_process import ServerProcess, server_process
from tools.hang_ups import SPEECH, TEXT, UPGRADE, frame, head, message

MAX_UNDERRUN_S = 0.1
MAX_GROWTH_MB = 100.0
_BATCH = 200
_PCM_BYTES_PER_S = 48_000

MULTI = UPGRADE.replace(b"stream-input", b"multi-stream-input")


def repeated(data: bytes, opening: bytes = UPGRADE) -> Callable[[], Iterator[bytes]]:
    """Return a flood of one message on a socket."""

    def flood() -> Iterator[bytes]:
        yield opening
        while True:
            yield data * _BATCH

    return flood


def large(payload: bytes, *, opening: bytes = UPGRADE) -> Callable[[], Iterator[bytes]]:
    """Return a flood of one large message, each in frames of 60,000 bytes."""
    parts = [payload[start : start + 60_000] for start in range(0, len(payload), 60_000)]
    frames = b"".join(
        frame(part, opcode=0 if number else 1, final=number == len(parts) - 1)
        for number, part in enumerate(parts)
    )

    def flood() -> Iterator[bytes]:
        yield opening
        while True:
            yield frames

    return flood


def endless_message() -> Iterator[bytes]:
    yield UPGRADE
    yield frame(b'{"text": "', final=False)
    while True:
        yield frame(b"a" * 60_000, opcode=0, final=False)


def empty_continuations() -> Iterator[bytes]:
    yield UPGRADE
    yield frame(b'{"text": "', final=False)
    while True:
        yield frame(b"", opcode=0, final=False) * _BATCH


def requests(data: bytes) -> Callable[[], Iterator[bytes]]:
    def flood() -> Iterator[bytes]:
        while True:
            yield data * 20

    return flood


def body(payload: bytes) -> bytes:
    return head("POST", f"{SPEECH}/stream", f"content-length: {len(payload)}") + payload


def new_contexts() -> Iterator[bytes]:
    yield MULTI
    number = 0
    while True:
        opened = b""
        for _ in range(_BATCH):
            number += 1
            name = f"{number:0250d}"
            opened += message(text="a ", context_id=name)
            opened += message(context_id=name, close_context=True)
        yield opened


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "keep-alives": repeated(message(keep_alive=True)),
    "spaces": repeated(message(text=" ")),
    "one character": repeated(message(text="a")),
    "empty messages": repeated(frame(b"")),
    "unknown fields": repeated(message(x=1)),
    "long context ids": repeated(message(text="a ", context_id="c" * 250), MULTI),
    "new contexts": new_contexts,
    "pings": repeated(frame(b"p", opcode=9)),
    "pongs": repeated(frame(b"p" * 100, opcode=10)),
    "empty continuations": empty_continuations,
    "a message without end": endless_message,
    "340,000 objects": large(b'{"x":[' + b",".join([b"{}"] * 340_000) + b"]}"),
    "80,000 objects": large(b'{"x":[' + b",".join([b"{}"] * 80_000) + b"]}"),
    "4,000 objects": large(b'{"x":[' + b",".join([b"{}"] * 4_000) + b"]}"),
    "deep": large(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a million digits": large(b'{"x":' + b"1" * 1_000_000 + b"}"),
    "200,000 digits": large(b'{"x":0.' + b"1" * 200_000 + b"}"),
    "1 MiB of text": large(b'{"text":"' + b"and so on " * 104_000 + b'"}'),
    "19 KB of text": large(b'{"text":"' + b"and so on " * 1_900 + b'"}'),
    "GET": requests(head("GET", "/healthz")),
    "GET, lists": requests(head("GET", "/v1/voices")),
    "GET, nowhere": requests(head("GET", "/nowhere")),
    "POST, wrong": requests(body(b'{"text": 5}')),
    "POST, 1 MiB": requests(body(b'{"text": "' + b"a" * 1_000_000 + b'"}')),
    "POST, objects": requests(body(b'{"x":[' + b",".join([b"{}"] * 300_000) + b"]}")),
}


def flood(port: int, kind: str, duration_s: float) -> None:
    """Send one kind of flood on one connection after another, for so long."""
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setblocking(False)
            _send_all(connection, FLOODS[kind](), end_s)


def _send_all(connection: socket.socket, data: Iterator[bytes], end_s: float) -> None:
    """Send as fast as the server takes it, and read what it answers, until it ends."""
    pending = memoryview(b"")
    while time.monotonic() < end_s:
        try:
            pending = pending or memoryview(next(data))
            pending = pending[connection.send(pending) :]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            time.sleep(0.01)
            return
        try:
            while answer := connection.recv(65_536):
                if len(answer) < 65_536:
                    break
        except BlockingIOError:
            pass
        except OSError:
            return


async def call(server: ServerProcess, until_s: float, underruns_s: list[float]) -> None:
    """Make calls, one after the other, each with several sentences, and play them."""
    url = f"ws://127.0.0.1:{server.port}{SPEECH}/stream-input?output_format=pcm_24000"
    while time.monotonic() < until_s:
        player = Player()
        async with open_websocket_url(url) as ws:
            await ws.send_message(json.dumps({"text": TEXT * 2}))
            await ws.send_message(json.dumps({"text": ""}))
            try:
                while True:
                    audio = json.loads(await ws.get_message()).get("audio")
                    audio_s = len(base64.b64decode(audio or "")) / _PCM_BYTES_PER_S
                    player.feed(audio_s, time.monotonic())
            except ConnectionClosed:
                pass
        underruns_s.append(player.underrun_s)


async def calls(server: ServerProcess, n_calls: int, duration_s: float) -> list[float]:
    """Return the underrun of every call that was made in so long, in seconds."""
    underruns_s: list[float] = []
    until_s = time.monotonic() + duration_s
    async with trio.open_nursery() as nursery:
        for _ in range(n_calls):
            nursery.start_soon(call, server, until_s, underruns_s)
    return underruns_s


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of flood did."""

    kind: str
    n_calls: int
    worst_s: float
    growth_mb: float

    @property
    def holds(self) -> bool:
        return self.worst_s <= MAX_UNDERRUN_S and self.growth_mb <= MAX_GROWTH_MB

    def __str__(self) -> str:
        return (
            f"{self.kind:<24} {self.n_calls:>5} {1000 * self.worst_s:>10.0f} "
            f"{self.growth_mb:>9.0f}  {'' if self.holds else 'too much'}"
        )


def measure(server: ServerProcess, kind: str | None, n_calls: int, duration_s: float) -> Row:
    """Flood a server, and measure its calls meanwhile."""
    before_mb = server.rss_mb()
    command = [sys.executable, "-m", "tools.floods", "--attack", str(server.port)]
    flags = ["--kind", kind or "", "--duration-s", str(duration_s + 1)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    attacker = subprocess.Popen([*command, *flags], env=environ) if kind is not None else None
    try:
        underruns_s = trio.run(calls, server, n_calls, duration_s)
    finally:
        if attacker is not None:
            attacker.kill()
            attacker.wait()
    growth_mb = server.rss_mb() - before_mb
    return Row(kind or "none", len(underruns_s), max(underruns_s), growth_mb)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--kind", action="append")
    parser.add_argument("--attack", type=int, metavar="PORT")
    options = parser.parse_args(arguments)
    kinds = options.kind or list(FLOODS)
    if options.attack is not None:
        flood(options.attack, kinds[0], options.duration_s)
        return 0
    with server_process("--pool-size", "8") as server:
        measure(server, None, options.calls, 1.0)
        print(f"{'flood':<24} {'calls':>5} {'worst, ms':>10} {'RSS, MB':>9}")
        rows = []
        for kind in [None, *kinds]:
            rows.append(measure(server, kind, options.calls, options.duration_s))
            print(rows[-1], flush=True)
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
