"""The text-to-dialogue protocol: voices by name, turns in order, snake_case messages."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.alignment.alignment import Aligned, Alignment
from csm_trio.errors import InvalidRequest, SpeechError, TextTooLong, TooManyContexts, UnknownVoice
from csm_trio.protocol.elevenlabs.dialogue_socket import DialogueProtocol
from csm_trio.protocol.elevenlabs.multi_stream_input import MAX_CONTEXTS
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
    OutEvent,
    SpeechSettings,
    TurnDone,
)

SPEAKERS = {"ann": 3, "bob": 7}
ALIVE: list[InEvent] = [KeepAlive()]


def speaker_of(voice_id: str) -> int:
    if voice_id not in SPEAKERS:
        raise UnknownVoice(voice_id)
    return SPEAKERS[voice_id]


def receive(*messages: object, named: bool = True) -> list[list[InEvent]]:
    protocol = DialogueProtocol(speaker_of, named_contexts=named)
    return [protocol.receive(json.dumps(message)) for message in messages]


def of_a(**fields: object) -> dict[str, object]:
    return {"context_id": "a", **fields}


def dialogue_input(text: str, voice_id: str, **fields: object) -> dict[str, object]:
    return {"text": text, "voice_id": voice_id, **fields}


def settings_of(voice_id: str) -> SpeechSettings:
    return SpeechSettings(speaker_id=SPEAKERS[voice_id], voice_id=voice_id)


def opened(context_id: str, voice_id: str, **settings: Any) -> OpenContext:
    return OpenContext(context_id, replace(settings_of(voice_id), **settings))


def text_of(context_id: str, text: str, voice_id: str) -> AddText:
    return AddText(context_id, text, settings_of(voice_id))


def test_two_voices_take_turns_on_the_plain_socket() -> None:
    assert receive(
        {"voices": ["ann", "bob"], "voice_settings": {"stability": 1}},
        {"inputs": [dialogue_input("Hello. ", "ann"), dialogue_input("Hi. ", "bob")]},
        {"inputs": [dialogue_input("How are you? ", "ann", new_turn=True)], "flush": True},
        {"keep_alive": True},
        {"close_socket": True},
        {"inputs": "late"},
        named=False,
    ) == [
        [opened("", "ann", temperature_scale=0.5)],
        [text_of("", "Hello. ", "ann"), text_of("", "Hi. ", "bob")],
        [Flush(""), text_of("", "How are you? ", "ann"), Flush("")],
        ALIVE,
        [CloseSession()],
        [],
    ]


def test_a_closed_context_synthesizes_its_remaining_text_and_a_second_close_cancels() -> None:
    # Pipecat closes its turns without a flush; LiveKit flushes an empty input first.
    assert receive(
        of_a(voices=["ann"]),
        of_a(inputs=[dialogue_input("Hello. ", "ann")]),
        of_a(inputs=[dialogue_input("", "ann")], flush=True),
        of_a(close_context=True),
        of_a(close_context=True),
        of_a(voices=["bob"]),
        of_a(inputs=[{"text": "Hi. "}]),
        of_a(keep_alive=True),
    ) == [
        [opened("a", "ann")],
        [text_of("a", "Hello. ", "ann")],
        [Flush("a")],
        [CloseContext("a")],
        [CloseContext("a", discard=True)],
        [opened("a", "bob")],
        [text_of("a", "Hi. ", "bob")],
        ALIVE,
    ]


@pytest.mark.parametrize("message", [of_a(flush=True), of_a(keep_alive=True), of_a()])
def test_a_first_message_without_voices_opens_no_context(message: object) -> None:
    assert receive(message) == [ALIVE]


@pytest.mark.parametrize("name", ["xi_api_key", "xi-api-key", "authorization", "single_use_token"])
def test_the_first_message_may_carry_the_key(name: str) -> None:
    assert receive(of_a(voices=["ann"], **{name: "k"})) == [[Authenticate("k"), opened("a", "ann")]]


WRONG: list[tuple[list[object], str, str]] = [
    ([{"voices": ["ann"]}], "context_id", "context_id must be given"),
    (
        [of_a(inputs=[dialogue_input("Hi.", "ann")])],
        "voices",
        "voices must be set in the first message.",
    ),
    (
        [of_a(voices=["ann"]), of_a(voices=["ann"])],
        "voices",
        "voices can only be set in the first message.",
    ),
    ([of_a(voices=[])], "voices", "1 to 10"),
    ([of_a(voices=["ann"] * 11)], "voices", "1 to 10"),
    ([of_a(voices="ann")], "voices", "1 to 10"),
    ([of_a(voices=[5])], "voices", "1 to 10"),
    ([of_a(voices=["zoe"])], "voice_id", "zoe"),
    (
        [of_a(voices=["ann"], inputs=[dialogue_input("Hi.", "bob")])],
        "voice_id",
        "one of the voices",
    ),
    ([of_a(voices=["ann", "bob"], inputs=[{"text": "Hi."}])], "voice_id", "one of the voices"),
    ([of_a(voices=["ann"], inputs={})], "inputs", "list"),
    ([of_a(voices=["ann"], inputs=["Hi."])], "inputs", "list"),
    (
        [of_a(voices=["ann"], inputs=[dialogue_input("Hi.", "ann", new_turn=1)])],
        "new_turn",
        "true or",
    ),
    ([of_a(voices=["ann"], inputs=[{"text": 5, "voice_id": "ann"}])], "text", "string"),
    ([of_a(voices=["ann"], keep_alive="yes")], "keep_alive", "true or"),
]


@pytest.mark.parametrize(("messages", "param", "words"), WRONG)
def test_a_wrong_message_is_named(messages: list[object], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        receive(*messages)
    assert caught.value.param == param
    assert words in caught.value.message


def test_a_sixth_context_is_refused() -> None:
    with pytest.raises(TooManyContexts):
        receive(*({"context_id": f"{number}", "voices": ["ann"]} for number in range(6)))


def message_of(event: OutEvent, *, named: bool) -> dict[str, Any]:
    message = json.loads(DialogueProtocol(speaker_of, named_contexts=named).send(event))
    assert isinstance(message, dict)
    return message


def test_answers_are_in_snake_case() -> None:
    audio = {
        "audio": base64.b64encode(b"\x01\x02").decode(),
        "alignment": None,
        "normalized_alignment": None,
    }
    assert message_of(Audio("a", b"\x01\x02"), named=True) == {**audio, "context_id": "a"}
    assert message_of(Audio("", b"\x01\x02"), named=False) == audio
    one = Alignment(("h",), (0,), (80,))
    assert message_of(Audio("", b"", Aligned(one, one, 0)), named=False)["alignment"] == {
        "chars": ["h"],
        "char_start_times_ms": [0],
        "char_durations_ms": [80],
    }
    turn_done = {"is_final_audio_for_turn": True}
    assert message_of(TurnDone("a"), named=True) == {**turn_done, "context_id": "a"}
    assert message_of(TurnDone(""), named=False) == turn_done
    assert message_of(ContextDone("a"), named=True) == {"is_final": True, "context_id": "a"}
    assert message_of(ContextDone(""), named=False) == {"is_final": True}
    assert message_of(ContextFailed("a", TextTooLong(9)), named=True) == {
        "message": "The text is longer than 9 characters.",
        "error": "max_character_limit_exceeded",
        "code": 1009,
        "param": "text",
        "context_id": "a",
    }


names = st.sampled_from(["a", "b", "c", "d", "e", "f", None, 5])
lines = st.lists(
    st.dictionaries(
        st.sampled_from(["text", "voice_id", "new_turn"]),
        st.sampled_from(["Hi. ", "ann", "bob", "zoe", True, 5, None]),
    )
    | st.just("junk"),
    max_size=3,
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "context_id": names,
        "voices": st.sampled_from([["ann"], ["ann", "bob"], [], ["zoe"], "ann", None]),
        "inputs": lines,
        "flush": st.booleans() | st.just("x"),
        "close_context": st.booleans(),
        "keep_alive": st.booleans(),
        "junk": st.integers(),
    },
)


@given(st.lists(messages, max_size=30), st.booleans())
def test_any_messages_use_only_registered_voices_in_open_contexts(
    text_of: list[dict[str, object]], named: bool
) -> None:
    protocol = DialogueProtocol(speaker_of, named_contexts=named)
    open_ids: set[str] = set()
    for message in text_of:
        try:
            events = protocol.receive(json.dumps(message))
        except SpeechError:
            break  # it ends the session
        assert events
        for event in events:
            match event:
                case OpenContext(context_id=context_id):
                    assert context_id not in open_ids
                    open_ids.add(context_id)
                case AddText(settings=settings):
                    assert event.context_id in open_ids
                    assert SPEAKERS[str(settings.voice_id)] == settings.speaker_id
                case Flush():
                    assert event.context_id in open_ids
                case CloseContext(context_id=context_id, discard=discard):
                    assert discard or context_id in open_ids
                    open_ids.discard(context_id)
        assert len(open_ids) <= MAX_CONTEXTS
