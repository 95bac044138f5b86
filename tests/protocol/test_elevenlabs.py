"""The socket protocol: what each message means, and what each event looks like."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import EngineBusy, InvalidMessage, InvalidRequest, UnknownFormat
from csm_trio.protocol.elevenlabs import StreamInputProtocol, parse_socket_query
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

OPEN = OpenContext("")
END: list[InEvent] = [CloseContext(""), CloseSession()]


def text(delta: str, **settings: Any) -> AddText:
    return AddText("", delta, SpeechSettings(**settings))


def hear(*messages: object, auto_mode: bool = False) -> list[list[InEvent]]:
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
def test_a_later_message_means(message: object, events: list[InEvent]) -> None:
    assert hear(OPENER, message)[1] == events


FIRST_MESSAGES: list[tuple[object, list[InEvent]]] = [
    (OPENER, [OPEN]),
    (
        {"text": " ", "voice_settings": {"speed": 1.1}, "generation_config": None},
        [OpenContext("", SpeechSettings(speed=1.1))],
    ),
    # the Python SDK's opener
    (
        {
            "text": " ",
            "try_trigger_generation": True,
            "voice_settings": None,
            "generation_config": {"chunk_length_schedule": [50]},
        },
        [OPEN, Flush("", hint=True)],
    ),
    # Vocode's first message is no opener
    ({"text": "Hello there. ", "flush": False}, [OPEN, text("Hello there. ")]),
    (
        {"text": "Hi.", "speaker_id": 7, "flush": True},
        [OpenContext("", SpeechSettings(speaker_id=7)), text("Hi."), Flush("")],
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
def test_a_first_message_means(message: object, events: list[InEvent]) -> None:
    assert hear(message) == [events]


def test_a_sign_of_life_opens_nothing() -> None:
    assert hear({}, OPENER) == [[KeepAlive()], [OPEN]]


def test_auto_mode_says_every_message_at_once() -> None:
    heard = hear(
        OPENER,
        {"text": "Hel"},
        {"text": "lo.", "flush": True},
        {"text": " "},
        {"text": ""},
        auto_mode=True,
    )
    assert heard == [
        [OPEN],
        [text("Hel"), Flush("")],
        [text("lo."), Flush("")],
        [text(" ")],
        END,
    ]


def test_nothing_is_heard_after_the_end() -> None:
    protocol = StreamInputProtocol()
    protocol.receive('{"text": ""}')
    for late in ('{"text": "more"}', "no json", b"\x00", '{"text": 1}'):
        assert protocol.receive(late) == []


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
def test_what_is_no_json_object_is_refused(message: str | bytes) -> None:
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
    assert hear(OPENER, {"text": "a\ud83d"}, {"text": "\ude00é😀"})[1:] == [
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
        "xi_api_key",
        "authorization",
        "other",
    ]
)


@given(st.lists(st.dictionaries(field_names, json_values, max_size=4), max_size=6))
def test_any_objects_open_at_most_once_and_end_at_most_once(
    messages: list[dict[str, object]],
) -> None:
    protocol = StreamInputProtocol()
    events: list[InEvent] = []
    for message in messages:
        heard, refusal = attempt(protocol, json.dumps(message))
        events += heard
        assert refusal is None or refusal.param in message
    told = [event for event in events if not isinstance(event, KeepAlive | Authenticate)]
    assert [event for event in told if isinstance(event, OpenContext)] == told[:1]
    assert [i for i, event in enumerate(told) if isinstance(event, CloseSession)] in (
        [],
        [len(told) - 1],
    )


@given(st.text() | st.binary())
def test_any_message_is_understood_or_refused(message: str | bytes) -> None:
    heard, refusal = attempt(StreamInputProtocol(), message)
    assert bool(heard) != isinstance(refusal, InvalidMessage)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)), st.booleans())
def test_no_character_after_the_opener_is_lost(deltas: list[str], auto_mode: bool) -> None:
    heard = hear(OPENER, *({"text": delta} for delta in deltas), auto_mode=auto_mode)
    said = [event.text for events in heard for event in events if isinstance(event, AddText)]
    assert "".join(said) == "".join(deltas)


@given(st.binary())
def test_audio_travels_whole_in_exactly_four_keys(data: bytes) -> None:
    frame = StreamInputProtocol().send(Audio("", data))
    encoded = base64.b64encode(data).decode()
    assert frame == (
        f'{{"audio": "{encoded}", "isFinal": false, "normalizedAlignment": null, '
        '"alignment": null}'
    )


def test_the_last_frame_is_the_vendors() -> None:
    assert StreamInputProtocol().send(ContextDone("")) == (
        '{"audio": null, "isFinal": true, "normalizedAlignment": null, "alignment": null}'
    )


def test_a_failed_context_is_told_as_an_error() -> None:
    frame = StreamInputProtocol().send(ContextFailed("", EngineBusy("Full.")))
    assert json.loads(frame) == {"message": "Full.", "error": "system_busy", "code": 1013}


def test_an_empty_query_has_the_defaults() -> None:
    query = parse_socket_query({})
    assert query.audio_format.name == "pcm_24000"
    assert query.settings == SpeechSettings()
    assert (query.inactivity_timeout_s, query.auto_mode, query.api_key) == (20, False, None)


def test_every_query_parameter_is_read() -> None:
    query = parse_socket_query(
        {
            "output_format": "ulaw_8000",
            "speaker_id": "4294967295",
            "temperature": "1e-1",
            "top_k": "2147483648",
            "seed": "0",
            "max_audio_len_ms": "600000",
            "buffer_size": "4",
            "inactivity_timeout": "180",
            "auto_mode": "True",
            "xi-api-key": "hidden",
            "model_id": "eleven_flash_v2_5",
            "optimize_streaming_latency": "9",
        }
    )
    assert query.audio_format.name == "ulaw_8000"
    assert query.settings == SpeechSettings(2**32 - 1, 0.1, 2**31, 0, 600_000, 4)
    assert (query.inactivity_timeout_s, query.auto_mode, query.api_key) == (180, True, "hidden")
    assert "hidden" not in repr(query)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ({"xi-api-key": "a"}, "a"),
        ({"xi_api_key": "a"}, "a"),
        ({"authorization": "Bearer a"}, "a"),
        ({"authorization": "bearer  a "}, "a"),
        ({"authorization": "a"}, "a"),
        ({"authorization": "Bearer"}, None),
        ({"xi-api-key": "", "authorization": "b"}, "b"),
        ({"xi-api-key": ""}, None),
    ],
)
def test_a_query_key_is_found(query: Mapping[str, str], key: str | None) -> None:
    assert parse_socket_query(query).api_key == key


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("speaker_id", "x"),
        ("speaker_id", ""),
        ("speaker_id", "1_0"),
        ("speaker_id", "٣"),
        ("speaker_id", "9" * 100_000),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "2.1"),
        ("temperature", "1" * 100_000),
        ("temperature", "0x1"),
        ("top_k", "5.0"),
        ("seed", "-1"),
        ("max_audio_len_ms", "79"),
        ("buffer_size", "0"),
        ("inactivity_timeout", "0"),
        ("inactivity_timeout", "181"),
        ("auto_mode", "yes please"),
    ],
    ids=lambda value: value[:20],
)
def test_a_wrong_query_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_socket_query({name: value})
    assert (caught.value.param, caught.value.location) == (name, "query")


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(UnknownFormat, match="flac_1"):
        parse_socket_query({"output_format": "flac_1"})


@given(st.from_regex(r"[-+.0-9eE_ ]*", fullmatch=True) | st.text())
def test_a_query_number_is_within_its_bounds_or_refused(value: str) -> None:
    try:
        settings = parse_socket_query({"temperature": value, "seed": value}).settings
    except InvalidRequest:
        settings = SpeechSettings(temperature=0.0, seed=0)
    assert settings.temperature is not None
    assert 0 <= settings.temperature <= 2
    assert settings.seed in (0, 1, 2)
