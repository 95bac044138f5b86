"""The `multi-stream-input` protocol: named contexts, and how each ends."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.alignment.alignment import Aligned, Alignment
from csm_trio.errors import (
    InvalidMessage,
    InvalidRequest,
    SpeechError,
    TextTooLong,
    TooManyContexts,
)
from csm_trio.protocol.elevenlabs.multi_stream_input import (
    MAX_CONTEXTS,
    NORMAL_END_S,
    MultiStreamInputProtocol,
)
from csm_trio.protocol.elevenlabs.socket_messages_in import CHUNK_LENGTHS
from csm_trio.protocol.events import (
    AddText,
    Audio,
    Authenticate,
    CloseContext,
    CloseSession,
    ContextDone,
    ContextFailed,
    Flush,
    InEvent,
    KeepAlive,
    OpenContext,
    SpeechSettings,
)
from csm_trio.protocol.voice_settings import temperature_scale

ALIVE: list[InEvent] = [KeepAlive()]
VOICE = {"stability": 0.4, "similarity_boost": 0.8}
SCALE = temperature_scale(0.4)


def opened(context_id: str = "a", **settings: Any) -> OpenContext:
    return OpenContext(context_id, SpeechSettings(**settings), CHUNK_LENGTHS)


def text(delta: str, context_id: str = "a", **settings: Any) -> AddText:
    return AddText(context_id, delta, SpeechSettings(**settings))


def receive(*messages: object, auto_mode: bool = False) -> list[list[InEvent]]:
    protocol = MultiStreamInputProtocol(auto_mode=auto_mode)
    return [protocol.receive(json.dumps(message)) for message in messages]


def of_a(**fields: object) -> dict[str, object]:
    return {"context_id": "a", **fields}


# The messages of each client in a turn, from its wire log, and their events.
TURNS: dict[str, list[tuple[dict[str, object], list[InEvent]]]] = {
    "Pipecat, normal end": [
        (of_a(text=" ", voice_settings=VOICE), [opened(temperature_scale=SCALE)]),
        (of_a(text="Hello there."), [text("Hello there.")]),
        (of_a(flush=True), [Flush("a")]),
        (of_a(close_context=True), [CloseContext("a")]),
    ],
    "Pipecat, interrupted while text came": [
        (of_a(text=" "), [opened()]),
        (of_a(text="Hello there."), [text("Hello there.")]),
        (of_a(close_context=True), [CloseContext("a", discard=True)]),
    ],
    "Pipecat, interrupted after its end": [
        (of_a(text=" "), [opened()]),
        (of_a(text="Hello there."), [text("Hello there.")]),
        (of_a(flush=True), [Flush("a")]),
        (of_a(close_context=True), [CloseContext("a")]),
        (of_a(close_context=True), [CloseContext("a", discard=True)]),
    ],
    "LiveKit, normal end": [
        (of_a(text=" ", voice_settings={}, generation_config={}), [opened()]),
        (of_a(text="Hello there. ", flush=True), [text("Hello there. "), Flush("a")]),
        (of_a(text="", flush=True), [Flush("a")]),
        (of_a(close_context=True), [CloseContext("a")]),
    ],
    "text flushed and closed at once": [
        (of_a(text=" "), [opened()]),
        (of_a(text="Hello there. ", flush=True), [text("Hello there. "), Flush("a")]),
        (of_a(close_context=True), [CloseContext("a", unless_heard=True)]),
        (of_a(close_context=True), [CloseContext("a", discard=True)]),
    ],
    "text, flush and close in one": [
        (
            of_a(text="Hello. ", flush=True, close_context=True),
            [opened(), text("Hello. "), Flush("a"), CloseContext("a")],
        ),
        (of_a(close_context=True), [CloseContext("a", discard=True)]),
    ],
    "text and close in one, not flushed": [
        (of_a(text="Hello. "), [opened(), text("Hello. ")]),
        (of_a(text="And", close_context=True), [CloseContext("a", discard=True)]),
    ],
    "the vendor's guide": [
        (of_a(text="Hello there. "), [opened(), text("Hello there. ")]),
        (of_a(flush=True), [Flush("a")]),
        (of_a(text="", close_context=True), [CloseContext("a")]),
    ],
    "flushed and closed in one": [
        (of_a(text="Hi. "), [opened(), text("Hi. ")]),
        (of_a(flush=True, close_context=True), [CloseContext("a")]),
    ],
    "text after the flush": [
        (of_a(text="Hi. "), [opened(), text("Hi. ")]),
        (of_a(flush=True), [Flush("a")]),
        (of_a(text="Wait"), [text("Wait")]),
        (of_a(close_context=True), [CloseContext("a", discard=True)]),
    ],
    "a sign of life between flush and close": [
        (of_a(text="Hi. "), [opened(), text("Hi. ")]),
        (of_a(text=" ", flush=True), [text(" "), Flush("a")]),
        (of_a(text=""), ALIVE),
        (of_a(text=" "), [text(" ")]),
        (of_a(close_context=True), [CloseContext("a")]),
    ],
}


# The flush of a turn, and how long after it the close comes that is still its normal end.
FLUSHES = [of_a(flush=True), of_a(text="", flush=True), of_a(text="More. ", flush=True)]


@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize(
    ("after_s", "discard"), [(0.0, False), (NORMAL_END_S, False), (NORMAL_END_S + 0.01, True)]
)
def test_a_close_some_time_after_the_flush_is_a_barge_in(
    flush: dict[str, object], after_s: float, discard: bool
) -> None:
    protocol = MultiStreamInputProtocol()
    for message in (of_a(text="Hello there. "), flush):
        protocol.receive(json.dumps(message), 100.0)
    (event,) = protocol.receive(json.dumps(of_a(close_context=True)), 100.0 + after_s)
    assert isinstance(event, CloseContext)
    assert event.discard is discard


@pytest.mark.parametrize("auto_mode", [False, True])
@pytest.mark.parametrize("turn", TURNS)
def test_the_events_of_a_recorded_turn(turn: str, auto_mode: bool) -> None:
    messages = [message for message, _ in TURNS[turn]]
    received = receive(*messages, auto_mode=auto_mode)
    if not auto_mode:
        assert received == [events for _, events in TURNS[turn]]
    # A turn ends the same way, however its text was flushed.
    closes = [event for events in received for event in events if isinstance(event, CloseContext)]
    expected = [event for _, events in TURNS[turn] for event in events]
    assert closes == [event for event in expected if isinstance(event, CloseContext)]


FIRST_MESSAGES: list[tuple[object, list[InEvent]]] = [
    (of_a(text=" "), [opened()]),
    ({"text": " ", "contextId": "a"}, [opened()]),
    ({"text": "Hi. "}, [opened(""), text("Hi. ", "")]),
    ({"text": "Hi. ", "context_id": None}, [opened(""), text("Hi. ", "")]),
    ({"text": "Hi. ", "context_id": ""}, [opened(""), text("Hi. ", "")]),
    (of_a(voice_settings=VOICE), [opened(temperature_scale=SCALE)]),
    (of_a(text="Hi. ", temperature=0.5), [opened(temperature=0.5), text("Hi. ")]),
    (
        of_a(text=" ", generation_config={"chunk_length_schedule": [50, 80.0]}),
        [OpenContext("a", chunk_lengths=(50, 80))],
    ),
    (of_a(text=" ", xi_api_key="k"), [Authenticate("k"), opened()]),
    (of_a(text=" ", **{"xi-api-key": "k"}), [Authenticate("k"), opened()]),
    (of_a(text=" ", authorization="Bearer k"), [Authenticate("k"), opened()]),
    # Keep-alives and messages without text: they open no context.
    ({"text": ""}, ALIVE),
    (of_a(text=""), ALIVE),
    (of_a(), ALIVE),
    ({}, ALIVE),
    (of_a(flush=True), ALIVE),
    (of_a(text="", flush=True), ALIVE),
    (of_a(text=None), ALIVE),
    (of_a(surprise=1), ALIVE),
    (of_a(close_context=False), ALIVE),
    # An unknown context: the session has nothing to cancel.
    (of_a(close_context=True), [CloseContext("a", discard=True)]),
    (of_a(flush=True, close_context=True), [CloseContext("a", discard=True)]),
    ({"close_socket": True}, [CloseSession()]),
    (of_a(text="Hi.", close_socket=True), [CloseSession()]),
]


@pytest.mark.parametrize(("message", "events"), FIRST_MESSAGES)
def test_the_events_of_a_first_message(message: object, events: list[InEvent]) -> None:
    assert receive(message) == [events]


def test_empty_text_ends_no_context() -> None:
    received = receive(of_a(text="Hi. "), of_a(text=""), {"text": ""}, of_a(text="You. "))
    assert received[1:] == [ALIVE, ALIVE, [text("You. ")]]


def test_a_context_may_be_reopened_with_other_settings() -> None:
    received = receive(
        of_a(text="Hi. ", voice_settings=VOICE),
        of_a(close_context=True),
        of_a(text="Again. ", voice_settings={"stability": 1}),
    )
    assert received[2] == [opened(temperature_scale=0.5), text("Again. ")]


def test_in_auto_mode_every_message_is_flushed_and_no_schedule_applies() -> None:
    config = {"chunk_length_schedule": [50]}
    received = receive(of_a(text="Hel", generation_config=config), of_a(text="lo"), auto_mode=True)
    assert received == [[OpenContext("a"), text("Hel"), Flush("a")], [text("lo"), Flush("a")]]


def test_five_contexts_may_be_open_and_closing_ones_do_not_count() -> None:
    protocol = MultiStreamInputProtocol()

    def receive_one(**fields: object) -> list[InEvent]:
        return protocol.receive(json.dumps(fields))

    for number in range(MAX_CONTEXTS):
        receive_one(text="Hi. ", context_id=f"{number}")
    receive_one(context_id="0", flush=True)
    receive_one(context_id="0", close_context=True)
    assert receive_one(text=" ", context_id="sixth") == [opened("sixth")]
    with pytest.raises(TooManyContexts) as caught:
        receive_one(text=" ", context_id="0")
    assert caught.value.message == (
        "Maximum simultaneous contexts per WebSocket connection exceeded (5). Please close an "
        "existing context before opening a new one."
    )


@pytest.mark.parametrize("again", [None, {}, VOICE, {**VOICE, "unknown": 1}])
def test_voice_settings_may_be_repeated(again: object) -> None:
    first = of_a(text=" ", voice_settings=VOICE)
    same: dict[str, Any] = {"temperature_scale": SCALE} if again else {}
    assert receive(first, of_a(text="Hi. ", voice_settings=again))[1] == [text("Hi. ", **same)]


@pytest.mark.parametrize("first", [None, {}, VOICE])
def test_voice_settings_may_not_change(first: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        receive(
            of_a(text=" ", voice_settings=first),
            {"text": " ", "context_id": "b", "voice_settings": {"stability": 1}},
            of_a(text="Hi. ", voice_settings={"stability": 0.9}),
        )
    assert caught.value.param == "voice_settings"
    assert caught.value.message == (
        "voice_settings field must be provided in the first message and then either be not "
        "provided or not change."
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("context_id", 5),
        ("contextId", []),
        ("context_id", "x" * 257),
        ("close_context", "yes"),
        ("close_socket", 1),
        ("text", {}),
        ("flush", "true"),
    ],
)
def test_an_error_names_the_wrong_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        receive({field: value})
    assert caught.value.param == field


def test_messages_after_close_socket_are_ignored() -> None:
    protocol = MultiStreamInputProtocol()
    protocol.receive('{"close_socket": true}')
    for late in ('{"text": "more"}', "no json", b"\x00", '{"text": 1}'):
        assert protocol.receive(late) == []


def message_of(event: Any) -> dict[str, Any]:
    sent = json.loads(MultiStreamInputProtocol().send(event))
    assert isinstance(sent, dict)
    return sent


def test_messages_have_the_four_keys_and_both_spellings_of_names() -> None:
    assert message_of(Audio("a", b"\x01\x02")) == {
        "audio": base64.b64encode(b"\x01\x02").decode(),
        "isFinal": False,
        "is_final": False,
        "normalizedAlignment": None,
        "alignment": None,
        "contextId": "a",
        "context_id": "a",
    }
    final = message_of(ContextDone(""))
    assert (final["audio"], final["isFinal"], final["is_final"]) == (None, True, True)
    assert final["contextId"] is final["context_id"] is None
    assert final.keys() >= {"normalizedAlignment", "alignment"}


def test_alignments_count_from_the_last_aligned_chunk_or_from_the_start() -> None:
    written = Alignment(("h", "i", " "), (0, 30, 90), (30, 60, 10))
    spoken = Alignment(("H", "i", " "), (0, 40, 90), (40, 50, 10))
    audio = Audio("a", b"\x01\x02", Aligned(written, spoken, from_ms=240))
    assert message_of(audio)["alignment"] == {
        "chars": ["h", "i", " "],
        "charStartTimesMs": [0, 30, 90],
        "charDurationsMs": [30, 60, 10],
    }
    assert message_of(audio)["normalizedAlignment"]["charStartTimesMs"] == [0, 40, 90]
    synced = json.loads(MultiStreamInputProtocol(sync_alignment=True).send(audio))
    assert synced["alignment"]["charStartTimesMs"] == [240, 270, 330]
    assert synced["normalizedAlignment"]["charDurationsMs"] == [40, 50, 10]


def test_the_end_of_a_sentence_may_come_without_audio() -> None:
    end = Alignment((" ",), (0,), (160,))
    sent = message_of(Audio("a", b"", Aligned(end, end, from_ms=80)))
    assert sent["audio"] == ""
    assert sent["isFinal"] is False


def test_a_failed_context_is_reported_with_its_name() -> None:
    sent = message_of(ContextFailed("a", TextTooLong(50)))
    assert sent == {
        "message": "The text is longer than 50 characters.",
        "error": "max_character_limit_exceeded",
        "code": 1009,
        "param": "text",
        "contextId": "a",
        "context_id": "a",
    }


names = st.sampled_from(["a", "b", "c", "d", "e", "f", "", None])
message_fields = {
    "text": st.sampled_from(["", " ", "Hi. ", "there", None]),
    "flush": st.booleans(),
    "close_context": st.booleans(),
    "context_id": names,
    "voice_settings": st.sampled_from([None, {}, VOICE, {"stability": 1}]),
    "try_trigger_generation": st.booleans(),
    "junk": st.integers() | st.text(),
}
messages = st.lists(st.fixed_dictionaries({}, optional=message_fields), max_size=40)


@given(messages, st.booleans())
def test_any_messages_open_contexts_before_use_and_at_most_five(
    messages: list[dict[str, object]], auto_mode: bool
) -> None:
    protocol = MultiStreamInputProtocol(auto_mode=auto_mode)
    open_ids: set[str] = set()
    for message in messages:
        try:
            events = protocol.receive(json.dumps(message))
        except SpeechError:
            continue
        assert events
        for event in events:
            match event:
                case OpenContext(context_id=context_id):
                    assert context_id not in open_ids
                    open_ids.add(context_id)
                case AddText() | Flush():
                    assert event.context_id in open_ids
                case CloseContext(context_id=context_id, discard=discard):
                    assert discard or context_id in open_ids
                    open_ids.discard(context_id)
        assert len(open_ids) <= MAX_CONTEXTS


@given(st.text() | st.binary())
def test_any_message_is_parsed_or_refused(message: str | bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        assert MultiStreamInputProtocol().receive(message)
