"""Open-loop arrivals in virtual time: when requests come, and what a server that misses looks like.

The self-check of the bench: a server that is paced to be slow, to stall or to be silent is
reported as just that, and does not slow the arrivals.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice, takewhile

import numpy as np
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from csm_trio.audio.formats import AudioFormat
from csm_trio.bench.load.open_loop import ClientShare, TrialPlan, run_share
from csm_trio.bench.load.rate_report import RateFigures, TrialFigures, rate_table, sum_up_trial
from csm_trio.bench.load.trial import Trial, clients_for, run_trial
from csm_trio.bench.load.workload import Workload, request_times_s, request_turn
from support.scripted_server import FINAL, all_text, spoken
from support.virtual_server import virtual_server

PCM = AudioFormat.parse("pcm_24000")
TONE = (8_000 * np.sin(2 * np.pi * 440 / 24_000 * np.arange(24_000))).astype(np.int16)
SECOND = TONE.tobytes()
SILENCE = bytes(len(SECOND))

RATE_HZ, WARM_UP_S, MEASURED_S = 4.0, 5.0, 30.0

Send = Callable[[WebSocketConnection], Awaitable[None]]


def paced(*steps: tuple[float, bytes]) -> Send:
    """Return a script that answers a text with chunks, each after a wait in s."""

    async def script(socket: WebSocketConnection) -> None:
        await all_text(socket)
        for wait_s, chunk in steps:
            await trio.sleep(wait_s)
            await socket.send_message(spoken(chunk))
        await socket.send_message(FINAL)
        await socket.get_message()

    return script


def plan_for(url: str, *, seed: int = 1, clients: int = 1) -> TrialPlan:
    workload = Workload(url, (PCM,), words_per_s=0.0)
    return TrialPlan(workload, RATE_HZ, seed, WARM_UP_S, MEASURED_S, clients)


async def measure(
    script: Send, monkeypatch: pytest.MonkeyPatch, *, connect_s: float = 0.0
) -> tuple[Trial, TrialFigures]:
    """Run one trial against a script, in virtual time."""
    async with virtual_server(script, monkeypatch, connect_s=connect_s) as url:
        trial = Trial(plan_for(url))
        await run_trial(trial)
    return trial, sum_up_trial(trial)


def planned_arrivals() -> list[float]:
    end_s = WARM_UP_S + MEASURED_S
    return list(takewhile(lambda at_s: at_s < end_s, request_times_s(RATE_HZ, 1)))


async def test_a_server_that_keeps_up_has_no_underrun(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, figures = await measure(paced((0.05, SECOND), (0.5, SECOND), (0.5, SECOND)), monkeypatch)
    expected = sum(at_s >= WARM_UP_S for at_s in planned_arrivals())
    assert (figures.requests, figures.completed) == (expected, expected)
    assert (figures.refused, figures.failed, figures.unfinished, figures.dropped) == (0, 0, 0, 0)
    assert (figures.underrun_share, figures.c100, figures.inaudible) == (0.0, 1.0, 0)
    for spread in (figures.audible_ms, figures.audible_from_arrival_ms):
        assert spread.p50 == pytest.approx(50, abs=1)
        assert spread.p99 == pytest.approx(50, abs=1)
    assert figures.last_audio_ms.p99 == pytest.approx(1_050)
    assert figures.seconds == pytest.approx(MEASURED_S)
    assert figures.arrived_hz == pytest.approx(expected / MEASURED_S)
    # The requests of the warm-up end in the measured time, and the last ones after it.
    assert figures.audio_s_per_s == pytest.approx(3 * figures.arrived_hz, rel=0.1)
    assert len(trial.shares[0].requests) > expected


async def test_a_slow_first_audio_is_reported_as_slow_as_it_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = await measure(paced((0.4, SECOND)), monkeypatch)
    assert figures.audible_ms.p50 == pytest.approx(400, abs=1)
    assert figures.audible_ms.p99 == pytest.approx(400, abs=1)
    assert figures.underrun_share == 0


async def test_late_frames_are_underruns_of_every_request(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = await measure(paced((0.1, SECOND), (1.05, SECOND), (1.5, SECOND)), monkeypatch)
    assert figures.underrun_share == 1.0
    # The first is 50 ms, the second 500: C100 forgives the first only.
    assert figures.worst_underrun_ms.p50 == pytest.approx(500)
    assert figures.c100 == 0.0


async def test_an_underrun_of_ten_milliseconds_is_one(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = await measure(paced((0.1, SECOND), (1.01, SECOND)), monkeypatch)
    assert (figures.underrun_share, figures.c100) == (1.0, 1.0)


async def test_silence_before_the_speech_counts_as_waiting(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = await measure(paced((0.1, SILENCE), (1.5, SECOND)), monkeypatch)
    # 0.1 s to the first audio, 1 s of silence, 0.5 s of underrun.
    assert figures.audible_ms.p50 == pytest.approx(1_600, abs=1)
    assert figures.leading_silence_ms.p50 == pytest.approx(1_000, abs=1)
    assert figures.underrun_share == 1.0


async def test_audio_without_an_audible_sample_is_counted(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = await measure(paced((0.1, SILENCE)), monkeypatch)
    assert figures.inaudible == figures.requests > 0
    assert figures.audible_ms.count == 0
    assert "requests had no audible sample" in rate_table([RateFigures((figures,))])


async def test_the_set_up_of_the_connection_is_in_one_figure_and_not_in_the_other(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = await measure(paced((0.1, SECOND)), monkeypatch, connect_s=0.25)
    assert figures.audible_ms.p95 == pytest.approx(100, abs=1)
    assert figures.audible_from_arrival_ms.p95 == pytest.approx(350, abs=1)
    assert figures.connect_ms.p95 == pytest.approx(250)


async def test_a_server_that_stands_still_does_not_slow_the_arrivals(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stand_still(socket: WebSocketConnection) -> None:
        await all_text(socket)
        await trio.sleep_forever()

    trial, figures = await measure(stand_still, monkeypatch)
    (share,) = trial.shares
    arrivals = sorted(one.arrival_s + WARM_UP_S for one in share.requests)
    assert arrivals[: len(planned_arrivals())] == pytest.approx(planned_arrivals())
    assert all(one.began_s == pytest.approx(one.arrival_s) for one in share.requests)
    assert share.overdue
    assert figures.unfinished == figures.requests > 0
    assert figures.in_flight_peak == len(planned_arrivals())
    assert (figures.audible_ms.count, figures.underrun_share) == (0, None)
    assert "requests did not end in time" in rate_table([RateFigures((figures,))])


async def test_a_server_that_serves_one_at_a_time_builds_a_queue_that_is_seen(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = trio.Lock()

    async def one_by_one(socket: WebSocketConnection) -> None:
        await all_text(socket)
        async with line:
            await trio.sleep(0.5)  # two a second, and four arrive
        await socket.send_message(spoken(SECOND))
        await socket.send_message(FINAL)
        await socket.get_message()

    _, figures = await measure(one_by_one, monkeypatch)
    assert figures.audible_ms.p50 is not None
    assert figures.audible_ms.p95 is not None
    assert 5_000 < figures.audible_ms.p50 < figures.audible_ms.p95
    assert figures.in_flight_peak > 20


async def test_requests_that_play_are_more_than_those_that_wait_for_audio(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, figures = await measure(paced((0.1, 10 * SECOND)), monkeypatch)
    # Four a second: ten seconds of audio each, all of it there after a tenth.
    assert 25 < figures.playing_peak < 70
    assert 1 <= figures.in_flight_peak < 6


async def test_failed_requests_are_counted_beside_their_kind(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave(socket: WebSocketConnection) -> None:
        await socket.get_message()

    _, figures = await measure(leave, monkeypatch)
    assert figures.failed == figures.requests > 0
    assert (figures.refused, figures.errors) == (0, {"closed early": figures.requests})
    assert figures.c100 == 0.0


def test_the_same_seed_makes_the_same_requests_and_another_seed_others() -> None:
    workload = Workload("ws://h", (PCM,))
    first = list(islice(request_times_s(8.0, 1), 100))
    assert first == list(islice(request_times_s(8.0, 1), 100)) == sorted(first)
    assert first != list(islice(request_times_s(8.0, 2), 100))
    texts = [request_turn(workload, 8.0, 1, index).text for index in range(50)]
    assert texts == [request_turn(workload, 8.0, 1, index).text for index in range(50)]
    assert texts != [request_turn(workload, 8.0, 2, index).text for index in range(50)]
    assert len(set(texts)) > 10


@pytest.mark.parametrize("rate_hz", [0.5, 8.0, 40.0])
def test_arrivals_are_a_poisson_process_of_the_rate(rate_hz: float) -> None:
    times_s = np.array(list(islice(request_times_s(rate_hz, 5), 20_000)))
    gaps_s = np.diff(times_s)
    assert gaps_s.mean() == pytest.approx(1 / rate_hz, rel=0.03)
    # Of an exponential, mean and standard deviation are equal.
    assert gaps_s.std() == pytest.approx(1 / rate_hz, rel=0.05)


async def test_clients_share_the_requests_and_miss_none(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [ClientShare() for _ in range(3)]
    async with (
        virtual_server(paced((0.1, SECOND)), monkeypatch) as url,
        trio.open_nursery() as nursery,
    ):
        plan, start_s = plan_for(url, clients=3), trio.current_time()
        for client, share in enumerate(shares):
            nursery.start_soon(partial(run_share, plan, share, start_s, client=client))
    arrivals = sorted(
        one.arrival_s + WARM_UP_S
        for share in shares
        for one in share.requests
        if one.arrival_s < MEASURED_S
    )
    assert arrivals == pytest.approx(planned_arrivals())
    figures = sum_up_trial(Trial(plan_for(url, clients=3), shares))
    assert figures.requests == sum(at_s >= WARM_UP_S for at_s in planned_arrivals())
    assert figures.audio_s_per_s == pytest.approx(figures.arrived_hz, rel=0.1)


# requests a second, most client processes, client processes
CLIENTS = [(1.0, 8, 1), (20.0, 8, 1), (20.5, 8, 2), (100.0, 8, 5), (1_000.0, 8, 8), (100.0, 1, 1)]


@pytest.mark.parametrize(("rate_hz", "most", "clients"), CLIENTS)
def test_more_requests_take_more_client_processes(rate_hz: float, most: int, clients: int) -> None:
    assert clients_for(rate_hz, most) == clients
