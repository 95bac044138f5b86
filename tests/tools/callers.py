"""Who gets a session and a slot: ghosts, sockets without a key, and a greedy caller.

    PYTHONPATH=tests python -m tools.callers [--tries 60]

Starts servers of its own. Exit status 1 where an honest caller is refused, or where the first
audio beside a greedy caller takes more than 0.3 s longer than alone.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    connect_websocket_url,
    open_websocket_url,
)

from csm_trio.errors import first_leaf
from support.server_process import ServerProcess, server_process
from tools.hang_ups import SPEECH, TEXT, UPGRADE, reset

KEY = "sk_callers"
HEADERS = [(b"xi-api-key", KEY.encode())]
WITH_KEY = UPGRADE.replace(b"host:", b"xi-api-key: %s\r\nhost:" % KEY.encode())
WRONG = [(b"xi-api-key", b"wrong")]
CONTEXTS = 5
MAX_DELAY_S = 0.3


def url(server: ServerProcess, endpoint: str = "stream-input") -> str:
    return f"ws://127.0.0.1:{server.port}{SPEECH}/{endpoint}?output_format=pcm_24000"


async def first_audio_s(server: ServerProcess) -> float | None:
    """Make one call; return its time to first audio, None where it is refused."""
    begun_s = time.monotonic()
    try:
        async with open_websocket_url(url(server), extra_headers=HEADERS) as ws:
            await ws.send_message(json.dumps({"text": TEXT, "flush": True}))
            while not json.loads(await ws.get_message()).get("audio"):
                pass
            return time.monotonic() - begun_s
    except (ConnectionRejected, BaseExceptionGroup) as error:
        if isinstance(first_leaf(error), ConnectionRejected):
            return None
        raise


@asynccontextmanager
async def speaking(server: ServerProcess, count: int) -> AsyncIterator[list[WebSocketConnection]]:
    """Keep so many sockets speaking."""
    async with trio.open_nursery() as nursery:
        sockets = []
        for _ in range(count):
            ws = await connect_websocket_url(nursery, url(server), extra_headers=HEADERS)
            await ws.send_message(json.dumps({"text": TEXT * 20, "flush": True}))
            await ws.get_message()
            sockets.append(ws)
        yield sockets
        nursery.cancel_scope.cancel()


async def ghosts(server: ServerProcess, slots: int, tries: int) -> int:
    """Hang up and dial again at once on a full server; return how often that is refused."""
    refused = 0
    async with speaking(server, slots - 1):
        for _ in range(tries):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(WITH_KEY)
                await stream.receive_some(4096)
                await reset(stream)
            refused += await first_audio_s(server) is None
    return refused


async def strangers(server: ServerProcess, tries: int) -> int:
    """Call beside sockets without a key and with a wrong one; return how often it is refused."""
    refused = 0

    async def wrong() -> None:
        while True:
            with trio.move_on_after(5):
                try:
                    async with open_websocket_url(url(server), extra_headers=WRONG) as ws:
                        await ws.get_message()
                except* (ConnectionClosed, ConnectionRejected):
                    await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(wrong)
        for _ in range(12):
            await connect_websocket_url(nursery, url(server))
        for _ in range(tries):
            refused += await first_audio_s(server) is None
        nursery.cancel_scope.cancel()
    return refused


async def beside_a_greedy_caller(
    server: ServerProcess, tries: int, *, contexts: int, reads: bool
) -> float:
    """Return the median time to first audio beside a socket of so many contexts, in s."""
    async with trio.open_nursery() as nursery:
        if contexts:
            greedy = await connect_websocket_url(
                nursery, url(server, "multi-stream-input"), extra_headers=HEADERS
            )
            nursery.start_soon(speak_on, greedy, contexts)
            if reads:
                nursery.start_soon(read_on, greedy)
            await trio.sleep(1.0)
        times_s = []
        for _ in range(tries):
            taken_s = await first_audio_s(server)
            assert taken_s is not None
            times_s.append(taken_s)
        nursery.cancel_scope.cancel()
    return statistics.median(times_s)


async def speak_on(ws: WebSocketConnection, contexts: int) -> None:
    while True:
        for number in range(contexts):
            text = {"text": TEXT * 3, "context_id": str(number), "flush": True}
            await ws.send_message(json.dumps(text))
        await trio.sleep(10.0)


async def read_on(ws: WebSocketConnection) -> None:
    while True:
        await ws.get_message()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=60)
    tries = parser.parse_args(arguments).tries
    flags = ("--pool-size", "4", "--max-sessions", "4")
    with server_process(*flags, environ={"CSM_API_KEY": KEY}) as server:
        refused = trio.run(ghosts, server, 4, tries)
        print(f"full server, hang up and dial again: {refused} of {tries} refused")
        unwelcome = trio.run(strangers, server, tries)
        print(f"beside 24 sockets without a valid key: {unwelcome} of {tries} refused")
        delays_s = []
        for name, contexts, reads in (
            ("alone", 0, True),
            (f"beside a socket of {CONTEXTS} contexts", CONTEXTS, True),
            ("beside one that reads nothing", CONTEXTS, False),
        ):
            measure = partial(beside_a_greedy_caller, contexts=contexts, reads=reads)
            taken_s = trio.run(measure, server, tries // 4)
            delays_s.append(taken_s)
            print(f"first audio {name}: p50 {1000 * taken_s:.0f} ms")
    return int(refused > 0 or unwelcome > 0 or max(delays_s) - delays_s[0] > MAX_DELAY_S)


if __name__ == "__main__":
    sys.exit(main())
