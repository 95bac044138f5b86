"""What was said lately: found by id or by its text, and forgotten in time."""

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from csm_trio.config import SpeechConfig
from csm_trio.model.prompt import Turn
from csm_trio.pipeline.recent import RecentSpeech


def turn(text: str, speaker_id: int = 0, frames: int = 10) -> Turn:
    return Turn(speaker_id, text, np.zeros((frames, 4), dtype=np.int16))


def say(recent: RecentSpeech, request_id: str, text: str, *turns: Turn) -> None:
    record = recent.recorder(request_id, text)
    for one in turns or (turn(text),):
        record(one)


def texts(turns: tuple[Turn, ...]) -> list[str]:
    return [one.text for one in turns]


async def test_requests_are_heard_in_the_order_in_which_they_began() -> None:
    recent = RecentSpeech(SpeechConfig())
    say(recent, "a", "One.")
    say(recent, "b", "Two.")
    assert texts(recent.turns_of(["b", "nobody", "a"], 0)) == ["One.", "Two."]
    assert recent.turns_of(["a", "b"], 1) == (), "another speaker"
    assert recent.turns_of(["nobody"], 0) == ()
    assert recent.turns_of([], 0) == ()


async def test_a_request_that_still_speaks_is_heard_so_far() -> None:
    recent = RecentSpeech(SpeechConfig(history_turns=2))
    record = recent.recorder("a", "One. Two. Three.")
    assert recent.turns_of(["a"], 0) == ()
    for text, heard in (
        ("One.", ["One."]),
        ("Two.", ["One.", "Two."]),
        ("Three.", ["Two.", "Three."]),
    ):
        record(turn(text))
        assert texts(recent.turns_of(["a"], 0)) == heard


async def test_where_no_sentence_hears_another_no_request_does() -> None:
    recent = RecentSpeech(SpeechConfig(history_turns=0))
    say(recent, "a", "One.")
    assert recent.turns_of(["a"], 0) == recent.turns_before("One.", 0) == ()


@pytest.mark.parametrize(
    "previous_text",
    ["Yes. It is late.", " Yes.\n It is   late. ", "Before that. Yes. It is late.", "is late."],
)
async def test_a_text_finds_the_request_that_ends_it(previous_text: str) -> None:
    recent = RecentSpeech(SpeechConfig())
    say(recent, "a", "Yes. It is late.", turn("Yes."), turn("It is late."))
    assert texts(recent.turns_before(previous_text, 0)) == ["It is late."]


@pytest.mark.parametrize("previous_text", ["", "  ", "Yes.", "It is late. Or not.", "s late.", "x"])
async def test_another_text_finds_nothing(previous_text: str) -> None:
    recent = RecentSpeech(SpeechConfig())
    say(recent, "a", "Yes. It is late.")
    assert recent.turns_before(previous_text, 0) == ()


async def test_a_text_finds_the_latest_request_of_its_own_speaker() -> None:
    recent = RecentSpeech(SpeechConfig())
    for request_id, speaker_id in (("a", 0), ("b", 0), ("c", 1)):
        say(recent, request_id, "Hello.", turn(request_id, speaker_id))
    assert texts(recent.turns_before("Hello.", 0)) == ["b"]
    assert texts(recent.turns_before("Hello.", 1)) == ["c"]
    assert recent.turns_before("Hello.", 2) == ()


async def test_a_long_text_is_known_by_its_last_words() -> None:
    recent = RecentSpeech(SpeechConfig())
    text = " ".join(f"word{number}" for number in range(5_000))
    say(recent, "a", text)
    assert recent.turns_before(text, 0)
    assert recent.turns_before(f"Other things before. {text}", 0)
    assert not recent.turns_before(f"{text} more", 0)


async def test_the_oldest_are_forgotten_beyond_the_count() -> None:
    recent = RecentSpeech(SpeechConfig(kept_requests=2))
    for request_id in "abc":
        say(recent, request_id, request_id)
    assert texts(recent.turns_of("abc", 0)) == ["b", "c"]
    assert not recent.turns_before("a", 0)


async def test_the_oldest_are_forgotten_beyond_the_bytes() -> None:
    recent = RecentSpeech(SpeechConfig(kept_bytes=3_000, history_turns=3))
    say(recent, "a", "a", turn("a", frames=100))
    say(recent, "b", "b", turn("b", frames=100), turn("B", frames=100))
    assert texts(recent.turns_of("ab", 0)) == ["a", "b", "B"]
    say(recent, "c", "c", turn("c", frames=100))
    assert texts(recent.turns_of("abc", 0)) == ["b", "B", "c"]
    say(recent, "d", "d", turn("d", frames=1_000))
    assert recent.turns_of("abcd", 0) == (), "one that is too large by itself is not kept either"


async def test_what_is_old_is_forgotten(autojump_clock: MockClock) -> None:
    recent = RecentSpeech(SpeechConfig(kept_s=60))
    say(recent, "a", "a")
    await trio.sleep(40)
    say(recent, "b", "b")
    await trio.sleep(20.5)
    assert texts(recent.turns_of("ab", 0)) == ["b"]
    assert not recent.turns_before("a", 0)
    await trio.sleep(60)
    assert recent.turns_of("ab", 0) == ()
