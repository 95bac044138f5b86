"""Figures: exact percentiles, what C100 means, and the two forms they are shown in."""

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.bench.load.call import Outcome, Recorder, TurnRecord
from csm_trio.bench.load.point import Point
from csm_trio.bench.load.report import (
    Cancels,
    Spread,
    cancels_of,
    percentile,
    points_json,
    spread,
    spread_of_ticks,
    sum_up,
    table,
)

values = st.floats(0, 1e6)
shares = st.floats(0.01, 1)


# values, share, percentile
RANKS = [
    ([7.0], 0.5, 7.0),
    ([1.0, 2.0], 0.5, 1.0),
    ([1.0, 2.0], 0.51, 2.0),
    ([1.0, 2.0, 3.0, 4.0], 0.95, 4.0),
    ([float(n) for n in range(1, 101)], 0.99, 99.0),
    ([float(n) for n in range(1, 1001)], 0.999, 999.0),
]


@pytest.mark.parametrize(("ordered", "share", "expected"), RANKS)
def test_a_percentile_is_the_nearest_rank(
    ordered: list[float], share: float, expected: float
) -> None:
    assert percentile(ordered, share) == expected


@given(st.lists(values, min_size=1), shares)
def test_a_percentile_is_the_smallest_value_that_reaches_its_share(
    numbers: list[float], share: float
) -> None:
    ordered = sorted(numbers)
    found = percentile(ordered, share)
    assert found in numbers
    assert sum(number <= found for number in numbers) >= share * len(numbers) - 1e-9
    assert sum(number < found for number in numbers) < share * len(numbers) + 1e-9


@given(st.lists(values, min_size=1))
def test_a_spread_rises(numbers: list[float]) -> None:
    summed = spread(numbers)
    assert summed.count == len(numbers)
    assert summed.max == max(numbers)
    assert summed.p50 is not None
    assert summed.p95 is not None
    assert summed.p99 is not None
    assert summed.p50 <= summed.p95 <= summed.p99 <= summed.max


@given(st.lists(st.integers(0, 5_000), min_size=1))
def test_counted_ticks_sum_up_as_their_values_do(ticks: list[int]) -> None:
    assert spread_of_ticks(Counter(ticks)) == spread(tick * 1000 / 10_000 for tick in ticks)


def test_nothing_has_no_spread() -> None:
    nothing = Spread(0, None, None, None, None)
    assert spread([]) == spread_of_ticks(Counter()) == nothing


# buckets, count, p50, p99
HISTOGRAMS: list[tuple[dict[float, float], Cancels]] = [
    ({0.08: 99, math.inf: 1}, Cancels(100, 80.0, 80.0)),
    ({0.08: 98, 0.5: 0, math.inf: 2}, Cancels(100, 80.0, None)),
    ({0.005: 0, 0.02: 3, 0.08: 1, math.inf: 0}, Cancels(4, 20.0, 80.0)),
    ({0.08: 0, math.inf: 0}, Cancels(0, None, None)),
]


@pytest.mark.parametrize(("buckets", "expected"), HISTOGRAMS)
def test_a_histogram_gives_upper_bounds(buckets: dict[float, float], expected: Cancels) -> None:
    assert cancels_of(buckets) == expected


def record(
    outcome: Outcome = "completed",
    *,
    first_audio_s: float | None = 0.1,
    underrun_s: float = 0.0,
    after_text_s: float = 0.0,
    error: str | None = None,
    hung_up: bool = False,
) -> TurnRecord:
    return TurnRecord(
        outcome=outcome,
        error=error,
        connect_s=None if error else 0.002,
        first_audio_s=first_audio_s,
        audio_s=2.0,
        real_time_factor=None if first_audio_s is None else 0.5,
        worst_underrun_s=underrun_s,
        worst_underrun_after_text_s=after_text_s,
        underrun_s=underrun_s,
        hung_up=hung_up,
    )


def point(*records: TurnRecord, calls: int = 4) -> Point:
    recorder = Recorder(10.0, 20.0, turns=list(records), audio_s=25.0)
    recorder.gap_ticks.update([800] * 99 + [2_500])
    return Point(calls, recorder, lag_ticks=Counter({1: 100}), seconds=10.0, busy=0.25)


REFUSED = "The server is at capacity. (HTTP status 503)"
BUSY_POINT = point(
    record(first_audio_s=0.1),
    record(first_audio_s=0.2, underrun_s=0.1),
    record(first_audio_s=0.3, underrun_s=0.101),
    record("interrupted", first_audio_s=0.4, underrun_s=0.9, after_text_s=0.05, hung_up=True),
    record("interrupted", first_audio_s=0.5),
    record("failed", first_audio_s=None, error=REFUSED),
    record("failed", first_audio_s=None, error=REFUSED),
    record("failed", error="The server sent nothing for 60 seconds."),
    record("unfinished", first_audio_s=None),
    record("unfinished", first_audio_s=0.6),
)


def test_a_point_is_summed_up() -> None:
    BUSY_POINT.cancels = {0.08: 1, math.inf: 0}
    figures = sum_up(BUSY_POINT)
    assert (figures.turns, figures.completed, figures.interrupted, figures.hung_up) == (10, 3, 2, 1)
    assert (figures.failed, figures.unfinished) == (3, 2)
    assert figures.errors == {"refused 503": 2, "timeout": 1}
    assert figures.error_examples["refused 503"] == REFUSED
    assert figures.first_audio_ms == Spread(7, 300.0, 600.0, 600.0, 600.0)
    assert figures.chunk_gap_ms == Spread(100, 80.0, 80.0, 80.0, 250.0)
    assert figures.worst_underrun_ms.max == pytest.approx(900)
    assert figures.streams == 2.5
    assert figures.connect_ms.count == 7
    # Interrupted and cut turns end too early to tell a turn's own speed.
    assert figures.real_time_factor.count == 3
    assert figures.cancel_to_free == Cancels(1, 80.0, 80.0)
    assert not figures.saturated


def test_c100_counts_turns_without_a_long_underrun_and_no_failed_one() -> None:
    figures = sum_up(BUSY_POINT)
    assert figures.c100 == 3 / 10  # one whole, one of exactly 100 ms, one interrupted
    assert figures.c100_after_text == 5 / 10


def test_a_point_without_turns_has_figures_all_the_same() -> None:
    figures = sum_up(Point(8))
    assert (figures.turns, figures.c100, figures.streams, figures.busy) == (0, None, 0.0, 0.0)
    assert "C100, %" in table([figures])


# lag in ticks, busy, saturated
CLIENTS = [(200, 0.5, False), (201, 0.5, True), (1, 0.91, True)]


@pytest.mark.parametrize(("lag_ticks", "busy", "saturated"), CLIENTS)
def test_a_saturated_client_is_reported(lag_ticks: int, busy: float, saturated: bool) -> None:
    slow = point(record())
    slow.lag_ticks, slow.busy = Counter({lag_ticks: 100}), busy
    figures = sum_up(slow)
    assert figures.saturated == saturated
    assert ("SATURATED" in table([figures])) == saturated


def test_the_table_has_a_column_for_every_point_and_its_errors_below() -> None:
    BUSY_POINT.cancels = {0.08: 1, math.inf: 0}
    text = table([sum_up(point(record(), calls=1)), sum_up(BUSY_POINT)])
    rows = dict(line.strip().split("  ", 1) for line in text.splitlines() if "  " in line)
    assert rows["calls"].split() == ["1", "4"]
    assert rows["first audio p50, ms"].split() == ["100", "300"]
    assert rows["C100, %"].split() == ["100.0", "30.0"]
    assert rows["cancel to free p99, ms at most"].split() == ["-", "80"]
    assert f"4 calls: 2 refused 503: {REFUSED}" in text
    assert "4 calls: 2 turns did not end in time" in text
    lines = text.splitlines()[:20]
    assert len({len(line) for line in lines}) == 1
    assert table([]) == "nothing was measured"


def test_the_json_is_json_and_keeps_every_figure() -> None:
    BUSY_POINT.cancels = {0.08: 0, math.inf: 1}
    (read,) = json.loads(json.dumps(points_json([sum_up(BUSY_POINT)]), allow_nan=False))
    assert read["first_audio_ms"]["p99"] == pytest.approx(600)
    assert read["cancel_to_free"] == {
        "count": 1,
        "p50_ms_at_most": None,
        "p99_ms_at_most": None,
    }
    assert set(read["first_audio_ms"]) == {"count", "p50", "p95", "p99", "max"}
    assert {"c100", "streams", "errors", "loop_lag_ms", "busy", "saturated"} <= set(read)


def test_a_servers_long_words_are_cut() -> None:
    long_winded = point(record("failed", error="x" * 10_000))
    assert len(sum_up(long_winded).error_examples["server error"]) == 200
