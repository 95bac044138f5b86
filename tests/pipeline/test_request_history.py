"""What was said lately: found by id or by its text, and forgotten in time."""

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from csm_trio.config import SpeechConfig
from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.request_history import RequestHistory


def turn(text: str, frames: int = 10) -> PromptSegment:
    return PromptSegment(0, text, np.zeros((frames, 4), dtype=np.int16))


def say(
    recent: RequestHistory,
    request_id: str,
    text: str,
    *turns: PromptSegment,
    voice_id: str = "vera",
    client: str = "us",
) -> None:
    record = recent.recorder(request_id, voice_id, text, client=client)
    for one in turns or (turn(text),):
        record(one)


def texts(turns: tuple[PromptSegment, ...]) -> list[str]:
    return [one.text for one in turns]


async def test_segments_come_in_the_order_in_which_requests_began() -> None:
    recent = RequestHistory(SpeechConfig())
    say(recent, "a", "One.")
    say(recent, "b", "Two.")
    assert texts(recent.segments_of(["b", "nobody", "a"], "vera")) == ["One.", "Two."]
    assert recent.segments_of(["a", "b"], "zoe") == (), "another voice"
    assert recent.segments_of(["nobody"], "vera") == ()
    assert recent.segments_of([], "vera") == ()


async def test_a_request_in_progress_counts_with_its_segments_so_far() -> None:
    recent = RequestHistory(SpeechConfig(history_sentences=2))
    record = recent.recorder("a", "vera", "One. Two. Three.", client="us")
    assert recent.segments_of(["a"], "vera") == ()
    for text, heard in (
        ("One.", ["One."]),
        ("Two.", ["One.", "Two."]),
        ("Three.", ["Two.", "Three."]),
    ):
        record(turn(text))
        assert texts(recent.segments_of(["a"], "vera")) == heard


async def test_without_history_sentences_no_request_has_segments() -> None:
    recent = RequestHistory(SpeechConfig(history_sentences=0))
    say(recent, "a", "One.")
    assert (
        recent.segments_of(["a"], "vera")
        == recent.segments_before("One.", "vera", client="us")
        == ()
    )


@pytest.mark.parametrize(
    "previous_text",
    ["Yes. It is late.", " Yes.\n It is   late. ", "Before that. Yes. It is late.", "It is late."],
)
async def test_a_text_finds_the_request_that_ends_it(previous_text: str) -> None:
    recent = RequestHistory(SpeechConfig())
    say(recent, "a", "Yes. It is late.", turn("Yes."), turn("It is late."))
    assert texts(recent.segments_before(previous_text, "vera", client="us")) == ["It is late."]


@pytest.mark.parametrize(
    "previous_text",
    ["", "  ", "Yes.", "It is late. Or not.", "t is late.", "late.", "is late.", "x"],
)
async def test_another_text_finds_nothing(previous_text: str) -> None:
    recent = RequestHistory(SpeechConfig())
    say(recent, "a", "Yes. It is late.")
    assert recent.segments_before(previous_text, "vera", client="us") == ()


async def test_a_text_finds_the_latest_request_of_its_own_voice() -> None:
    recent = RequestHistory(SpeechConfig())
    for request_id, voice_id in (("a", "vera"), ("b", "vera"), ("c", "zoe")):
        say(recent, request_id, "Hello to you.", turn(request_id), voice_id=voice_id)
    assert texts(recent.segments_before("Hello to you.", "vera", client="us")) == ["b"]
    assert texts(recent.segments_before("Hello to you.", "zoe", client="us")) == ["c"]
    assert recent.segments_before("Hello to you.", "abe", client="us") == ()


async def test_a_text_finds_no_request_of_another_client() -> None:
    recent = RequestHistory(SpeechConfig())
    say(recent, "a", "Your balance is ten.", client="them")
    assert recent.segments_before("Your balance is ten.", "vera", client="us") == ()
    assert recent.segments_before("Your balance is ten.", "vera", client="them")


async def test_a_long_text_is_known_by_its_last_words() -> None:
    recent = RequestHistory(SpeechConfig())
    text = " ".join(f"word{number}" for number in range(5_000))
    say(recent, "a", text)
    assert recent.segments_before(text, "vera", client="us")
    assert recent.segments_before(f"Other things before. {text}", "vera", client="us")
    assert not recent.segments_before(f"{text} more", "vera", client="us")


async def test_the_oldest_are_forgotten_beyond_the_count() -> None:
    recent = RequestHistory(SpeechConfig(kept_requests=2))
    for request_id in "abc":
        say(recent, request_id, request_id)
    assert texts(recent.segments_of("abc", "vera")) == ["b", "c"]
    assert not recent.segments_before("a", "vera", client="us")


async def test_the_oldest_are_forgotten_beyond_the_bytes() -> None:
    recent = RequestHistory(SpeechConfig(kept_bytes=3_000, history_sentences=3))
    say(recent, "a", "a", turn("a", frames=100))
    say(recent, "b", "b", turn("b", frames=100), turn("B", frames=100))
    assert texts(recent.segments_of("ab", "vera")) == ["a", "b", "B"]
    say(recent, "c", "c", turn("c", frames=100))
    assert texts(recent.segments_of("abc", "vera")) == ["b", "B", "c"]
    say(recent, "d", "d", turn("d", frames=1_000))
    assert recent.segments_of("abcd", "vera") == (), (
        "one that is too large by itself is not kept either"
    )


async def test_what_is_old_is_forgotten(autojump_clock: MockClock) -> None:
    recent = RequestHistory(SpeechConfig(kept_s=60))
    say(recent, "a", "a")
    await trio.sleep(40)
    say(recent, "b", "b")
    await trio.sleep(20.5)
    assert texts(recent.segments_of("ab", "vera")) == ["b"]
    assert not recent.segments_before("a", "vera", client="us")
    await trio.sleep(60)
    assert recent.segments_of("ab", "vera") == ()
