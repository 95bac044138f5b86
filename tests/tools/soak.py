"""Load a server fully for a long time: errors, gaps between chunks, and what its memory does.

    PYTHONPATH=tests python -m tools.soak [--duration-s 1200] [--calls 4]

Starts a server of its own, whose slots are all used: every call is one socket after another, with
texts, formats and hang-ups drawn at random, and every fourth is a REST request. Exit status 1
where anything fails, or where the memory of the last quarter is more than 1 % above that of the
third. (Garbage of cancelled tasks waits for the collector, so samples rise and fall.)
"""

import argparse
import base64
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from csm_trio.bench.load.workload import TEXTS
from support.server_process import ServerProcess, server_process
from tools.hang_ups import SPEECH

_FORMATS = ("pcm_24000", "ulaw_8000", "mp3_44100_128", "opus_48000_64", "pcm_16000")
_HANG_UP_SHARE = 0.2
_SAMPLE_S = 10.0
_MAX_GROWTH = 0.01


@dataclass(slots=True)
class Totals:
    """What the calls of a soak saw."""

    turns: int = 0
    hang_ups: int = 0
    failures: list[str] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)


async def socket_call(server: ServerProcess, draw: random.Random, totals: Totals) -> None:
    """Synthesize one text on a socket; hang up in the middle of one in five."""
    url = f"ws://127.0.0.1:{server.port}{SPEECH}/stream-input?output_format={draw.choice(_FORMATS)}"
    hang_up_after = draw.randrange(1, 20) if draw.random() < _HANG_UP_SHARE else None
    async with open_websocket_url(url) as ws:
        for word in draw.choice(TEXTS).split():
            await ws.send_message(json.dumps({"text": f"{word} "}))
        await ws.send_message(json.dumps({"text": ""}))
        chunks, last_s = 0, 0.0
        try:
            while chunks != hang_up_after:
                message = json.loads(await ws.get_message())
                if "error" in message:
                    totals.failures.append(message["error"])
                if base64.b64decode(message.get("audio") or ""):
                    now_s = time.monotonic()
                    if chunks:
                        totals.gaps_s.append(now_s - last_s)
                    chunks, last_s = chunks + 1, now_s
            totals.hang_ups += 1
        except ConnectionClosed as closed:
            if closed.reason is None or closed.reason.code != 1000:
                totals.failures.append(f"closed: {closed.reason}")
            totals.turns += 1


async def rest_call(
    server: ServerProcess, client: httpx.AsyncClient, draw: random.Random, totals: Totals
) -> None:
    """Synthesize one text over HTTP."""
    path = draw.choice(("", "/stream", "/with-timestamps"))
    answer = await client.post(
        f"{server.url}{SPEECH}{path}?output_format={draw.choice(_FORMATS)}",
        json={"text": draw.choice(TEXTS)},
    )
    totals.turns += 1
    if answer.status_code != 200 or not answer.content:
        totals.failures.append(f"HTTP {answer.status_code}")


async def calls(server: ServerProcess, n_calls: int, duration_s: float, totals: Totals) -> None:
    """Make calls for so long, `n_calls` at once."""
    end_s = time.monotonic() + duration_s

    async def worker(seed: int) -> None:
        draw = random.Random(seed)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            while time.monotonic() < end_s:
                if seed % 4 == 3:
                    await rest_call(server, client, draw, totals)
                else:
                    await socket_call(server, draw, totals)

    async with trio.open_nursery() as nursery:
        for seed in range(n_calls):
            nursery.start_soon(worker, seed)


async def soak(
    server: ServerProcess, n_calls: int, duration_s: float
) -> tuple[Totals, list[tuple[float, float]]]:
    """Load a server; return what the calls saw, and the memory in MB by time in s."""
    totals, samples = Totals(), list[tuple[float, float]]()
    begun_s = time.monotonic()

    async def sample() -> None:
        while True:
            samples.append((time.monotonic() - begun_s, server.rss_mb()))
            await trio.sleep(_SAMPLE_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sample)
        await calls(server, n_calls, duration_s, totals)
        nursery.cancel_scope.cancel()
    return totals, samples


def slope_mb_per_min(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a straight line through the samples (least squares)."""
    mean_s = sum(at_s for at_s, _ in samples) / len(samples)
    mean_mb = sum(mb for _, mb in samples) / len(samples)
    spread = sum((at_s - mean_s) ** 2 for at_s, _ in samples)
    together = sum((at_s - mean_s) * (mb - mean_mb) for at_s, mb in samples)
    return 60 * together / spread if spread else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration-s", type=float, default=1200.0)
    parser.add_argument("--calls", type=int, default=4)
    options = parser.parse_args(arguments)
    with server_process("--pool-size", str(options.calls)) as server:
        totals, samples = trio.run(soak, server, options.calls, options.duration_s)
        metrics = server.metrics()
        tracebacks = sum("Traceback" in line for line in server.log)
    quarter = len(samples) // 4
    means = [
        sum(mb for _, mb in samples[start : start + quarter]) / max(1, quarter)
        for start in range(0, 4 * quarter, max(1, quarter))
    ]
    slope = slope_mb_per_min(samples[len(samples) // 2 :])
    gaps_s = sorted(totals.gaps_s)
    print(
        f"{options.duration_s:.0f} s, {options.calls} calls at once: {totals.turns} turns, "
        f"{totals.hang_ups} hang-ups, {len(totals.failures)} failures {totals.failures[:5]}"
    )
    print(
        f"gap between chunks: p50 {1000 * gaps_s[len(gaps_s) // 2]:.0f} ms, "
        f"p99 {1000 * gaps_s[len(gaps_s) * 99 // 100]:.0f} ms"
    )
    print(
        "memory by quarter, MB: "
        + ", ".join(f"{one:.1f}" for one in means)
        + f"; last half {slope:+.2f} MB a minute"
    )
    print(
        f"slots used at the end: {metrics['csm_slots_used']:.0f}, "
        f"sessions: {metrics['csm_sessions']:.0f}; tracebacks in the log: {tracebacks}"
    )
    failed = bool(totals.failures) or tracebacks > 0 or metrics["csm_sessions"] > 0
    return int(failed or means[3] > (1 + _MAX_GROWTH) * means[2])


if __name__ == "__main__":
    sys.exit(main())
