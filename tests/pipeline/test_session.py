"""One socket: everything asked for is said, and every way to end ends everything."""

import json
import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csm_trio.errors import (
    ClientStalled,
    EngineFailed,
    InputTimeout,
    InvalidMessage,
    InvalidRequest,
    TextTooLong,
)
from csm_trio.protocol.events import (
    AddText,
    CloseContext,
    CloseSession,
    InEvent,
    OpenContext,
    OutEvent,
)
from support.fakes import FakeEngine, ScriptedSocket
from support.session_calls import (
    EOS,
    OPENER,
    SessionRun,
    expected_audio,
    joined_audio,
    text_message,
)


async def test_all_text_is_synthesized_before_the_one_final_message(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=0.02))
    await call.run(
        OPENER,
        text_message("Hello the"),
        text_message("re. How are you to"),
        text_message("day?"),
        EOS,
    )
    assert call.texts == ["Hello there.", "How are you today?"]
    assert joined_audio(call.sent) == expected_audio(call.engine.utterances)
    assert [message["isFinal"] for message in call.sent] == [False] * (len(call.sent) - 1) + [True]
    assert call.sent[-1]["audio"] is None
    assert call.metrics.registry.get_sample_value("csm_characters_total") == 31


@pytest.mark.parametrize("messages", [[EOS], [OPENER, EOS], [OPENER, text_message("... "), EOS]])
async def test_a_session_without_text_ends_at_once(
    autojump_clock: MockClock, messages: list[dict[str, object]]
) -> None:
    call = SessionRun()
    start_s = trio.current_time()
    await call.run(*messages)
    assert [message["isFinal"] for message in call.sent] == [True]
    assert trio.current_time() == start_s


async def test_the_first_message_may_carry_text_and_settings(autojump_clock: MockClock) -> None:
    call = SessionRun()
    await call.run(text_message("Hi there. ", speaker_id=4, seed=11), EOS)
    assert [(u.text, u.speaker_id, u.sampling.seed) for u in call.engine.utterances] == [
        ("Hi there.", 4, 11)
    ]


async def test_audio_is_sent_while_text_is_still_received(autojump_clock: MockClock) -> None:
    call = SessionRun()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, OPENER, text_message("One two three. "))
        received = [await call.socket.client_receive() for _ in range(3)]
        assert all(message["isFinal"] is False for message in received)
        call.socket.client_send(text_message("Four."), EOS)
    assert call.texts == ["One two three.", "Four."]


async def test_after_a_hang_up_nothing_is_sent(autojump_clock: MockClock) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=0.1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, OPENER, text_message("FRAMES=90. Then more. "))
        await call.socket.client_receive()
        assert call.engine.open_utterances == 1
        nursery.cancel_scope.cancel()
    assert call.engine.open_utterances == 0
    assert not any(message["isFinal"] for message in call.sent)
    assert call.cancels("hang_up") == 1


@pytest.mark.parametrize("message", ["not json", "[]", "{", b"\x00\x01", '"text"'])
async def test_a_malformed_message_ends_the_session(
    autojump_clock: MockClock, message: str | bytes
) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=0.1))
    with pytest.raises(InvalidMessage):
        await call.run(OPENER, text_message("FRAMES=50. And. "), message)
    kind = "BinaryMessage" if isinstance(message, bytes) else "InvalidMessage"
    assert call.cancels(kind) == 1
    assert call.cancels("hang_up") == 0
    assert not any(message["isFinal"] for message in call.sent)


async def test_an_error_names_the_wrong_field(autojump_clock: MockClock) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await SessionRun().run(OPENER, text_message("Hi.", speaker_id="nobody"))
    assert caught.value.param == "speaker_id"


@pytest.mark.parametrize("timeout_s", [1.0, 20.0, 180.0])
async def test_a_client_that_sends_nothing_for_the_timeout_is_ended(
    autojump_clock: MockClock, timeout_s: float
) -> None:
    call = SessionRun(inactivity_timeout_s=timeout_s)
    start_s = trio.current_time()
    with pytest.raises(InputTimeout) as caught:
        await call.run(OPENER, text_message("Hello. "))
    assert caught.value.timeout_s == timeout_s
    # Counted from the end of what the client plays: two frames.
    assert trio.current_time() - start_s == pytest.approx(timeout_s + 0.16, abs=0.05)
    assert not any(message["isFinal"] for message in call.sent)


async def test_the_inactivity_timeout_holds_before_the_first_message(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun()
    with pytest.raises(InputTimeout):
        await call.run()
    assert call.socket.sent == []


@pytest.mark.parametrize("message", [{}, text_message(" "), {"surprise": 1}, text_message("Word")])
async def test_every_message_restarts_the_inactivity_timeout(
    autojump_clock: MockClock, message: dict[str, object]
) -> None:
    call = SessionRun()
    start_s = trio.current_time()
    with pytest.RaisesGroup(InputTimeout):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.run, OPENER)
            for _ in range(4):
                await trio.sleep(15)
                call.socket.client_send(message)
    assert trio.current_time() - start_s == pytest.approx(4 * 15 + 20)


async def test_speech_that_is_made_or_heard_is_not_inactivity(autojump_clock: MockClock) -> None:
    """Speech whose generation takes over 30 s, for a client that says nothing more."""
    call = SessionRun(FakeEngine(frame_delay_s=0.3))
    start_s = trio.current_time()
    with pytest.raises(InputTimeout):
        await call.run(OPENER, text_message("FRAMES=130 of speech, now. "))
    assert joined_audio(call.sent) == expected_audio(call.engine.utterances)
    frames = len(joined_audio(call.sent)) / 3_840
    assert frames > 100
    assert trio.current_time() - start_s > frames * 0.3 + 20


async def test_a_client_that_has_not_taken_its_audio_is_not_idle(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(socket=ScriptedSocket(capacity=0))
    start_s = trio.current_time()
    taken = 0
    with pytest.RaisesGroup(InputTimeout):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.run, OPENER, text_message("Hello to you. "))
            while len(joined_audio(call.sent)) < 6 * 3_840:
                await trio.sleep(9)
                await call.socket.client_receive()
                await wait_all_tasks_blocked()
                taken += 1
    assert taken > 2
    assert trio.current_time() - start_s == pytest.approx(9 * taken + 20, abs=0.6)


async def test_after_the_end_of_input_no_inactivity_timeout_applies(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=10.0))
    await call.run(OPENER, text_message("This takes its time."), EOS)
    assert joined_audio(call.sent) == expected_audio(call.engine.utterances)
    assert call.sent[-1]["isFinal"] is True


async def test_messages_after_the_end_of_input_are_ignored(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=1.0))
    await call.run(
        OPENER, text_message("Only this."), EOS, text_message("Not this."), "nor this", b"\xff", EOS
    )
    assert call.socket.unread == 0
    assert call.texts == ["Only this."]
    assert [message["isFinal"] for message in call.sent].count(True) == 1


async def test_a_client_that_reads_nothing_does_not_stop_the_ingest_task(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(FakeEngine(), socket=ScriptedSocket(capacity=0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, OPENER, *[text_message("A few words more. ")] * 20)
        await wait_all_tasks_blocked()
        assert call.socket.unread == 0
        assert call.socket.sent == []
        nursery.cancel_scope.cancel()
    assert call.cancels("hang_up") == 1


async def test_a_stalled_client_loses_its_slot_though_its_socket_stays_open(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(FakeEngine(), socket=ScriptedSocket(capacity=0))
    with pytest.RaisesGroup(ClientStalled):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.run, OPENER, text_message("FRAMES=60"), EOS)
            await trio.sleep(60)
            assert call.engine.open_utterances == 0
            await call.socket.client_receive()
    assert call.cancels("stalled") == 1


async def test_one_message_over_the_quota_is_too_long(autojump_clock: MockClock) -> None:
    call = SessionRun(max_pending_chars=50)
    with pytest.raises(TextTooLong) as caught:
        await call.run(OPENER, text_message("x" * 51))
    assert caught.value.limit_chars == 50


@pytest.mark.parametrize("message", [text_message("One two. "), text_message("", flush=True)])
async def test_waiting_text_over_the_quota_is_too_long(
    autojump_clock: MockClock, message: dict[str, object]
) -> None:
    call = SessionRun(FakeEngine(frame_delay_s=math.inf), max_pending_chars=60)
    with pytest.raises(TextTooLong):
        await call.run(OPENER, *[text_message("One. ")] * 7, *[message] * 100)
    assert call.socket.unread > 0


async def test_text_that_is_synthesized_at_once_does_not_count_against_the_quota(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun(max_pending_chars=50)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, OPENER)
        for _ in range(40):
            call.socket.client_send(text_message("Nine little words are said here. "))
            await wait_all_tasks_blocked()
        call.socket.client_send(EOS)
    assert len(call.texts) == 40


async def test_a_key_that_is_not_needed_has_no_effect(autojump_clock: MockClock) -> None:
    call = SessionRun()
    await call.run(text_message(" ", xi_api_key="whatever"), text_message("Fine."), EOS)
    assert call.texts == ["Fine."]


async def test_a_failing_engine_ends_the_session_with_its_error(autojump_clock: MockClock) -> None:
    error = EngineFailed()
    call = SessionRun(FakeEngine(errors={"breaks": error}))
    with pytest.raises(EngineFailed) as caught:
        await call.run(OPENER, text_message("This works. This breaks. "))
    assert caught.value is error
    assert expected_audio(call.engine.utterances[:1]).startswith(joined_audio(call.sent))
    assert not any(message["isFinal"] for message in call.sent)


class TwoVoicesProtocol:
    """Events of several contexts by the plainest JSON: `["a", "text"]`; null text closes.

    A true third item discards; `[]` ends the session. Contexts open with their first text.
    """

    contexts_fail_alone = False

    def __init__(self) -> None:
        self._known: set[str] = set()

    def receive(self, message: str | bytes, now_s: float = 0.0) -> list[InEvent]:
        match json.loads(message):
            case []:
                return [CloseSession()]
            case [str(name), None, *discard]:
                return [CloseContext(name, discard=any(discard))]
            case [str(name), str(text)]:
                opening = [] if name in self._known else [OpenContext(name)]
                self._known.add(name)
                return [*opening, AddText(name, text)]
            case other:
                raise AssertionError(other)

    def send(self, event: OutEvent) -> str:
        return json.dumps({"context": event.context_id, "kind": type(event).__name__})


def two_voices(engine: FakeEngine, *, capacity: float = math.inf) -> SessionRun:
    return SessionRun(
        engine, socket=ScriptedSocket(capacity=capacity), protocol=TwoVoicesProtocol()
    )


async def test_contexts_are_synthesized_concurrently_and_end_separately(
    autojump_clock: MockClock,
) -> None:
    call = two_voices(FakeEngine(frame_delay_s=0.1))
    await call.run('["a", "FRAMES=30"]', '["b", "FRAMES=3"]', "[]")
    done = [message["context"] for message in call.sent if message["kind"] == "ContextDone"]
    assert done == ["b", "a"]
    assert [message["context"] for message in call.sent].count("a") == 31


async def test_a_discarded_context_is_silent_and_the_other_continues(
    autojump_clock: MockClock,
) -> None:
    call = two_voices(FakeEngine(frame_delay_s=0.1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run, '["a", "FRAMES=50. "]', '["b", "FRAMES=50. "]')
        await trio.sleep(1.05)
        spoken_before = len(call.sent)
        call.socket.client_send('["a", null, true]')
        await wait_all_tasks_blocked()
        assert call.engine.open_utterances == 1
        call.socket.client_send("[]")
    of_a = [message for message in call.sent[spoken_before:] if message["context"] == "a"]
    assert of_a == [{"context": "a", "kind": "ContextDone"}]
    assert call.sent[-1] == {"context": "b", "kind": "ContextDone"}
    assert call.cancels("closed") == 1
    assert call.cancels("hang_up") == 0


async def test_a_context_opened_and_discarded_in_one_message_sends_only_its_end(
    autojump_clock: MockClock,
) -> None:
    call = two_voices(FakeEngine())
    await call.run('["a", "Hello. "]', '["a", null, true]', "[]")
    assert call.sent == [{"context": "a", "kind": "ContextDone"}]
    assert call.cancels("closed") == 1


async def test_text_for_a_closed_context_is_ignored(autojump_clock: MockClock) -> None:
    call = two_voices(FakeEngine())
    await call.run('["a", "Hello. "]', '["a", null]', '["a", "Too late. "]', "[]")
    assert call.texts == ["Hello."]


async def test_one_contexts_failure_ends_the_session_while_another_is_synthesized(
    autojump_clock: MockClock,
) -> None:
    """The other's blocked hand-over breaks with the writer; that must not be what comes out."""
    error = EngineFailed()
    call = two_voices(FakeEngine(errors={"breaks": error}), capacity=0)
    with pytest.RaisesGroup(EngineFailed):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.run, '["a", "FRAMES=50. "]', '["b", "This breaks. "]')
            await wait_all_tasks_blocked()
            while True:
                await call.socket.client_receive()
                await wait_all_tasks_blocked()
    assert call.engine.open_utterances == 0


async def test_a_socket_that_breaks_while_sending_ends_the_session(
    autojump_clock: MockClock,
) -> None:
    call = SessionRun()

    async def broken(message: str) -> None:
        await wait_all_tasks_blocked()
        raise ConnectionResetError

    call.socket.send = broken  # type: ignore[method-assign]
    with pytest.RaisesGroup(ConnectionResetError, allow_unwrapped=True, flatten_subgroups=True):
        await call.run(OPENER, text_message("Is anybody there? "))
    assert call.engine.open_utterances == 0
