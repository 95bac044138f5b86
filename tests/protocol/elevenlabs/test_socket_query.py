"""A socket's query: every parameter is read, ignored or refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import InvalidRequest, UnknownFormat, UnsupportedModel
from csm_trio.protocol.elevenlabs.socket_query import parse_socket_query
from csm_trio.protocol.events import SpeechSettings


def test_an_empty_query_has_the_defaults() -> None:
    query = parse_socket_query({})
    assert query.audio_format.name == "pcm_24000"
    assert query.settings == SpeechSettings()
    assert (query.inactivity_timeout_s, query.auto_mode) == (20, False)
    assert not query.sync_alignment


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
            "apply_text_normalization": "on",
            "enable_ssml_parsing": "1",
            "language_code": "en-GB",
            "sync_alignment": "true",
            "model_id": "eleven_flash_v2_5",
            "optimize_streaming_latency": "9",
        }
    )
    assert query.audio_format.name == "ulaw_8000"
    assert query.settings == SpeechSettings(
        2**32 - 1, 0.1, 2**31, 0, 600_000, 4, normalization="on", ssml=True
    )
    assert (query.inactivity_timeout_s, query.auto_mode) == (180, True)
    assert query.sync_alignment


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
        ("apply_text_normalization", "ON"),
        ("apply_text_normalization", ""),
        ("enable_ssml_parsing", "yes"),
        ("language_code", "de"),
        ("language_code", "english"),
        ("sync_alignment", "2"),
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


@pytest.mark.parametrize("model_id", ["eleven_v3", "eleven_v3_conversational", "eleven_v4_turbo"])
def test_a_dialogue_model_is_refused_with_a_hint_at_the_dialogue_sockets(model_id: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        parse_socket_query({"model_id": model_id})
    assert caught.value.message == (
        f"Model '{model_id}' is not supported on the text-to-speech websocket endpoint. "
        "Use the text-to-dialogue websocket endpoint instead."
    )
    assert caught.value.param == "model_id"
    parse_socket_query({"model_id": model_id}, dialogue=True)


@pytest.mark.parametrize("model_id", ["eleven_flash_v2_5", "eleven_multilingual_v2", "csm-1b", ""])
def test_any_other_model_is_accepted_on_every_socket(model_id: str) -> None:
    for dialogue in (False, True):
        assert parse_socket_query({"model_id": model_id}, dialogue=dialogue)


def test_a_dialogue_socket_has_a_fixed_inactivity_timeout_and_no_auto_mode() -> None:
    requested = {"inactivity_timeout": "180", "auto_mode": "perhaps", "output_format": "pcm_16000"}
    query = parse_socket_query(requested, dialogue=True)
    assert (query.inactivity_timeout_s, query.auto_mode) == (20, False)
    assert query.audio_format.name == "pcm_16000"
