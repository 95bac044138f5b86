"""The data directory: what is written, read again, broken, and left by a killed process."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from csm_trio.audio.wav import read_wav
from csm_trio.errors import StartupError
from csm_trio.voice_store.directory import StoredClip, VoiceDirectory, VoiceEntry, new_id
from csm_trio.voices import Voice

PCM = np.arange(100, dtype=np.int16)


def entry(name: str = "Vera", *clips: StoredClip, added_at_unix: int = 7) -> VoiceEntry:
    return VoiceEntry(
        name=name,
        speaker_id=3,
        description="Calm.",
        labels={"accent": "Scottish"},
        clips=clips or (StoredClip("What she says.", "vera.mp3", PCM),),
        added_at_unix=added_at_unix,
    )


@pytest.fixture
def directory(tmp_path: Path) -> VoiceDirectory:
    opened = VoiceDirectory(tmp_path / "data")
    opened.open()
    return opened


def read(directory: VoiceDirectory) -> list[Voice]:
    voices, problems = VoiceDirectory(directory.path).read()
    assert problems == []
    return voices


def test_an_added_voice_is_read_again(directory: VoiceDirectory) -> None:
    added = directory.add("vera", entry())
    assert read(directory) == [added]
    assert (added.voice_id, added.name, added.speaker_id, added.added) == ("vera", "Vera", 3, True)
    assert (added.description, added.labels) == ("Calm.", {"accent": "Scottish"})
    (clip,) = added.clips
    assert (clip.text, clip.file_name, clip.prepared) == ("What she says.", "vera.mp3", True)
    pcm, rate_hz = read_wav(clip.file.read_bytes())
    assert rate_hz == 24_000
    np.testing.assert_array_equal(pcm, PCM)


def test_voices_are_listed_in_the_order_of_their_addition(directory: VoiceDirectory) -> None:
    for name, added_at in (("b", 3), ("c", 1), ("a", 3)):
        directory.add(name, entry(added_at_unix=added_at))
    assert [voice.voice_id for voice in read(directory)] == ["c", "a", "b"]


def test_an_id_is_given_once(directory: VoiceDirectory) -> None:
    added = directory.add("vera", entry())
    with pytest.raises(FileExistsError):
        directory.add("vera", entry("Other"))
    assert read(directory) == [added]
    assert len({new_id() for _ in range(1_000)}) == 1_000


def test_a_change_keeps_stored_clips_and_removes_the_others(directory: VoiceDirectory) -> None:
    two = StoredClip("Two.", "2.wav", PCM[:50]), StoredClip("One.", "1.wav", PCM)
    first, second = directory.add("vera", entry("Vera", *two)).clips
    third = StoredClip("Three.", "3.wav", PCM[:70])
    changed = directory.change(
        "vera", entry("Zoe", StoredClip(second.text, second.file_name, None, second), third)
    )
    assert read(directory) == [changed]
    assert changed.name == "Zoe"
    assert changed.clips[0] == second
    assert [clip.text for clip in changed.clips] == ["One.", "Three."]
    assert not first.file.exists()
    assert len(list(second.file.parent.iterdir())) == 3


def test_a_removed_voice_is_gone(directory: VoiceDirectory) -> None:
    directory.add("vera", entry())
    directory.remove("vera")
    assert read(directory) == []
    with pytest.raises(FileNotFoundError):
        directory.remove("vera")
    with pytest.raises(FileNotFoundError):
        directory.change("vera", entry())


def test_what_a_killed_process_leaves_is_no_voice_and_goes_in_the_end(
    directory: VoiceDirectory,
) -> None:
    voices = directory.path / "voices"
    added = directory.add("vera", entry())
    (added.clips[0].file.parent / ".half").write_text("{")
    left, new = voices / ".left", voices / ".new"
    upload = directory.uploads / "left"
    for folder in (left, new, upload):
        folder.mkdir()
        (folder / "voice.json").write_text("{")
    for folder in (left, upload):
        os.utime(folder, (0, 0))
    assert read(directory) == [added]
    directory.open()
    assert not left.exists()
    assert not upload.exists()
    assert new.exists(), "another process may be writing it"
    assert read(directory) == [added]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ({}, "not the entry of a voice"),
        ({"speaker_id": -1}, "not the entry of a voice"),
        ({"labels": {"a": 1}}, "not the entry of a voice"),
        ({"clips": [{"sample_id": "../x", "text": "a"}]}, "without sample_id"),
        ({"clips": [{"sample_id": "x", "text": "a"}]}, "x.wav is missing"),
    ],
)
def test_a_broken_entry_is_one_sentence_and_harms_no_other_voice(
    directory: VoiceDirectory, content: object, problem: str
) -> None:
    directory.add("vera", entry())
    broken = directory.add("zoe", entry("Zoe")).clips[0].file.parent / "voice.json"
    whole = json.loads(broken.read_text())
    text = content if isinstance(content, str) else json.dumps({**whole, **dict(content or {})})  # type: ignore[call-overload]
    broken.write_text(text if content != {} else "{}")
    voices, problems = directory.read()
    assert [voice.voice_id for voice in voices] == ["vera"]
    assert len(problems) == 1
    assert problem in problems[0]
    assert "zoe" in problems[0]


def test_edited_settings_are_read_again(directory: VoiceDirectory) -> None:
    assert directory.read_settings() == {}
    directory.write_settings({"default": {"speed": 1.1}})
    directory.write_settings({"default": {"speed": 1.2}, "vera": {"stability": 0.0}})
    expected = {"default": {"speed": 1.2}, "vera": {"stability": 0.0}}
    assert VoiceDirectory(directory.path).read_settings() == expected
    (directory.path / "voice_settings.json").write_text("[]")
    with pytest.raises(StartupError, match="must hold objects by voice id"):
        directory.read_settings()


def test_a_directory_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"--data-dir .*file/data cannot be written to: Not a"):
        VoiceDirectory(tmp_path / "file" / "data").open()
