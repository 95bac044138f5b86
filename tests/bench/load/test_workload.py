"""What the calls of a bench will do: the same for the same seed, and as it was asked."""

from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.audio.formats import AudioFormat
from csm_trio.bench.load.workload import (
    SPEECH_S_PER_WORD,
    TEXTS,
    Turn,
    Workload,
    arrival_times_s,
    format_of,
    split_words,
    turns,
)

PCM, ULAW = AudioFormat.parse("pcm_24000"), AudioFormat.parse("ulaw_8000")
WORKLOAD = Workload("ws://127.0.0.1:1", (PCM, ULAW), ramp_s=8.0)


def first_turns(workload: Workload, index: int = 0, *, calls: int = 4) -> list[Turn]:
    return list(islice(turns(workload, calls, index), 200))


@given(st.integers(0, 2**32), st.integers(1, 300))
def test_equal_seeds_make_equal_schedules(seed: int, calls: int) -> None:
    one, other = replace(WORKLOAD, seed=seed), replace(WORKLOAD, seed=seed)
    assert arrival_times_s(one, calls) == arrival_times_s(other, calls)
    assert first_turns(one, calls - 1, calls=calls) == first_turns(other, calls - 1, calls=calls)


def test_seeds_calls_and_numbers_of_calls_all_differ() -> None:
    schedules = [
        first_turns(WORKLOAD),
        first_turns(WORKLOAD, 1),
        first_turns(WORKLOAD, calls=5),
        first_turns(replace(WORKLOAD, seed=2)),
    ]
    assert all(schedules.count(schedule) == 1 for schedule in schedules)


def test_no_setting_changes_the_texts_of_later_turns() -> None:
    calm, rude = replace(WORKLOAD, barge_in=0.0), replace(WORKLOAD, barge_in=1.0, turn_pause_s=9.0)
    assert [turn.text for turn in first_turns(calm)] == [turn.text for turn in first_turns(rude)]


@given(st.integers(1, 300), st.sampled_from(["poisson", "fixed", "together"]))
def test_calls_arrive_in_order_within_the_ramp(calls: int, arrivals: str) -> None:
    workload = replace(WORKLOAD, arrivals=arrivals)  # type: ignore[arg-type]
    times_s = arrival_times_s(workload, calls)
    assert len(times_s) == calls
    assert times_s == sorted(times_s)
    assert 0 <= times_s[0] <= times_s[-1] <= workload.ramp_s


def test_fixed_arrivals_are_even_and_together_is_at_once() -> None:
    assert arrival_times_s(replace(WORKLOAD, arrivals="fixed"), 4) == [0.0, 2.0, 4.0, 6.0]
    assert arrival_times_s(replace(WORKLOAD, arrivals="together"), 3) == [0.0] * 3


def test_interruptions_fall_into_speech_and_are_as_many_as_asked() -> None:
    for share in (0.0, 0.5, 1.0):
        planned = [
            turn
            for index in range(20)
            for turn in first_turns(replace(WORKLOAD, barge_in=share), index)
        ]
        moments = [turn for turn in planned if turn.interrupt_after_s is not None]
        assert len(moments) / len(planned) == pytest.approx(share, abs=0.03)
        for turn in moments:
            assert turn.interrupt_after_s is not None
            assert 0 <= turn.interrupt_after_s <= SPEECH_S_PER_WORD * len(turn.text.split())


def test_pauses_are_exponential_around_their_mean() -> None:
    planned = [turn for index in range(20) for turn in first_turns(WORKLOAD, index)]
    pauses_s = [turn.pause_s for turn in planned]
    assert sum(pauses_s) / len(pauses_s) == pytest.approx(WORKLOAD.turn_pause_s, rel=0.1)
    # Half of an exponential's values lie below its mean times ln 2.
    below = sum(pause_s < 0.693 * WORKLOAD.turn_pause_s for pause_s in pauses_s)
    assert below / len(pauses_s) == pytest.approx(0.5, abs=0.05)
    assert {turn.pause_s for turn in first_turns(replace(WORKLOAD, turn_pause_s=0.0))} == {0.0}


def test_the_formats_take_turns() -> None:
    assert [format_of(WORKLOAD, index) for index in range(4)] == [PCM, ULAW, PCM, ULAW]


def test_our_texts_are_varied_phone_answers() -> None:
    lengths = [len(text.split()) for text in TEXTS]
    assert len(set(TEXTS)) == 30
    assert (min(lengths), max(lengths)) == (2, 31)
    assert all(text.isascii() and text[-1] in ".!?" for text in TEXTS)


# text, deltas, index of the delta that ends the first sentence
SPLITS = [
    ("Hi.", ["Hi."], 0),
    ("Hi there. How are you?", ["Hi ", "there. ", "How ", "are ", "you?"], 1),
    ("Dr. Smith is in. Good.", ["Dr. ", "Smith ", "is ", "in. ", "Good."], 3),
    ('"No!" he said.', ['"No!" ', "he ", "said."], 0),
    ("It is 3.5 volts, yes", ["It ", "is ", "3.5 ", "volts, ", "yes"], 4),
]


@pytest.mark.parametrize(("text", "deltas", "sentence_end"), SPLITS)
def test_words_are_sent_with_the_space_after_them(
    text: str, deltas: list[str], sentence_end: int
) -> None:
    assert split_words(text) == (deltas, sentence_end)


@given(st.text(min_size=1).map(str.strip).filter(bool))
def test_the_deltas_are_the_text(text: str) -> None:
    deltas, sentence_end = split_words(text)
    assert "".join(deltas) == text
    assert 0 <= sentence_end < len(deltas)
