"""Open-loop load: requests that arrive at random at a given rate, however slow the server is.

Each request is a whole call: a new connection, its text, its audio into a player. Fills a
`ClientShare` with raw records; computes no figures and prints nothing.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import trio

from csm_trio.bench.load.audible import AudibleStart
from csm_trio.bench.load.call import Recorder, RunningTurn, TurnRecord
from csm_trio.bench.load.point import TAIL_S, Point, measure_client
from csm_trio.bench.load.workload import Workload, format_of, request_times_s, request_turn
from csm_trio.client import SpeechTarget
from csm_trio.process_tuning import raise_descriptor_limit

_OTHER_DESCRIPTORS = 64
"""File descriptors that a client process needs beside its connections."""


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """One trial: a rate of requests and a seed, for a measured time after a warm-up.

    The requests are dealt out to `clients` processes in turn. Equal plans make equal requests at
    equal times, for any number of clients.
    """

    workload: Workload
    rate_hz: float
    seed: int
    warm_up_s: float
    duration_s: float
    clients: int = 1


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """The outcome and timing of one request; its moments are in s from the measured time's start.

    `arrival_s` is the moment that the plan names, negative in the warm-up; `began_s` the moment
    the client began to connect. `ended_s`: all audio had arrived, or the request failed or was
    cut; `plays_until_s`: the player had played it. The three `..._s` after them are counted from
    the moment the first text was sent, which is after the connection's set-up;
    `audible_from_arrival_s` counts from `arrival_s`. They are None for what did not come.
    """

    turn: TurnRecord
    arrival_s: float
    began_s: float
    ended_s: float
    plays_until_s: float
    audible_s: float | None
    last_audio_s: float | None
    leading_silence_s: float | None
    audible_from_arrival_s: float | None


@dataclass(slots=True)
class ClientShare:
    """The requests of one client process, and that process's own health; `Point` has the terms.

    `dropped` requests of the measured time were not made: the process had no file descriptor for
    them. `overdue` is true if counted requests outlasted the tail.
    """

    requests: list[RequestRecord] = field(default_factory=list)
    audio_s: float = 0.0
    gap_ticks: Counter[int] = field(default_factory=Counter)
    lag_ticks: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    busy: float = 0.0
    dropped: int = 0
    overdue: bool = False


async def run_share(
    plan: TrialPlan, share: ClientShare, start_s: float, *, client: int = 0
) -> None:
    """Make the requests of client `client`, the warm-up's first one from `start_s` on.

    Requests go on arriving until all that arrived in the measured time have ended, or are
    overdue. May be cancelled; `share` keeps the records so far.
    """
    running = _RunningShare(plan, share, start_s, client)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.arrive, nursery)
            await trio.sleep_until(running.from_s)
            await measure_client(running.point)
            if running.pending:
                with trio.move_on_after(TAIL_S) as tail_scope:
                    await running.drained.wait()
                share.overdue = tail_scope.cancelled_caught
            nursery.cancel_scope.cancel()
    finally:
        point = running.point
        share.audio_s, share.gap_ticks = point.recorder.audio_s, point.recorder.gap_ticks
        share.lag_ticks, share.seconds, share.busy = point.lag_ticks, point.seconds, point.busy


class _RunningShare:
    """The running requests of one client process."""

    def __init__(self, plan: TrialPlan, share: ClientShare, start_s: float, client: int) -> None:
        self.from_s = start_s + plan.warm_up_s
        self.until_s = self.from_s + plan.duration_s
        self.point = Point(0, Recorder(self.from_s, self.until_s))
        self.pending = 0
        self.drained = trio.Event()
        self._plan = plan
        self._share = share
        self._start_s = start_s
        self._client = client
        self._max_in_flight = raise_descriptor_limit() - _OTHER_DESCRIPTORS
        self._in_flight = 0

    async def arrive(self, nursery: trio.Nursery) -> None:
        """Start every request at its time, whatever has become of those before it."""
        for index, offset_s in self._arrivals():
            arrival_s = self._start_s + offset_s
            await trio.sleep_until(arrival_s)
            counted = self.from_s <= arrival_s < self.until_s
            if self._in_flight >= self._max_in_flight:
                self._share.dropped += counted
                continue
            self._in_flight += 1
            self.pending += counted
            nursery.start_soon(self._request, index, arrival_s, counted)

    def _arrivals(self) -> Iterator[tuple[int, float]]:
        times_s = enumerate(request_times_s(self._plan.rate_hz, self._plan.seed))
        return islice(times_s, self._client, None, self._plan.clients)

    async def _request(self, index: int, arrival_s: float, counted: bool) -> None:
        plan, workload = self._plan, self._plan.workload
        audio_format = format_of(workload, index)
        running = RunningTurn(
            SpeechTarget(
                workload.base_url, workload.voice_id, audio_format, api_key=workload.api_key
            ),
            request_turn(workload, plan.rate_hz, plan.seed, index),
            workload.words_per_s,
            self.point.recorder,
            audible=AudibleStart(audio_format),
        )
        try:
            await running.receive()
        finally:
            now_s = trio.current_time()
            self._in_flight -= 1
            self.pending -= counted
            self._share.requests.append(self._record(running, arrival_s, now_s))
            if not self.pending and now_s >= self.until_s:
                self.drained.set()

    def _record(self, running: RunningTurn, arrival_s: float, now_s: float) -> RequestRecord:
        times = running.times()
        ended_s = now_s if times.ended_s is None else times.ended_s
        plays_until_s = ended_s if times.plays_until_s is None else times.plays_until_s
        return RequestRecord(
            turn=running.record(),
            arrival_s=arrival_s - self.from_s,
            began_s=times.began_s - self.from_s,
            ended_s=ended_s - self.from_s,
            plays_until_s=plays_until_s - self.from_s,
            audible_s=_since(times.text_s, times.audible_at_s),
            last_audio_s=_since(times.text_s, times.last_audio_s),
            leading_silence_s=times.leading_silence_s,
            audible_from_arrival_s=_since(arrival_s, times.audible_at_s),
        )


def _since(from_s: float | None, to_s: float | None) -> float | None:
    return None if from_s is None or to_s is None else to_s - from_s
