"""The voice catalog: valid and invalid voices files, and the ids that have a voice."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.audio.wav import wav_header
from csm_trio.errors import StartupError, UnknownVoice
from csm_trio.voices import Voice, VoiceCatalog, VoiceClip

REPOSITORY = Path(__file__).parents[1]


def load(tmp_path: Path, content: object) -> VoiceCatalog:
    path = tmp_path / "voices.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return VoiceCatalog.load(path)


def test_without_a_file_five_voices_are_known() -> None:
    speakers = {voice.voice_id: voice.speaker_id for voice in VoiceCatalog.load(None).all()}
    assert speakers == {
        "default": 1,
        "speaker_0": 0,
        "speaker_1": 1,
        "speaker_2": 2,
        "speaker_3": 3,
    }


def test_the_example_file_lists_the_defaults_and_describes_them() -> None:
    def facts(catalog: VoiceCatalog) -> list[tuple[str, str, int, str]]:
        return [(v.voice_id, v.name, v.speaker_id, v.category) for v in catalog.all()]

    example = VoiceCatalog.load(REPOSITORY / "voices.json")
    assert facts(example) == facts(VoiceCatalog.load(None))
    assert all(voice.description for voice in example.all())


def test_a_file_replaces_the_defaults_and_keeps_its_order(tmp_path: Path) -> None:
    catalog = load(
        tmp_path, {"zoe": {"speaker_id": 5, "name": "Zoë", "description": "Calm."}, "abe": 1}
    )
    assert catalog.all() == (
        Voice("zoe", "Zoë", 5, description="Calm."),
        Voice("abe", "abe", 1, "premade"),
    )
    with pytest.raises(UnknownVoice):
        catalog.get("default")


def test_a_listed_number_is_the_voice_of_the_file(tmp_path: Path) -> None:
    catalog = load(tmp_path, {"7": 2})
    assert catalog.get("7").speaker_id == 2
    assert catalog.get("8").speaker_id == 8


def test_an_alias_is_another_name_of_its_voice(tmp_path: Path) -> None:
    catalog = load(tmp_path, {"zoe": {"speaker_id": 5, "aliases": ["alloy", "7"]}, "abe": 1})
    zoe, abe = catalog.all()
    assert zoe.aliases == ("alloy", "7")
    assert catalog.get("alloy") is catalog.get("7") is catalog.get("zoe") is zoe
    assert catalog.get_or_nth("alloy", ("x", "alloy")) is zoe
    assert catalog.get_or_nth("x", ("x", "alloy")) is zoe
    assert catalog.get_or_nth("y", ("x", "y", "z")) is abe
    assert catalog.get_or_nth("z", ("x", "y", "z")) is zoe
    with pytest.raises(UnknownVoice):
        catalog.get_or_nth("nobody", ("x",))


def test_without_voices_no_name_has_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownVoice):
        load(tmp_path, {}).get_or_nth("alloy", ("alloy",))


@given(st.integers(0, 2**32 - 1))
def test_every_number_is_the_voice_of_its_speaker(number: int) -> None:
    assert VoiceCatalog.load(None).get(str(number)) == Voice(str(number), str(number), number)


@pytest.mark.parametrize(
    "voice_id",
    ["", "nobody", "-1", "4294967296", "9" * 5000, "1.0", " 1", "1\n", "٣", "²", "Default"],
)
def test_other_ids_have_no_voice(voice_id: str) -> None:
    with pytest.raises(UnknownVoice) as caught:
        VoiceCatalog.load(None).get(voice_id)
    assert caught.value.voice_id == voice_id


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ("[" * 500_000, "nested too deeply"),
        ('{"vera": 1, "vera": 2}', "'vera' stands twice"),
        ({"vera": "1"}, "'vera' needs a speaker_id"),
        ({"vera": True}, "'vera' needs a speaker_id"),
        ({"vera": None}, "'vera' needs a speaker_id"),
        ({"vera": -1}, "'vera' needs a speaker_id"),
        ({"vera": 2**32}, "'vera' needs a speaker_id"),
        ({"vera": {}}, "'vera' needs a speaker_id"),
        ({"ok": 1, "vera": {"speaker_id": 1, "speed": 2}}, "'vera' has an unknown key 'speed'"),
        ({"vera": {"speaker_id": 1, "name": ""}}, "name of voice 'vera'"),
        ({"vera": {"speaker_id": 1, "name": 5}}, "name of voice 'vera'"),
        ({"vera": {"speaker_id": 1, "description": 5}}, "description of voice 'vera'"),
        ({"vera": {"speaker_id": 1, "aliases": "alloy"}}, "aliases of voice 'vera'"),
        ({"vera": {"speaker_id": 1, "aliases": ["a/b"]}}, "aliases of voice 'vera'"),
        (
            {"abe": 0, "vera": {"speaker_id": 1, "aliases": ["abe"]}},
            "'abe' of voice 'vera' is taken",
        ),
        ({"vera": {"speaker_id": 1, "labels": {"accent": 5}}}, "labels of voice 'vera'"),
        ({"vera": {"speaker_id": 1, "labels": "x"}}, "labels of voice 'vera'"),
        ({"a/b": 1}, "'a/b'"),
        ({"": 1}, "''"),
    ],
)
def test_the_error_for_a_malformed_file_is_one_sentence_with_its_name(
    tmp_path: Path, content: object, named: str
) -> None:
    with pytest.raises(StartupError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert str(tmp_path / "voices.json") in message
    assert named in message
    assert message.endswith(".")
    assert "\n" not in message


def test_the_error_for_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"gone\.json cannot be read: No such file"):
        VoiceCatalog.load(tmp_path / "gone.json")


def test_the_error_for_a_file_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    path.write_bytes(b'{"caf\xe9": 1}')
    with pytest.raises(StartupError, match="not valid JSON"):
        VoiceCatalog.load(path)


def write_clip(path: Path, *, rate_hz: int = 24_000, seconds: float = 0.5) -> None:
    at = np.arange(round(rate_hz * seconds)) / rate_hz
    pcm = (8_000 * np.sin(2 * np.pi * 200 * at)).astype("<i2").tobytes()
    path.write_bytes(wav_header(rate_hz, data_bytes=len(pcm)) + pcm)


def test_a_clip_is_a_file_beside_the_voices_file_and_its_transcript(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "vera.wav")
    clips = [{"file": "clips/vera.wav", "text": " What she says. "}]
    voice = load(tmp_path, {"vera": {"speaker_id": 3, "clips": clips}}).get("vera")
    assert (voice.speaker_id, voice.category, voice.added) == (3, "cloned", False)
    file = tmp_path / "clips" / "vera.wav"
    assert voice.clips == (VoiceClip("clip0", "What she says.", file),)
    assert voice.clip("clip0") is voice.clips[0]
    assert voice.clip("clip1") is None


@pytest.mark.parametrize(
    ("clips", "problem"),
    [
        ("vera.wav", "must be a list"),
        (["vera.wav"], "needs a file and a text"),
        ([{"file": "vera.wav"}], "needs a file and a text"),
        ([{"file": "vera.wav", "text": "Yes.", "rate": 1}], "needs a file and a text"),
        ([{"file": "vera.wav", "text": " "}], "must be strings"),
        ([{"file": 7, "text": "Yes."}], "must be strings"),
        ([{"file": "none.wav", "text": "Yes."}], "none.wav of voice 'vera' cannot be read"),
        ([{"file": "empty.wav", "text": "Yes."}], "must have 1 byte to 64 MiB"),
        ([{"file": ".", "text": "Yes."}], "is no regular file"),
        ([{"file": "vera.wav", "text": "Yes."}] * 26, "more than 25 clips"),
    ],
)
def test_the_error_for_a_bad_clip_names_it(tmp_path: Path, clips: object, problem: str) -> None:
    write_clip(tmp_path / "vera.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(StartupError, match=problem) as caught:
        load(tmp_path, {"vera": {"speaker_id": 0, "clips": clips}})
    assert "vera" in str(caught.value)
