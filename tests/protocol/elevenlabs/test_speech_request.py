"""The text-to-speech body: the fields that are read, and the errors of wrong ones."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import InvalidRequest, MissingField, TextTooLong, UnknownFormat
from csm_trio.protocol.elevenlabs.speech_request import parse_speech_request
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.rest import SpeechRequest


def parse(body: object, max_chars: int = 100, **query: str) -> SpeechRequest:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_speech_request(encoded, query, voice_id="vera", max_chars=max_chars)


def test_text_is_the_only_required_field() -> None:
    request = parse({"text": "Hello."})
    assert (request.voice_id, request.text) == ("vera", "Hello.")
    assert request.audio_format.name == "mp3_44100_128"
    assert request.settings == SpeechSettings()
    assert (request.model_id, request.previous_text) == (None, None)


def test_every_setting_is_read() -> None:
    settings = {
        "speaker_id": 2,
        "temperature": 0,
        "top_k": 50.0,
        "seed": 4_294_967_295,
        "max_audio_len_ms": 80,
        "buffer_size": 250,
        "apply_text_normalization": "off",
        "enable_ssml_parsing": True,
    }
    request = parse({"text": "Hi.", **settings}, output_format="wav_24000")
    assert request.settings == SpeechSettings(
        2, 0.0, 50, 4_294_967_295, 80, 250, normalization="off", ssml=True
    )
    assert isinstance(request.settings.top_k, int)
    assert request.audio_format.name == "wav_24000"


def test_ssml_in_the_body_overrides_ssml_in_the_query() -> None:
    assert parse({"text": "Hi."}, enable_ssml_parsing="true").settings.ssml is True
    body = {"text": "Hi.", "enable_ssml_parsing": False}
    assert parse(body, enable_ssml_parsing="true").settings.ssml is False
    with pytest.raises(InvalidRequest) as caught:
        parse({"text": "Hi."}, enable_ssml_parsing="perhaps")
    assert (caught.value.param, caught.value.location) == ("enable_ssml_parsing", "query")


@pytest.mark.parametrize("code", ["en", "EN", "eng", "en-US", "en_gb", "en-Latn-GB", "", None])
def test_english_language_codes_are_accepted(code: str | None) -> None:
    assert parse({"text": "Hi.", "language_code": code}) == parse({"text": "Hi."})


def test_the_vendors_other_fields_are_accepted() -> None:
    request = parse(
        {
            "text": "Hi.",
            "model_id": "eleven_multilingual_v2",
            "language_code": "en",
            "voice_settings": {"stability": 0.5, "speed": 1.0},
            "pronunciation_dictionary_locators": [],
            "previous_text": "Before.",
            "next_text": "After.",
            "previous_request_ids": ["a"],
            "apply_text_normalization": "auto",
            "made_up": {"deep": [1]},
        },
        optimize_streaming_latency="3",
    )
    assert request.model_id == "eleven_multilingual_v2"
    assert (request.previous_text, request.previous_request_ids) == ("Before.", ("a",))


def test_at_most_three_previous_request_ids_are_accepted() -> None:
    assert parse({"text": "Hi.", "previous_request_ids": ["a", "b", "c"]}).previous_request_ids == (
        *("a", "b", "c"),
    )


def test_enable_logging_false_keeps_the_request_out_of_the_history() -> None:
    assert parse({"text": "Hi."}).kept
    assert parse({"text": "Hi."}, enable_logging="true").kept
    assert not parse({"text": "Hi."}, enable_logging="false").kept


def test_stability_scales_the_temperature_unless_the_request_sets_one() -> None:
    calm = {"voice_settings": {"stability": 1}}
    assert parse({"text": "Hi.", **calm}).settings == SpeechSettings(temperature_scale=0.5)
    named = parse({"text": "Hi.", **calm, "temperature": 0.4}).settings
    assert (named.temperature, named.temperature_scale) == (0.4, 0.5)


def test_null_counts_as_absent() -> None:
    names = ["speaker_id", "temperature", "seed", "voice_settings", "model_id", "previous_text"]
    assert parse({"text": "Hi.", **dict.fromkeys(names)}) == parse({"text": "Hi."})


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse(b'\xef\xbb\xbf{"text": "Hi."}').text == "Hi."


@pytest.mark.parametrize("body", [{}, {"text": None}, {"input": "Hi."}])
def test_missing_text_is_a_missing_field(body: dict[str, Any]) -> None:
    with pytest.raises(MissingField) as caught:
        parse(body)
    assert caught.value.param == "text"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", ""),
        ("text", " \n\t\u3000"),
        ("text", 5),
        ("text", ["Hi."]),
        ("speaker_id", "1"),
        ("speaker_id", True),
        ("speaker_id", 0.5),
        ("temperature", "hot"),
        ("temperature", 3),
        ("top_k", 0),
        ("seed", -1),
        ("max_audio_len_ms", 600_001),
        ("buffer_size", 0),
        ("voice_settings", "calm"),
        ("model_id", 2),
        ("previous_text", 1),
        ("next_text", 1),
        ("previous_request_ids", "a"),
        ("previous_request_ids", ["a", 2]),
        ("previous_request_ids", ["a", "b", "c", "d"]),
        ("next_request_ids", {}),
        ("apply_text_normalization", "yes"),
        ("apply_text_normalization", True),
        ("enable_ssml_parsing", "true"),
        ("language_code", "de"),
        ("language_code", "es-419"),
        ("language_code", "enx"),
        ("language_code", "e" * 99),
        ("language_code", 1),
    ],
)
def test_an_error_names_the_wrong_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({"text": "Hi.", field: value})
    assert (caught.value.param, caught.value.location) == (field, "body")
    assert field in caught.value.message


def test_the_vendors_speed_is_a_speech_setting() -> None:
    assert parse({"text": "Hi.", "voice_settings": {"speed": 0.7}}).settings.speed == 0.7
    assert parse({"text": "Hi.", "voice_settings": {"speed": None}}).settings.speed is None
    assert parse({"text": "Hi.", "speed": 3}).settings.speed is None  # a field of OpenAI's


@pytest.mark.parametrize("speed", [0.69, 1.21, "fast", True])
def test_a_speed_outside_the_vendors_bounds_is_named(speed: object) -> None:
    with pytest.raises(InvalidRequest, match=r"voice_settings\.speed must be a number") as caught:
        parse({"text": "Hi.", "voice_settings": {"speed": speed}})
    assert caught.value.param == "voice_settings.speed"


@pytest.mark.parametrize(
    "body",
    [b"", b"text", b"[]", b'"Hi."', b'{"text": "\xff"}', b'{"seed": NaN}', b"[" * 500_000],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.param == "body"


def test_text_of_exactly_the_limit_is_accepted() -> None:
    assert len(parse({"text": "a" * 100}).text) == 100
    with pytest.raises(TextTooLong) as caught:
        parse({"text": "a" * 101})
    assert caught.value.limit_chars == 100


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnknownFormat, match="mp3_1_1"):
        parse({"text": "Hi."}, output_format="mp3_1_1")


@given(st.binary())
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(body)


@given(st.text(min_size=1).filter(str.strip))
def test_the_text_arrives_as_it_was_written(text: str) -> None:
    assert parse({"text": text}, max_chars=10_000).text == text
