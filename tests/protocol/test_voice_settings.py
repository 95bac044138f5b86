"""`voice_settings`: the settings that are read, their effect, and the errors of wrong ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import InvalidRequest
from csm_trio.protocol.fields import JsonFields
from csm_trio.protocol.speech_fields import read_voice_settings
from csm_trio.protocol.voice_settings import (
    DEFAULT_VOICE_SETTINGS,
    VoiceSettings,
    temperature_scale,
)

STABILITIES = st.floats(0, 1)


def read(values: dict[str, Any]) -> VoiceSettings:
    return read_voice_settings(JsonFields(values, "voice_settings"))


def test_every_setting_is_read_and_unknown_ones_are_ignored() -> None:
    settings: dict[str, Any] = {
        "stability": 0.25,
        "similarity_boost": 1,
        "style": 0,
        "use_speaker_boost": False,
        "speed": 1.1,
    }
    assert read({**settings, "unknown": 3}) == VoiceSettings(**settings)
    assert read({}) == read(dict.fromkeys(settings)) == VoiceSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stability", 1.01),
        ("stability", -0.1),
        ("stability", "calm"),
        ("stability", True),
        ("similarity_boost", 2),
        ("style", []),
        ("use_speaker_boost", 1),
        ("speed", 0.5),
        ("speed", 1.3),
    ],
)
def test_a_wrong_setting_is_named_with_its_path(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({name: value})
    assert caught.value.param == f"voice_settings.{name}"
    assert caught.value.message.startswith(f"voice_settings.{name} must be ")


@pytest.mark.parametrize(("stability", "scale"), [(0, 1.3), (0.25, 1.15), (0.5, 1), (1, 0.5)])
def test_the_temperature_scale_has_the_documented_values(stability: float, scale: float) -> None:
    assert temperature_scale(stability) == pytest.approx(scale)
    assert VoiceSettings(stability=stability).speech().temperature_scale == pytest.approx(scale)


@given(STABILITIES, STABILITIES)
def test_more_stability_is_never_a_higher_temperature(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 1.3 >= temperature_scale(low) >= temperature_scale(high) >= 0.5


def test_speed_is_a_speech_setting() -> None:
    assert VoiceSettings(speed=1.1).speech().speed == 1.1


def test_settings_without_stability_do_not_scale_the_temperature() -> None:
    assert VoiceSettings(style=1.0).speech().temperature_scale is None


def test_an_override_replaces_only_the_fields_that_it_sets() -> None:
    changed = DEFAULT_VOICE_SETTINGS.overridden_by(
        VoiceSettings(style=0.5, use_speaker_boost=False)
    )
    assert changed == VoiceSettings(0.5, 0.75, 0.5, False, 1.0)
