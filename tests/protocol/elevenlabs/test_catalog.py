"""Lists: the voices of a search, page by page, and bodies for strict clients."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import InvalidRequest
from csm_trio.protocol.elevenlabs.catalog import (
    VoiceAccount,
    models_body,
    parse_voices_query,
    subscription_body,
    user_body,
    voice_body,
    voices_page,
)
from csm_trio.protocol.voice_settings import DEFAULT_VOICE_SETTINGS
from csm_trio.voices import Voice

VOICES = [
    Voice("zoe", "Zoë", 1, description="A calm reader."),
    Voice("abe", "Abe", 2, "cloned"),
    Voice("mia", "mia", 3, description="Lively."),
]


def found(voice_ids: Sequence[str] = (), **query: str) -> list[str]:
    requested = parse_voices_query(query, voice_ids)
    return [voice.voice_id for voice in requested.select(VOICES)]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({}, ["zoe", "abe", "mia"]),
        ({"search": "CALM"}, ["zoe"]),
        ({"search": " zoë "}, ["zoe"]),
        ({"search": "nobody"}, []),
        ({"sort": "name"}, ["abe", "mia", "zoe"]),
        ({"sort": "name", "sort_direction": "desc"}, ["zoe", "mia", "abe"]),
        ({"sort": "created_at_unix", "sort_direction": "asc"}, ["zoe", "abe", "mia"]),
        ({"sort_direction": "desc"}, ["mia", "abe", "zoe"]),
        ({"category": "premade"}, ["zoe", "mia"]),
        ({"category": "cloned"}, ["abe"]),
        ({"category": "famous"}, []),
        ({"voice_type": "default"}, ["zoe", "mia"]),
        ({"voice_type": "personal"}, ["abe"]),
        ({"voice_type": "saved"}, ["zoe", "abe", "mia"]),
        ({"voice_type": "community"}, []),
        ({"collection_id": "c"}, []),
        ({"of_nobody": "x", "include_total_count": "true"}, ["zoe", "abe", "mia"]),
    ],
)
def test_a_search_returns_the_matching_voices(query: dict[str, str], ids: list[str]) -> None:
    assert found(**query) == ids


def test_voice_ids_may_be_repeated_or_comma_separated() -> None:
    assert found(["mia", "zoe"]) == ["zoe", "mia"]
    assert found(["mia,zoe"]) == ["zoe", "mia"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page_size", "0"),
        ("page_size", "101"),
        ("page_size", "ten"),
        ("sort", "age"),
        ("sort_direction", "up"),
        ("voice_type", "loud"),
        ("next_page_token", "!"),
        ("next_page_token", "YQ=="),
        ("next_page_token", "LTE="),
        ("next_page_token", "é"),
        ("next_page_token", "OTk5OTk5OTk5OTk5OTk5"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_voices_query({name: value}, [])
    assert (caught.value.param, caught.value.location) == (name, "query")


@given(st.integers(0, 40), st.integers(1, 12))
def test_consecutive_pages_hold_every_voice_once(count: int, page_size: int) -> None:
    bodies: list[dict[str, object]] = [{"voice_id": str(number)} for number in range(count)]
    read: list[object] = []
    token: object = ""
    while token is not None:
        query = parse_voices_query({"page_size": str(page_size), "next_page_token": str(token)}, [])
        page = voices_page(query, bodies)
        assert page["total_count"] == count
        assert page["has_more"] == (page["next_page_token"] is not None)
        voices = page["voices"]
        assert isinstance(voices, list)
        read += voices
        token = page["next_page_token"]
    assert read == bodies


def test_the_default_page_size_is_ten() -> None:
    page = voices_page(parse_voices_query({}, []), [{}] * 11)
    assert page["voices"] == [{}] * 10


def test_a_voice_has_the_fields_that_strict_clients_require() -> None:
    body = voice_body(VOICES[0], DEFAULT_VOICE_SETTINGS)
    assert (body["voice_id"], body["name"], body["category"]) == ("zoe", "Zoë", "premade")
    assert body["labels"] == {"language": "en"}
    assert body["settings"] == {
        "stability": 0.5,
        "similarity_boost": 0.75,
        "style": 0.0,
        "use_speaker_boost": True,
        "speed": 1.0,
    }


def test_the_models_include_every_clients_default() -> None:
    bodies = {body["model_id"]: body for body in models_body(5_000)}
    assert bodies.keys() >= {"eleven_multilingual_v2", "eleven_flash_v2_5", "eleven_turbo_v2_5"}
    assert "eleven_v3" in bodies, "its sockets are served"
    for body in bodies.values():
        assert body["can_do_text_to_speech"] is True
        assert body["languages"] == [{"language_id": "en", "name": "English"}]
        assert body["maximum_text_length_per_request"] == 5_000


def test_the_account_has_every_field_that_the_vendor_requires() -> None:
    voices = VoiceAccount(used=5, limit=9, may_add=True)
    account = subscription_body(voices)
    required = (
        *("tier", "character_count", "character_limit", "max_credit_limit_extension"),
        *("can_extend_character_limit", "allowed_to_extend_character_limit", "voice_slots_used"),
        *("professional_voice_slots_used", "professional_voice_slots_used_in_workspace"),
        *("voice_limit", "voice_add_edit_counter", "professional_voice_limit"),
        *("can_extend_voice_limit", "can_use_instant_voice_cloning"),
        *("can_use_professional_voice_cloning", "current_overage", "status", "open_invoices"),
        "has_open_invoices",
    )
    assert account.keys() >= set(required)
    assert not [name for name in required if account[name] is None]
    user = user_body(voices)
    embedded = user["subscription"]
    assert isinstance(embedded, dict)
    assert {**account, **embedded} == account
    assert "open_invoices" not in embedded
    assert isinstance(user["created_at"], int)
