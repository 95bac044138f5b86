"""The listener's player: when it falls silent, for how long, and whose fault it is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.bench.load.call import Player

# arrivals as (seconds, seconds of audio), worst underrun, all underruns
LISTENERS = [
    ([(0.0, 1.0)], 0.0, 0.0),
    ([(5.0, 1.0), (5.5, 1.0), (7.0, 1.0)], 0.0, 0.0),
    ([(0.0, 1.0), (1.25, 1.0)], 0.25, 0.25),
    ([(0.0, 1.0), (1.25, 1.0), (2.75, 1.0)], 0.5, 0.75),
    # The buffer that is ahead again makes up for nothing that was heard.
    ([(0.0, 0.5), (2.0, 9.0), (2.0, 9.0)], 1.5, 1.5),
    ([(0.0, 0.0), (1.0, 1.0)], 1.0, 1.0),
]


@pytest.mark.parametrize(("arrivals", "worst_s", "total_s"), LISTENERS)
def test_an_underrun_is_the_time_the_buffer_was_empty_before_more_came(
    arrivals: list[tuple[float, float]], worst_s: float, total_s: float
) -> None:
    player = played(arrivals)
    assert (player.worst_underrun_s, player.underrun_s) == (worst_s, total_s)


def played(arrivals: list[tuple[float, float]], *, text_sent_s: float = math.inf) -> Player:
    player = Player()
    for now_s, audio_s in arrivals:
        player.feed(audio_s, now_s, text_sent_s=text_sent_s)
    return player


gaps = st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 10)), min_size=1, max_size=50)


def timeline(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    now_s, arrivals = 0.0, []
    for gap_s, audio_s in steps:
        now_s += gap_s
        arrivals.append((now_s, audio_s))
    return arrivals


@given(gaps)
def test_it_plays_as_long_as_the_audio_and_the_underruns(steps: list[tuple[float, float]]) -> None:
    player = played(timeline(steps))
    assert player.first_at_s == steps[0][0]
    assert player.audio_s == pytest.approx(sum(audio_s for _, audio_s in steps))
    assert player.ends_at_s - steps[0][0] == pytest.approx(player.audio_s + player.underrun_s)
    assert 0 <= player.worst_underrun_s <= player.underrun_s
    assert player.underrun_s <= player.worst_underrun_s * len(steps)


@given(gaps)
def test_audio_that_arrives_at_once_never_underruns(steps: list[tuple[float, float]]) -> None:
    player = played([(3.0, audio_s) for _, audio_s in steps])
    assert (player.worst_underrun_s, player.underrun_s) == (0.0, 0.0)


@given(gaps, st.floats(0.01, 100))
def test_a_server_that_keeps_pace_never_runs_out(
    steps: list[tuple[float, float]], start_s: float
) -> None:
    now_s, arrivals = start_s, []
    for _, audio_s in steps:
        arrivals.append((now_s, audio_s))
        now_s += audio_s
    assert played(arrivals).worst_underrun_s == pytest.approx(0.0, abs=1e-9)


@given(gaps, st.floats(0, 100))
def test_only_what_is_silent_after_the_last_text_is_the_servers(
    steps: list[tuple[float, float]], text_sent_s: float
) -> None:
    player = played(timeline(steps), text_sent_s=text_sent_s)
    assert 0 <= player.worst_underrun_after_text_s <= player.worst_underrun_s
    assert played(timeline(steps)).worst_underrun_after_text_s == 0
    whole = played(timeline(steps), text_sent_s=-math.inf)
    assert whole.worst_underrun_after_text_s == whole.worst_underrun_s


def test_an_underrun_under_way_at_the_last_text_counts_from_there() -> None:
    player = played([(0.0, 1.0), (4.0, 1.0)], text_sent_s=3.5)
    assert (player.worst_underrun_s, player.worst_underrun_after_text_s) == (3.0, 0.5)
