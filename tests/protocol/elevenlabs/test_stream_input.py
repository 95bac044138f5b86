"""The `stream-input` protocol: messages to events, and events to messages."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.alignment.alignment import Aligned, Alignment
from csm_trio.errors import EngineBusy, InvalidMessage, InvalidRequest
from csm_trio.protocol.elevenlabs.socket_messages_in import CHUNK_LENGTHS
from csm_trio.protocol.elevenlabs.stream_input import StreamInputProtocol
from csm_trio.protocol.events import (
    AddText,
    Audio,
    Authenticate,
    ClearContext,
    CloseContext,
    CloseSession,
    ContextCleared,
    ContextDone,
    ContextFailed,
    Flush,
    InEvent,
    KeepAlive,
    OpenContext,
    SpeechSettings,
)

OPEN = OpenContext("", chunk_lengths=CHUNK_LENGTHS)
AUTO = OpenContext("")
END: list[InEvent] = [CloseContext(""), CloseSession()]


def text(delta: str, **settings: Any) -> AddText:
    return AddText("", delta, SpeechSettings(**settings))


def receive(*messages: object, auto_mode: bool = False) -> list[list[InEvent]]:
    protocol = StreamInputProtocol(auto_mode=auto_mode)
    return [protocol.receive(json.dumps(message)) for message in messages]


OPENER = {"text": " "}

LATER_MESSAGES: list[tuple[object, list[InEvent]]] = [
    ({"text": "Hello "}, [text("Hello ")]),
    ({"text": " "}, [text(" ")]),
    ({"text": "Hello.", "flush": True}, [text("Hello."), Flush("")]),
    ({"text": "", "flush": True}, [Flush("")]),
    ({"flush": True}, [Flush("")]),
    ({"text": None, "flush": True}, [Flush("")]),
    ({"text": "Hi ", "try_trigger_generation": True}, [text("Hi "), Flush("", hint=True)]),
    ({"text": "Hi ", "try_trigger_generation": None, "flush": None}, [text("Hi ")]),
    ({"text": "Hi", "flush": True, "try_trigger_generation": True}, [text("Hi"), Flush("")]),
    ({"text": "Hi ", "speaker_id": 3, "top_k": 5}, [text("Hi ", speaker_id=3, top_k=5)]),
    ({"speaker_id": 3}, [text("", speaker_id=3)]),
    ({"text": "Hi ", "voice_settings": None, "generation_config": {}}, [text("Hi ")]),
    ({"text": "Hi ", "xi_api_key": "late"}, [text("Hi ")]),
    ({"text": "Hi ", "surprise": [1, {"a": None}]}, [text("Hi ")]),
    ({}, [KeepAlive()]),
    ({"text": None}, [KeepAlive()]),
    ({"surprise": 1}, [KeepAlive()]),
    ({"flush": False}, [KeepAlive()]),
    ({"text": ""}, END),
    ({"text": "", "flush": False}, END),
    # Vocode's end of stream
    ({"text": "", "try_trigger_generation": True, "flush": False}, END),
]


@pytest.mark.parametrize(("message", "events"), LATER_MESSAGES)
def test_the_events_of_a_later_message(message: object, events: list[InEvent]) -> None:
    assert receive(OPENER, message)[1] == events


FIRST_MESSAGES: list[tuple[object, list[InEvent]]] = [
    (OPENER, [OPEN]),
    (
        {"text": " ", "voice_settings": {"speed": 1.1}, "generation_config": None},
        [OpenContext("", SpeechSettings(speed=1.1), CHUNK_LENGTHS)],
    ),
    # the Python SDK's opener
    (
        {
            "text": " ",
            "try_trigger_generation": True,
            "voice_settings": None,
            "generation_config": {"chunk_length_schedule": [50]},
        },
        [OpenContext("", chunk_lengths=(50,)), Flush("", hint=True)],
    ),
    # Vocode's first message is no opener
    ({"text": "Hello there. ", "flush": False}, [OPEN, text("Hello there. ")]),
    (
        {"text": "Hi.", "speaker_id": 7, "flush": True},
        [
            OpenContext("", SpeechSettings(speaker_id=7), CHUNK_LENGTHS),
            text("Hi."),
            Flush(""),
        ],
    ),
    ({"text": " ", "xi_api_key": "k"}, [Authenticate("k"), OPEN]),
    ({"text": " ", "xi-api-key": "k"}, [Authenticate("k"), OPEN]),
    ({"text": " ", "authorization": "Bearer k"}, [Authenticate("k"), OPEN]),
    ({"text": " ", "authorization": "k"}, [Authenticate("k"), OPEN]),
    ({"xi_api_key": "k"}, [Authenticate("k"), OPEN]),
    ({"text": " ", "xi_api_key": "", "authorization": None}, [OPEN]),
    ({"text": ""}, [OPEN, *END]),
    ({}, [KeepAlive()]),
]


@pytest.mark.parametrize(("message", "events"), FIRST_MESSAGES)
def test_the_events_of_a_first_message(message: object, events: list[InEvent]) -> None:
    assert receive(message) == [events]


def test_voice_settings_become_speech_settings_of_the_context() -> None:
    (events,) = receive({"text": " ", "voice_settings": {"stability": 1}, "temperature": 0.5})
    (context,) = events
    assert isinstance(context, OpenContext)
    assert (context.settings.temperature, context.settings.temperature_scale) == (0.5, 0.5)


def test_a_keep_alive_opens_no_context() -> None:
    assert receive({}, OPENER) == [[KeepAlive()], [OPEN]]


def test_auto_mode_flushes_every_message() -> None:
    received = receive(
        OPENER,
        {"text": "Hel"},
        {"text": "lo.", "flush": True},
        {"text": " "},
        {"text": ""},
        auto_mode=True,
    )
    assert received == [
        [AUTO],
        [text("Hel"), Flush("")],
        [text("lo."), Flush("")],
        [text(" ")],
        END,
    ]


def test_only_a_clear_has_an_effect_after_the_end_of_input() -> None:
    protocol = StreamInputProtocol()
    protocol.receive('{"text": ""}')
    for late in ('{"text": "more"}', "no json", b"\x00", '{"text": 1}', '{"clear": 1}'):
        assert protocol.receive(late) == []
    assert protocol.receive('{"clear": true}') == [ClearContext("")]


CLEAR: InEvent = ClearContext("")

CLEARS: list[tuple[object, list[InEvent]]] = [
    ({"clear": True}, [CLEAR, OPEN]),
    ({"clear": True, "text": "New."}, [CLEAR, OPEN, text("New.")]),
    ({"clear": True, "text": "New.", "flush": True}, [CLEAR, OPEN, text("New."), Flush("")]),
    ({"clear": True, "text": ""}, [CLEAR, OPEN, *END]),
    ({"clear": False}, [KeepAlive()]),
    ({"clear": None, "text": "Hi."}, [text("Hi.")]),
]


@pytest.mark.parametrize(("message", "events"), CLEARS)
def test_a_clear_cancels_earlier_text_but_not_that_of_its_own_message(
    message: object, events: list[InEvent]
) -> None:
    assert receive(OPENER, message)[1] == events


def test_settings_of_earlier_messages_outlive_a_clear() -> None:
    received = receive(
        {"text": "One. ", "speaker_id": 3, "seed": 1},
        {"text": "Two. ", "temperature": 0.5, "speaker_id": 4},
        {"clear": True, "text": "Three. ", "top_k": 9},
        {"clear": True},
    )
    kept = SpeechSettings(speaker_id=4, seed=1, temperature=0.5)
    assert received[2] == [
        CLEAR,
        OpenContext("", kept, CHUNK_LENGTHS),
        text("Three. ", top_k=9),
    ]
    top_k = SpeechSettings(top_k=9)
    assert received[3] == [CLEAR, OpenContext("", kept.overridden_by(top_k), CHUNK_LENGTHS)]


VOICE = {"stability": 0.5, "similarity_boost": 0.75, "use_speaker_boost": True}


@pytest.mark.parametrize("again", [None, {}, VOICE, {**VOICE, "novelty": [1]}])
def test_voice_settings_may_be_repeated(again: object) -> None:
    received = receive(
        {**OPENER, "voice_settings": VOICE}, {"text": "Hi.", "voice_settings": again}
    )
    same: dict[str, Any] = {"temperature_scale": 1.0} if again else {}
    assert received[1] == [text("Hi.", **same)]


@pytest.mark.parametrize("first", [None, {}, VOICE])
def test_voice_settings_may_not_change(first: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        receive(
            {**OPENER, "voice_settings": first},
            {"text": "Hi.", "voice_settings": {**VOICE, "stability": 0.6}},
        )
    assert caught.value.param == "voice_settings"
    assert caught.value.message == (
        "voice_settings field must be provided in the first message and then either be not "
        "provided or not change."
    )


@pytest.mark.parametrize("name", ["generation_config", "generator_config"])
@pytest.mark.parametrize(
    ("config", "lengths"),
    [
        (None, CHUNK_LENGTHS),
        ({}, CHUNK_LENGTHS),
        ({"chunk_length_schedule": None}, CHUNK_LENGTHS),
        ({"chunk_length_schedule": []}, CHUNK_LENGTHS),
        ({"chunk_length_schedule": [50, 500]}, (50, 500)),
        ({"chunk_length_schedule": [120.0], "other": 1}, (120,)),
    ],
)
def test_the_schedule_of_the_first_message_holds(
    name: str, config: object, lengths: tuple[int, ...]
) -> None:
    assert receive({**OPENER, name: config}) == [[OpenContext("", chunk_lengths=lengths)]]


@pytest.mark.parametrize("schedule", [[49], [501], [120, "160"], [True], 120, "120", [50] * 101])
def test_a_schedule_out_of_bounds_is_named(schedule: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        receive({**OPENER, "generation_config": {"chunk_length_schedule": schedule}})
    assert caught.value.param == "generation_config.chunk_length_schedule"


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "{",
        "null",
        "[]",
        '"text"',
        '{"text": "a"} trailing',
        '{"temperature": NaN}',
        '{"temperature": -Infinity}',
        "[" * 500_000,
        '{"a":' * 100_000,
        '{"top_k": ' + "9" * 100_000 + "}",
        b'{"text": "Hi."}',
    ],
    ids=lambda message: repr(message[:20]),
)
def test_a_message_that_is_no_json_object_is_refused(message: str | bytes) -> None:
    with pytest.raises(InvalidMessage):
        StreamInputProtocol().receive(message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", 5),
        ("text", ["Hi"]),
        ("flush", "true"),
        ("flush", 1),
        ("try_trigger_generation", 0),
        ("voice_settings", []),
        ("generation_config", "fast"),
        ("xi_api_key", 5),
        ("authorization", {}),
        ("speaker_id", -1),
        ("speaker_id", 2**32),
        ("speaker_id", "3"),
        ("speaker_id", True),
        ("speaker_id", 10**400),
        ("temperature", 2.01),
        ("temperature", -0.1),
        ("temperature", False),
        ("top_k", 0),
        ("top_k", 1.5),
        ("seed", 2**32),
        ("max_audio_len_ms", 79),
        ("buffer_size", 251),
    ],
)
def test_a_wrong_field_is_named_and_changes_nothing(field: str, value: object) -> None:
    protocol = StreamInputProtocol()
    with pytest.raises(InvalidRequest) as caught:
        protocol.receive(json.dumps({"text": "Hi", field: value}))
    assert caught.value.param == field
    assert field in caught.value.message
    assert protocol.receive('{"text": " "}') == [OPEN]


def test_an_infinite_temperature_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        StreamInputProtocol().receive('{"text": "Hi", "temperature": 1e999}')


def test_half_an_emoji_becomes_a_character_that_can_be_encoded() -> None:
    assert receive(OPENER, {"text": "a\ud83d"}, {"text": "\ude00é😀"})[1:] == [
        [text("a\ufffd")],
        [text("\ufffdé😀")],
    ]


def attempt(
    protocol: StreamInputProtocol, message: str | bytes
) -> tuple[list[InEvent], InvalidRequest | None]:
    try:
        return protocol.receive(message), None
    except InvalidRequest as error:
        return [], error


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    [
        "text",
        "flush",
        "try_trigger_generation",
        "speaker_id",
        "temperature",
        "top_k",
        "seed",
        "voice_settings",
        "generation_config",
        "clear",
        "xi_api_key",
        "authorization",
        "other",
    ]
)


@given(st.lists(st.dictionaries(field_names, json_values, max_size=4), max_size=6))
def test_any_objects_open_once_and_end_at_most_once(
    messages: list[dict[str, object]],
) -> None:
    protocol = StreamInputProtocol()
    events: list[InEvent] = []
    for message in messages:
        received, refusal = attempt(protocol, json.dumps(message))
        events += received
        assert refusal is None or refusal.param in message
    effects = [event for event in events if not isinstance(event, KeepAlive | Authenticate)]
    opens = [i for i, event in enumerate(effects) if isinstance(event, OpenContext)]
    # Once at the beginning; after that, only after a clear.
    assert opens[:1] == [0][: len(effects)]
    assert all(isinstance(effects[i - 1], ClearContext) for i in opens[1:])
    ends = [i for i, event in enumerate(effects) if isinstance(event, CloseSession)]
    assert len(ends) <= 1
    late = effects[ends[0] + 1 :] if ends else []
    assert all(isinstance(event, ClearContext) for event in late)


@given(st.text() | st.binary())
def test_any_message_is_parsed_or_refused(message: str | bytes) -> None:
    received, refusal = attempt(StreamInputProtocol(), message)
    assert bool(received) != isinstance(refusal, InvalidMessage)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)), st.booleans())
def test_no_character_after_the_opener_is_lost(deltas: list[str], auto_mode: bool) -> None:
    received = receive(OPENER, *({"text": delta} for delta in deltas), auto_mode=auto_mode)
    texts = [event.text for events in received for event in events if isinstance(event, AddText)]
    assert "".join(texts) == "".join(deltas)


@given(st.binary())
def test_audio_travels_whole_in_exactly_four_keys(data: bytes) -> None:
    sent = StreamInputProtocol().send(Audio("", data))
    keys = {"isFinal": False, "normalizedAlignment": None, "alignment": None}
    assert sent == json.dumps({"audio": base64.b64encode(data).decode(), **keys})


def test_the_final_message_is_as_recorded() -> None:
    assert StreamInputProtocol().send(ContextDone("")) == (
        '{"audio": null, "isFinal": true, "normalizedAlignment": null, "alignment": null}'
    )


def aligned_audio(text: str, from_ms: int) -> Audio:
    alignment = Alignment(tuple(text), tuple(range(0, 10 * len(text), 10)), (10,) * len(text))
    return Audio("", b"sound", Aligned(alignment, alignment, from_ms))


def test_alignments_hold_whole_words_as_vocode_needs() -> None:
    protocol = StreamInputProtocol()
    events = [aligned_audio("Than", 0), aligned_audio("k y", 40), aligned_audio("ou. ", 70)]
    alignments = [json.loads(protocol.send(event))["alignment"] for event in events]
    assert [one and "".join(one["chars"]) for one in alignments] == [None, "Thank ", "you. "]
    assert alignments[1]["charStartTimesMs"] == [0, 10, 20, 30, 40, 50]
    assert alignments[2]["charStartTimesMs"] == [0, 10, 20, 30, 40]


def test_a_partial_word_is_discarded_by_a_clear() -> None:
    protocol = StreamInputProtocol()
    protocol.send(aligned_audio("Than", 0))
    protocol.send(ContextCleared(""))
    alignment = json.loads(protocol.send(aligned_audio("No. ", 0)))["alignment"]
    assert "".join(alignment["chars"]) == "No. "


def test_a_clear_is_answered_with_the_four_keys_and_cleared() -> None:
    assert json.loads(StreamInputProtocol().send(ContextCleared(""))) == {
        "audio": None,
        "isFinal": False,
        "normalizedAlignment": None,
        "alignment": None,
        "cleared": True,
    }


def test_a_failed_context_becomes_an_error_message() -> None:
    sent = StreamInputProtocol().send(ContextFailed("", EngineBusy("Full.")))
    assert json.loads(sent) == {"message": "Full.", "error": "system_busy", "code": 1013}
