"""What was said lately: found by id or by its text, and forgotten in time."""

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from csm_trio.config import SpeechConfig
from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.request_history import RecordedRequest, RequestHistory


def segment(text: str, frames: int = 10) -> PromptSegment:
    return PromptSegment(0, text, np.zeros((frames, 4), dtype=np.int16))


def record_request(
    history: RequestHistory,
    request_id: str,
    text: str,
    *segments: PromptSegment,
    voice_id: str = "vera",
    client: str = "us",
) -> None:
    request = RecordedRequest.of(request_id, voice_id, text, client=client)
    for segment_ in segments or (segment(text),):
        history.record(request, segment_)


def texts(segments: tuple[PromptSegment, ...]) -> list[str]:
    return [segment_.text for segment_ in segments]


async def test_segments_come_in_the_order_in_which_requests_began() -> None:
    history = RequestHistory(SpeechConfig())
    record_request(history, "a", "One.")
    record_request(history, "b", "Two.")
    assert texts(history.segments_of(["b", "nobody", "a"], "vera")) == ["One.", "Two."]
    assert history.segments_of(["a", "b"], "zoe") == (), "another voice"
    assert history.segments_of(["nobody"], "vera") == ()
    assert history.segments_of([], "vera") == ()


async def test_a_request_in_progress_counts_with_its_segments_so_far() -> None:
    history = RequestHistory(SpeechConfig(history_sentences=2))
    request = RecordedRequest.of("a", "vera", "One. Two. Three.", client="us")
    assert history.segments_of(["a"], "vera") == ()
    for text, expected in (
        ("One.", ["One."]),
        ("Two.", ["One.", "Two."]),
        ("Three.", ["Two.", "Three."]),
    ):
        history.record(request, segment(text))
        assert texts(history.segments_of(["a"], "vera")) == expected


async def test_without_history_sentences_no_request_has_segments() -> None:
    history = RequestHistory(SpeechConfig(history_sentences=0))
    record_request(history, "a", "One.")
    assert (
        history.segments_of(["a"], "vera")
        == history.segments_before("One.", "vera", client="us")
        == ()
    )


@pytest.mark.parametrize(
    "previous_text",
    ["Yes. It is late.", " Yes.\n It is   late. ", "Before that. Yes. It is late.", "It is late."],
)
async def test_a_text_finds_the_request_that_ends_it(previous_text: str) -> None:
    history = RequestHistory(SpeechConfig())
    record_request(history, "a", "Yes. It is late.", segment("Yes."), segment("It is late."))
    assert texts(history.segments_before(previous_text, "vera", client="us")) == ["It is late."]


@pytest.mark.parametrize(
    "previous_text",
    ["", "  ", "Yes.", "It is late. Or not.", "t is late.", "late.", "is late.", "x"],
)
async def test_another_text_finds_nothing(previous_text: str) -> None:
    history = RequestHistory(SpeechConfig())
    record_request(history, "a", "Yes. It is late.")
    assert history.segments_before(previous_text, "vera", client="us") == ()


async def test_a_text_finds_the_latest_request_of_its_own_voice() -> None:
    history = RequestHistory(SpeechConfig())
    for request_id, voice_id in (("a", "vera"), ("b", "vera"), ("c", "zoe")):
        record_request(history, request_id, "Hello to you.", segment(request_id), voice_id=voice_id)
    assert texts(history.segments_before("Hello to you.", "vera", client="us")) == ["b"]
    assert texts(history.segments_before("Hello to you.", "zoe", client="us")) == ["c"]
    assert history.segments_before("Hello to you.", "abe", client="us") == ()


async def test_a_text_finds_no_request_of_another_client() -> None:
    history = RequestHistory(SpeechConfig())
    record_request(history, "a", "Your balance is ten.", client="them")
    assert history.segments_before("Your balance is ten.", "vera", client="us") == ()
    assert history.segments_before("Your balance is ten.", "vera", client="them")


async def test_a_long_text_is_matched_by_its_last_words() -> None:
    history = RequestHistory(SpeechConfig())
    text = " ".join(f"word{number}" for number in range(5_000))
    record_request(history, "a", text)
    assert history.segments_before(text, "vera", client="us")
    assert history.segments_before(f"Other things before. {text}", "vera", client="us")
    assert not history.segments_before(f"{text} more", "vera", client="us")


async def test_the_oldest_requests_are_evicted_over_the_count() -> None:
    history = RequestHistory(SpeechConfig(kept_requests=2))
    for request_id in "abc":
        record_request(history, request_id, request_id)
    assert texts(history.segments_of("abc", "vera")) == ["b", "c"]
    assert not history.segments_before("a", "vera", client="us")


async def test_the_oldest_requests_are_evicted_over_the_bytes() -> None:
    history = RequestHistory(SpeechConfig(kept_bytes=3_000, history_sentences=3))
    record_request(history, "a", "a", segment("a", frames=100))
    record_request(history, "b", "b", segment("b", frames=100), segment("B", frames=100))
    assert texts(history.segments_of("ab", "vera")) == ["a", "b", "B"]
    record_request(history, "c", "c", segment("c", frames=100))
    assert texts(history.segments_of("abc", "vera")) == ["b", "B", "c"]
    record_request(history, "d", "d", segment("d", frames=1_000))
    assert history.segments_of("abcd", "vera") == (), (
        "one that is too large by itself is not kept either"
    )


async def test_old_requests_are_evicted(autojump_clock: MockClock) -> None:
    history = RequestHistory(SpeechConfig(kept_s=60))
    record_request(history, "a", "a")
    await trio.sleep(40)
    record_request(history, "b", "b")
    await trio.sleep(20.5)
    assert texts(history.segments_of("ab", "vera")) == ["b"]
    assert not history.segments_before("a", "vera", client="us")
    await trio.sleep(60)
    assert history.segments_of("ab", "vera") == ()
