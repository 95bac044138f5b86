"""Figures of open-loop trials: what counts, medians of the seeds, a client that is the limit."""

import json
import pickle
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.audio.formats import AudioFormat
from csm_trio.bench.load.call import Outcome, TurnRecord
from csm_trio.bench.load.open_loop import ClientShare, RequestRecord, TrialPlan
from csm_trio.bench.load.plot import rate_svg
from csm_trio.bench.load.rate_report import (
    RateFigures,
    TrialFigures,
    peak,
    rate_table,
    rates_json,
    sum_up_trial,
)
from csm_trio.bench.load.trial import Trial
from csm_trio.bench.load.workload import Workload

PLAN = TrialPlan(Workload("ws://h", (AudioFormat.parse("pcm_24000"),)), 8.0, 1, 30.0, 60.0)
REFUSED = "The server is at capacity. (HTTP status 503)"


def request(
    arrival_s: float = 1.0,
    outcome: Outcome = "completed",
    *,
    audible_s: float | None = 0.05,
    underrun_s: float = 0.0,
    error: str | None = None,
    lag_s: float = 0.0,
) -> RequestRecord:
    heard = error is None and outcome == "completed"
    turn = TurnRecord(
        outcome=outcome,
        error=error,
        connect_s=None if error else 0.002,
        first_audio_s=0.04 if heard else None,
        audio_s=2.0 if heard else 0.0,
        real_time_factor=0.5 if heard else None,
        worst_underrun_s=underrun_s,
        worst_underrun_after_text_s=underrun_s,
        underrun_s=underrun_s,
        hung_up=False,
    )
    return RequestRecord(
        turn=turn,
        arrival_s=arrival_s,
        began_s=arrival_s + lag_s,
        ended_s=arrival_s + 1,
        plays_until_s=arrival_s + 3,
        audible_s=audible_s if heard else None,
        last_audio_s=1.0 if heard else None,
        leading_silence_s=0.01 if heard else None,
        audible_from_arrival_s=None if audible_s is None or not heard else audible_s + 0.002,
    )


def share(*requests: RequestRecord, busy: float = 0.1, lag_ticks: int = 1) -> ClientShare:
    return ClientShare(
        list(requests), audio_s=120.0, lag_ticks=Counter({lag_ticks: 100}), seconds=60.0, busy=busy
    )


def figures_of(*shares: ClientShare, seed: int = 1) -> TrialFigures:
    plan = replace(PLAN, seed=seed, clients=len(shares))
    return sum_up_trial(Trial(plan, list(shares)))


def test_requests_count_that_arrived_in_the_measured_time() -> None:
    figures = figures_of(share(request(-0.1), request(0.0), request(59.9), request(60.0)))
    assert (figures.requests, figures.completed) == (2, 2)
    assert figures.arrived_hz == pytest.approx(2 / 60)


def test_refused_failed_and_unfinished_requests_are_counted_apart() -> None:
    one = share(
        request(error=REFUSED, outcome="failed"),
        request(error=REFUSED, outcome="failed"),
        request(error="The server closed the connection before the last audio.", outcome="failed"),
        request(outcome="unfinished"),
        request(),
    )
    # A request that the bench itself cut is not a failure.
    assert figures_of(one).unfinished == 0
    one.overdue = True
    figures = figures_of(one)
    assert (figures.requests, figures.completed) == (5, 1)
    assert (figures.refused, figures.failed, figures.unfinished) == (2, 1, 1)
    assert figures.errors == {"refused 503": 2, "closed early": 1}
    assert figures.c100 == 0.2
    assert figures.underrun_share == 0.0
    text = rate_table([RateFigures((figures,))])
    assert f"8 a second: 2 refused 503: {REFUSED}" in text
    assert "8 a second: 1 requests did not end in time" in text


def test_the_share_of_underruns_is_of_requests_with_audio() -> None:
    figures = figures_of(
        share(
            request(underrun_s=0.001),
            request(underrun_s=1e-12),
            request(),
            request(),
            request(error=REFUSED, outcome="failed"),
        )
    )
    assert figures.underrun_share == 0.25


def test_the_shares_of_all_clients_are_one_trial() -> None:
    figures = figures_of(share(request(1.0)), share(request(1.5), busy=0.5))
    assert (figures.clients, figures.requests, figures.audio_s_per_s) == (2, 2, 4.0)
    # Peaks are of both together: 1.0 to 2.0 and 1.5 to 2.5.
    assert (figures.in_flight_peak, figures.playing_peak) == (2, 2)
    assert figures.busiest_client == 0.5
    assert not figures.saturated


# busy shares of a core, lags in ticks of 0.1 ms, dropped requests, whether a client is the limit
CLIENTS = [
    ((0.5, 0.5), (10, 10), 0, False),
    ((0.5, 0.95), (10, 10), 0, True),
    ((0.5, 0.5), (10, 250), 0, True),
    ((0.5, 0.5), (10, 10), 1, True),
]


@pytest.mark.parametrize(("busy", "lags", "dropped", "limit"), CLIENTS)
def test_it_says_when_a_client_was_the_limit(
    busy: tuple[float, float], lags: tuple[int, int], dropped: int, limit: bool
) -> None:
    shares = [
        share(request(), busy=share_of_core, lag_ticks=lag)
        for share_of_core, lag in zip(busy, lags, strict=True)
    ]
    shares[0].dropped = dropped
    figures = figures_of(*shares)
    assert (figures.saturated, figures.dropped) == (limit, dropped)
    text = rate_table([RateFigures((figures,))])
    assert ("8 a second: THE CLIENT WAS THE LIMIT" in text) == limit
    assert ("--clients 4" in text) == limit


def test_the_clients_own_lateness_is_shown() -> None:
    assert figures_of(share(request(lag_s=0.007))).start_lag_ms.p99 == pytest.approx(7)


THREE = RateFigures(
    tuple(
        figures_of(share(*[request(audible_s=value_s)] * 3), seed=seed)
        for seed, value_s in ((1, 0.09), (2, 0.03), (3, 0.05))
    )
)


def test_the_headline_is_the_median_of_the_seeds() -> None:
    text = rate_table([THREE])
    rows = dict(line.strip().split("  ", 1) for line in text.splitlines() if "  " in line)
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["audible first audio p95, ms"] == "50.0"
    assert rows["least and most of the seeds"] == "30.0..90.0"
    assert rows["requests, all seeds"] == "9"
    assert rows["requests with an underrun, %"] == "0.00"
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_json_has_the_medians_and_every_trial() -> None:
    (read,) = json.loads(json.dumps(rates_json([THREE]), allow_nan=False))
    assert read["rate_hz"] == 8.0
    assert read["medians"]["audible_p95_ms"] == pytest.approx(50)
    assert read["medians"]["requests"] == 9
    assert [trial["seed"] for trial in read["trials"]] == [1, 2, 3]
    assert {"underrun_share", "saturated", "start_lag_ms", "errors"} <= set(read["trials"][0])


def test_a_trial_without_requests_has_figures_all_the_same() -> None:
    empty = figures_of(ClientShare())
    assert (empty.requests, empty.underrun_share, empty.c100) == (0, None, None)
    rates = [RateFigures((empty,))]
    assert "audible first audio p95, ms" in rate_table(rates)
    json.dumps(rates_json(rates), allow_nan=False)
    ElementTree.fromstring(rate_svg(rates, title="Nothing"))
    assert rate_table([]) == "nothing was measured"


def test_the_picture_has_every_rate() -> None:
    slow = replace(THREE.trials[0], rate_hz=0.5)
    picture = ElementTree.fromstring(rate_svg([THREE, RateFigures((slow,))], title="Rates"))
    names = [
        (circle.findtext("{http://www.w3.org/2000/svg}title") or "").rpartition(":")[0]
        for circle in picture.iter("{http://www.w3.org/2000/svg}circle")
    ]
    assert Counter(names) == {
        "audible first audio p50 (ms)": 2,
        "audible first audio p95 (ms)": 2,
        "no underrun (%)": 2,
    }
    words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0.5", "8", "requests a second"} <= set(words)


# intervals, end of the time, most at once
PEAKS: list[tuple[list[tuple[float, float]], int]] = [
    ([], 0),
    ([(-5, -1), (11, 12)], 0),
    ([(-5, 1), (0.5, 2)], 2),
    ([(1, 2), (2, 3)], 1),
    ([(-1, 20), (-1, 20), (9.9, 20), (10, 20)], 3),
    ([(-3, 0.5), (-2, -1)], 1),
]


@pytest.mark.parametrize(("intervals", "most"), PEAKS)
def test_a_peak_is_the_most_at_once_in_the_time(
    intervals: list[tuple[float, float]], most: int
) -> None:
    assert peak(intervals, 10.0) == most


@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(0.01, 5)), max_size=30))
def test_a_peak_is_reached_at_some_begin(spans: list[tuple[float, float]]) -> None:
    intervals = [(begin, begin + length) for begin, length in spans]
    moments = [0.0, *(begin for begin, _ in intervals if 0 <= begin < 10)]
    at_once = (sum(begin <= at < end for begin, end in intervals) for at in moments)
    assert peak(intervals, 10.0) == max(at_once)


def test_a_share_travels_between_processes() -> None:
    one = share(request(), request(error=REFUSED, outcome="failed"))
    assert pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(PLAN)) == PLAN
