"""Contexts that are cut, cleared, reused or fail: which messages are sent, and in which order."""

from collections import Counter
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from csm_trio.errors import EngineFailed, SpeechError, TextTooLong, TooManyContexts
from csm_trio.pipeline.session import MAX_CLOSING_CONTEXTS
from csm_trio.protocol.elevenlabs.multi_stream_input import MultiStreamInputProtocol
from csm_trio.protocol.elevenlabs.stream_input import StreamInputProtocol
from csm_trio.text.normalization.normalize import normalize
from support.fakes import FakeEngine, ScriptedSocket
from support.session_calls import (
    EOS,
    OPENER,
    SessionRun,
    expected_audio,
    joined_audio,
    text_message,
)

FRAME_S = 0.1
LONG = "FRAMES=50. "
CLEAR: dict[str, object] = {"clear": True}
END: dict[str, object] = {"close_socket": True}


def of(context_id: str, **fields: object) -> dict[str, object]:
    return {"context_id": context_id, **fields}


def text(context_id: str, words: str) -> dict[str, object]:
    return of(context_id, text=words)


def flush(context_id: str) -> dict[str, object]:
    return of(context_id, flush=True)


def close(context_id: str) -> dict[str, object]:
    return of(context_id, close_context=True)


def multi(engine: FakeEngine | None = None, **options: Any) -> SessionRun:
    return SessionRun(
        engine or FakeEngine(frame_delay_s=FRAME_S), protocol=MultiStreamInputProtocol(), **options
    )


def finals(call: SessionRun) -> list[object]:
    return [message["contextId"] for message in call.sent if message.get("isFinal")]


async def test_after_a_clear_no_old_audio_is_sent_and_new_text_is_synthesized(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=FRAME_S))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, OPENER, text_message(f"{LONG}And more. "))
        await trio.sleep(1.05)
        call.socket.client_send(CLEAR, text_message("New words. "))
        await wait_all_tasks_blocked()
        assert [utterance.text for utterance in call.engine.utterances[1:]] == ["New words."]
        call.socket.client_send(EOS)
    at = next(i for i, message in enumerate(call.sent) if message.get("cleared"))
    old, new = call.engine.utterances
    assert expected_audio([old]).startswith(joined_audio(call.sent[:at]))
    assert joined_audio(call.sent[at:]) == expected_audio([new])
    assert call.sent[at]["audio"] is None
    assert call.sent[at]["isFinal"] is False
    assert [message["isFinal"] for message in call.sent].count(True) == 1
    assert call.cancels("cleared") == 1


@pytest.mark.parametrize("clears", [1, 3])
async def test_every_clear_is_answered_though_there_is_nothing_to_clear(
    autojump_clock: MockClock, clears: int
) -> None:
    call = SessionRun()
    await call.run(*[CLEAR] * clears, EOS)
    assert [bool(message.get("cleared")) for message in call.sent] == [True] * clears + [False]
    assert call.sent[-1]["isFinal"] is True


async def test_a_clear_after_the_end_of_input_cancels_and_reports_the_end(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=FRAME_S))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, OPENER, text_message(LONG), EOS)
        await trio.sleep(1.05)
        call.socket.client_send(CLEAR, CLEAR, text_message("Too late."))
    assert trio.current_time() < 2
    assert [bool(message.get("cleared")) for message in call.sent[-2:]] == [True, False]
    assert [message["isFinal"] for message in call.sent[-2:]] == [False, True]
    assert len(call.texts) == 1


async def test_a_clear_discards_text_that_was_not_yet_segmented(autojump_clock: MockClock) -> None:
    call = SessionRun()
    await call.run(
        OPENER, text_message("Half a sentence"), CLEAR, text_message("A whole one."), EOS
    )
    assert call.texts == ["A whole one."]


async def test_an_interrupted_context_is_silent_at_once_and_ends_once(
    autojump_clock: MockClock,
) -> None:
    call = multi()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, text("a", LONG), text("b", LONG))
        await trio.sleep(1.05)
        received = len(call.sent)
        call.socket.client_send(close("a"), close("a"), text("a", "Again."))
        await wait_all_tasks_blocked()
        assert call.sent[received]["contextId"] == "a"
        assert call.sent[received]["isFinal"] is True
        assert call.engine.open_utterances == 1
        call.socket.client_send(flush("a"), close("a"), END)
    assert finals(call) == ["a", "a", "b"]
    of_a = [message for message in call.sent[received + 1 :] if message["contextId"] == "a"]
    assert joined_audio(of_a) == expected_audio(call.engine.utterances[2:])
    assert call.cancels("closed") == 1


async def test_a_flushed_context_is_synthesized_to_its_end_and_a_second_close_stops_it(
    autojump_clock: MockClock,
) -> None:
    for again in (False, True):
        call = multi()
        start_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.run, text("a", LONG), flush("a"), close("a"))
            await trio.sleep(1.05)
            call.socket.client_send(*([close("a")] if again else []), END)
        assert finals(call) == ["a"]
        assert trio.current_time() - start_s == pytest.approx(1.05 if again else 5.1, abs=0.1)
        assert (joined_audio(call.sent) == expected_audio(call.engine.utterances)) is not again


async def test_a_reused_id_waits_until_all_audio_of_the_old_context_was_sent(
    autojump_clock: MockClock,
) -> None:
    call = multi()
    await call.run(
        *(text("a", LONG), flush("a"), close("a")),
        *(text("a", "Short."), flush("a"), close("a")),
        text("a", "Shorter."),
        END,
    )
    assert finals(call) == ["a", "a", "a"]
    assert joined_audio(call.sent) == expected_audio(call.engine.utterances)
    assert call.texts == [normalize(LONG).text, "Short.", "Shorter."]


async def test_interrupting_a_reused_id_stops_every_context_of_that_id(
    autojump_clock: MockClock,
) -> None:
    call = multi()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            call.run, text("a", LONG), flush("a"), close("a"), text("a", "Not this. ")
        )
        await trio.sleep(1.05)
        received = len(call.sent)
        call.socket.client_send(close("a"))
        await wait_all_tasks_blocked()
        assert [message["isFinal"] for message in call.sent[received:]] == [True, True]
        call.socket.client_send(END)
    assert finals(call) == ["a", "a"]
    assert call.texts == [normalize(LONG).text]


async def test_close_socket_synthesizes_the_remaining_text_of_every_context(
    autojump_clock: MockClock,
) -> None:
    call = multi()
    await call.run(text("a", "One two"), text("b", "Three"), {"text": "Four"}, END)
    assert sorted(call.texts) == ["Four", "One two", "Three"]
    assert Counter(finals(call)) == Counter(["a", "b", None])


async def test_a_context_over_its_quota_fails_alone(autojump_clock: MockClock) -> None:
    call = multi(max_pending_chars=60)
    await call.run(
        text("b", "I go on. "), text("a", "x" * 61), text("a", "Unheard. "), close("a"), END
    )
    told = [message for message in call.sent if message["contextId"] == "a"]
    assert [message.get("error") for message in told] == ["max_character_limit_exceeded", None]
    assert told[1]["isFinal"] is True
    assert call.texts == ["I go on."]
    assert finals(call) == ["a", "b"]


async def test_a_context_whose_text_the_engine_rejects_fails_alone(
    autojump_clock: MockClock,
) -> None:
    engine = FakeEngine(frame_delay_s=FRAME_S, errors={"unspeakable": TextTooLong(9)})
    call = multi(engine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, text("b", LONG), text("a", "This is unspeakable. "))
        await trio.sleep(1)
        assert finals(call) == ["a"]
        call.socket.client_send(
            text("a", "Nor is this heard. "), close("a"), text("a", "But this."), END
        )
    assert [message["code"] for message in call.sent if message.get("error")] == [1009]
    assert finals(call) == ["a", "a", "b"]
    assert call.texts[2:] == ["But this."]


async def test_an_engine_failure_ends_the_whole_session(autojump_clock: MockClock) -> None:
    call = multi(FakeEngine(frame_delay_s=FRAME_S, errors={"breaks": EngineFailed()}))
    with pytest.raises(EngineFailed):
        await call.run(text("b", LONG), text("a", "This breaks. "))
    assert finals(call) == []


async def test_a_client_that_opens_and_closes_contexts_without_reading_is_limited(
    autojump_clock: MockClock,
) -> None:
    call = multi(socket=ScriptedSocket(capacity=0))
    tasks = 0

    async def count() -> None:
        nonlocal tasks
        while True:
            tasks = max(tasks, trio.lowlevel.current_statistics().tasks_living)
            await trio.lowlevel.checkpoint()

    messages = [one for i in range(10_000) for one in (text(f"{i}", "Hi. "), close(f"{i}"))]
    with pytest.RaisesGroup(TooManyContexts):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await call.run(*messages)
    assert call.socket.unread > 19_000
    assert tasks < 10 * MAX_CLOSING_CONTEXTS


context_ids = st.sampled_from(["a", "b", "c", "d", "e", "f", ""])
words = st.sampled_from(["", " ", "Hi. ", "One two", "FRAMES=9. ", "unspeakable. ", "x" * 70])
multi_messages = st.one_of(
    st.fixed_dictionaries(
        {"context_id": context_ids, "text": words},
        optional={"flush": st.booleans(), "close_context": st.booleans()},
    ),
    st.builds(flush, context_ids),
    st.builds(close, context_ids),
    st.builds(close, context_ids),
    st.just({"text": 5}),
)
single_messages = st.one_of(
    st.fixed_dictionaries(
        {"text": words}, optional={"flush": st.booleans(), "clear": st.booleans()}
    ),
    st.just(CLEAR),
    st.just({"clear": 5}),
)
pauses = st.sampled_from([0.0, 0.0, 0.0, FRAME_S / 2, 1.0])
UNSPEAKABLE: dict[str, SpeechError] = {"unspeakable": TextTooLong(9)}


def converse(
    script: list[tuple[dict[str, object], float]], call: SessionRun, last: dict[str, object]
) -> SpeechError | None:
    """Say all of it, pausing where the script does; return what ended the session early."""

    async def talk() -> None:
        for message, pause_s in script:
            call.socket.client_send(message)
            await trio.sleep(pause_s)
        call.socket.client_send(last)

    async def main() -> SpeechError | None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            try:
                await call.run()
            except SpeechError as error:
                return error
        return None

    return trio.run(main, clock=MockClock(autojump_threshold=0))


@settings(deadline=None)
@given(st.lists(st.tuples(multi_messages, pauses), max_size=25))
def test_with_any_messages_every_context_ends_once_and_is_silent_after(
    script: list[tuple[dict[str, object], float]],
) -> None:
    engine = FakeEngine(frame_delay_s=FRAME_S / 3, errors=UNSPEAKABLE)
    call = SessionRun(engine, protocol=MultiStreamInputProtocol())
    error = converse(script, call, END)
    assert engine.open_utterances == 0
    opened = Counter(spec.context_id or None for spec in call.specs)
    ended = Counter(finals(call))
    assert ended <= opened
    if error is None:
        assert ended == opened
        # One under an id after the other: what follows the last end is nothing.
        for context_id in opened:
            about = [one for one in call.sent if one["contextId"] == context_id]
            assert about[-1]["isFinal"] is True


@settings(deadline=None)
@given(st.lists(st.tuples(single_messages, pauses), max_size=25))
def test_with_any_messages_there_is_one_end_and_it_is_the_last_message(
    script: list[tuple[dict[str, object], float]],
) -> None:
    engine = FakeEngine(frame_delay_s=FRAME_S / 3, errors=UNSPEAKABLE)
    call = SessionRun(engine, protocol=StreamInputProtocol())
    error = converse(script, call, EOS)
    assert engine.open_utterances == 0
    finished = [message["isFinal"] for message in call.sent]
    assert finished.count(True) == (error is None)
    assert error is not None or finished[-1]
