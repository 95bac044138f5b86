"""The store of voices: reading, changing, broken files, and everything at once."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from csm_trio.config import Config, SpeechConfig
from csm_trio.errors import InvalidRequest, NotOffered, StartupError, TooManyVoices, UnknownVoice
from csm_trio.pipeline.voice_prefix import VoicePrefixes, voice_prefix
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.voice_store.changes import NewVoice, UploadedClip, VoiceChange
from csm_trio.voice_store.store import VoiceStore
from support.voice_clips import BAD, FakeEncoder, write_clip


@asynccontextmanager
async def opened(
    tmp_path: Path, encoder: FakeEncoder | None = None, **settings: object
) -> AsyncIterator[VoiceStore]:
    speech = SpeechConfig(**{"data_dir": tmp_path / "data", **settings})  # type: ignore[arg-type]
    store = VoiceStore(Config(speech=speech), encoder or FakeEncoder())
    await store.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        yield store
        nursery.cancel_scope.cancel()


def new_voice(tmp_path: Path, data: bytes = b"speech", **values: object) -> NewVoice:
    clip = UploadedClip(write_clip(tmp_path, "up", data), "What she says.", "vera.mp3")
    return NewVoice(**{"name": "Vera", "clips": (clip,), **values})  # type: ignore[arg-type]


async def test_an_added_voice_has_its_clips_as_prefix_and_survives_a_restart(
    tmp_path: Path,
) -> None:
    encoder = FakeEncoder(warnings=("It is noisy.",))
    async with opened(tmp_path, encoder) as store:
        added = await store.add(new_voice(tmp_path, labels={"accent": "none"}))
        assert added.warnings == ("It is noisy.",)
        voice = store.catalog.get(added.voice_id)
        assert (voice.name, voice.added, voice.labels) == ("Vera", True, {"accent": "none"})
        # One id is chosen among those of the listed voices; the double takes the last.
        assert encoder.requests[0].voices[0].speaker_ids == (0, 1, 2, 3)
        assert voice.speaker_id == 3
        assert len(encoder.requests) == 1, "its codes are known when it is read"
        prefix = VoicePrefixes(store.catalog).of(added.voice_id)
        assert prefix is not None
        ((speaker_id, text, codes),) = [
            (one.speaker_id, one.text, one.codes) for one in prefix.segments
        ]
        assert (speaker_id, text, codes.shape) == (3, "What she says.", (2, 4))
    async with opened(tmp_path) as store:
        assert [one.voice_id for one in store.catalog.all()][-1] == added.voice_id
        # The double's codes are the file's, and the stored file is another than the upload.
        assert store.catalog.get(added.voice_id).clips[0].codes is not None


async def test_equal_clips_have_equal_keys_and_others_do_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        ids = [
            (await store.add(new_voice(tmp_path, data, speaker_id=speaker_id))).voice_id
            for data, speaker_id in ((b"a", 0), (b"a", 0), (b"b", 0), (b"a", 1))
        ]
        keys = [store.catalog.get(one).clips_key for one in ids]
        assert keys[0] == keys[1]
        assert len(set(keys)) == 3
        assert voice_prefix(store.catalog.get("default")) is None


async def test_a_removed_voice_is_unknown_and_its_settings_are_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        voice_id = (await store.add(new_voice(tmp_path))).voice_id
        await store.edit_settings(voice_id, VoiceSettings(speed=1.1))
        await store.edit_settings("default", VoiceSettings(stability=0.25))
        await store.remove(voice_id)
        with pytest.raises(UnknownVoice):
            store.catalog.get(voice_id)
        with pytest.raises(UnknownVoice):
            await store.remove(voice_id)
    async with opened(tmp_path) as store:
        assert dict(store.settings) == {"default": VoiceSettings(stability=0.25)}


async def test_a_changed_voice_keeps_what_the_change_leaves_open(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        voice_id = (await store.add(new_voice(tmp_path, description="Calm."))).voice_id
        before = store.catalog.get(voice_id)
        more = UploadedClip(write_clip(tmp_path, "more", b"more"), "More.", "more.wav")
        await store.change(voice_id, VoiceChange(name="Zoe", clips=(more,)))
        changed = store.catalog.get(voice_id)
        assert (changed.name, changed.description) == ("Zoe", "Calm.")
        assert changed.clips[0] == before.clips[0]
        assert [clip.text for clip in changed.clips] == ["What she says.", "More."]
        assert changed.clips_key != before.clips_key
        first = changed.clips[0].sample_id
        await store.change(voice_id, VoiceChange(without_samples=(first,)))
        assert [clip.text for clip in store.catalog.get(voice_id).clips] == ["More."]


async def test_unusable_clips_add_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(InvalidRequest, match="no audio"):
            await store.add(new_voice(tmp_path, BAD))
        voice_id = (await store.add(new_voice(tmp_path))).voice_id
        bad = UploadedClip(write_clip(tmp_path, "bad", BAD), "Bad.", "bad.wav")
        with pytest.raises(InvalidRequest, match="no audio"):
            await store.change(voice_id, VoiceChange(name="Zoe", clips=(bad,)))
        assert store.catalog.get(voice_id).name == "Vera"
        many = VoiceChange(clips=(bad,) * 25)
        with pytest.raises(InvalidRequest, match="at most 25"):
            await store.change(voice_id, many)


async def test_listed_voices_are_not_changed_and_without_a_directory_none_is_added(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(NotOffered, match="Only an added voice"):
            await store.remove("default")
        with pytest.raises(NotOffered, match="Only an added voice"):
            await store.change("17", VoiceChange(name="x"))
        with pytest.raises(UnknownVoice):
            await store.change("nobody", VoiceChange(name="x"))
    async with opened(tmp_path, data_dir=None) as store:
        with pytest.raises(NotOffered, match="--data-dir"):
            await store.add(new_voice(tmp_path))
        await store.edit_settings("default", VoiceSettings(speed=0.8))
        assert store.settings["default"].speed == 0.8


async def test_voices_that_are_being_added_count_towards_the_limit(tmp_path: Path) -> None:
    encoder = FakeEncoder(gate=trio.Event())
    async with opened(tmp_path, encoder, max_voices=1) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.add, new_voice(tmp_path))
        await encoder.begun.wait()
        with pytest.raises(TooManyVoices):
            await store.add(new_voice(tmp_path))
        nursery.cancel_scope.cancel()
    assert list((tmp_path / "data" / "voices").iterdir()) == []
    async with opened(tmp_path, max_voices=1) as store:
        await store.add(new_voice(tmp_path))
        with pytest.raises(TooManyVoices):
            await store.add(new_voice(tmp_path))


def write_voices(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "voices.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def listed(store: VoiceStore) -> dict[str, int]:
    return {voice.voice_id: voice.speaker_id for voice in store.catalog.all()}


async def test_a_changed_voices_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path, "vera.wav")
    path = write_voices(tmp_path, {"vera": 1})
    encoder = FakeEncoder()
    async with opened(tmp_path, encoder, voices_file=path) as store:
        added = (await store.add(new_voice(tmp_path))).voice_id
        write_voices(tmp_path, {"vera": {"speaker_id": 2, "clips": [
            {"file": "vera.wav", "text": "Hi."}]}, "zoe": 5})  # fmt: skip
        await store.read_again()
        assert listed(store) == {"vera": 2, "zoe": 5, added: 1}
        assert store.catalog.get("vera").clips[0].codes is not None
        known = store.catalog.get("vera")
        for broken in ("{", '{"vera": -1}'):
            write_voices(tmp_path, broken)
            await store.read_again()
            await store.read_again()
            assert listed(store) == {"vera": 2, "zoe": 5, added: 1}
        clip.write_bytes(BAD)
        write_voices(tmp_path, {"vera": {"speaker_id": 9, "clips": [
            {"file": "vera.wav", "text": "Hi."}]}})  # fmt: skip
        await store.read_again()
        assert store.catalog.get("vera") == known
        assert clip in store.paths()
        assert path in store.paths()
    reasons = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert len(reasons) == 3, "each is said once"
    assert "not valid JSON" in reasons[0]
    assert "speaker_id" in reasons[1]
    assert "no audio" in reasons[2]


@pytest.mark.parametrize("log_texts", [False, True])
async def test_a_transcript_is_logged_only_where_texts_may_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, log_texts: bool
) -> None:
    encoder = FakeEncoder(warnings=("It was cut to: “She said “hi”\nand left”.",))
    async with opened(tmp_path, encoder, log_texts=log_texts) as store:
        added = await store.add(new_voice(tmp_path))
    assert "“hi”" in added.warnings[0], "its owner may read it"
    logged = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    shown = "“She said “hi”\nand left”" if log_texts else "(not logged)"
    assert logged == [f"voices: It was cut to: {shown}."]


async def test_a_broken_voices_file_stops_the_start(tmp_path: Path) -> None:
    write_clip(tmp_path, "vera.wav", BAD)
    clips = [{"file": "vera.wav", "text": "Hi."}]
    path = write_voices(tmp_path, {"vera": {"speaker_id": 9, "clips": clips}})
    with pytest.raises(StartupError, match="'vera': The file is no audio"):
        async with opened(tmp_path, voices_file=path):
            pass


async def test_a_voice_that_another_program_adds_changes_or_breaks(tmp_path: Path) -> None:
    """`csm-trio voices` writes to the directory of a running server."""
    async with opened(tmp_path) as store, opened(tmp_path) as other:
        voice_id = (await other.add(new_voice(tmp_path))).voice_id
        await store.read_again()
        assert store.catalog.get(voice_id).name == "Vera"
        entry = tmp_path / "data" / "voices" / voice_id / "voice.json"
        assert entry in store.paths()
        whole = entry.read_text()
        entry.write_text(whole.replace("Vera", "Zoe"))
        await store.read_again()
        assert store.catalog.get(voice_id).name == "Zoe"
        clip = store.catalog.get(voice_id).clips[0].file
        sound = clip.read_bytes()
        clip.write_bytes(BAD)
        os.utime(clip, (1, 1))
        await store.read_again()
        assert store.catalog.get(voice_id).name == "Zoe", "what was known stays"
        clip.write_bytes(sound)
        await other.remove(voice_id)
        await store.read_again()
        assert store.catalog.find(voice_id) is None


async def test_an_encoder_that_fails_changes_no_voice_and_ends_no_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_clip(tmp_path, "vera.wav")
    clips = [{"file": "vera.wav", "text": "Hi."}]
    path = write_voices(tmp_path, {"vera": {"speaker_id": 1, "clips": clips}})
    encoder = FakeEncoder()
    async with opened(tmp_path, encoder, voices_file=path) as store:
        added = (await store.add(new_voice(tmp_path))).voice_id
        known = store.catalog.all()
        encoder.failure = StartupError("The encoder of clips failed.")
        for file in (clip, store.catalog.get(added).clips[0].file):
            file.write_bytes(b"other speech")
            os.utime(file, (1, 1))
        await store.read_again()
        assert store.catalog.all() == known
        with pytest.raises(NotOffered, match="encoder of clips failed"):
            await store.add(new_voice(tmp_path, b"a third"))
        encoder.failure = None
        await store.read_again()
        assert [one.clips_key for one in store.catalog.all()] != [one.clips_key for one in known]
    assert caplog.text.count("The encoder of clips failed.") == 2, "once for each voice"


async def test_a_data_directory_that_cannot_be_read_keeps_its_voices(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as store:
        added = (await store.add(new_voice(tmp_path))).voice_id
        voices, aside = tmp_path / "data" / "voices", tmp_path / "aside"
        voices.rename(aside)
        await store.read_again()
        assert store.catalog.get(added).name == "Vera"
        assert voices in store.paths()
        aside.rename(voices)
        (voices / "notes.txt").write_text("A stray file.")
        await store.remove(added)
        assert store.catalog.find(added) is None
    assert "the added voices stay as they were" in caplog.text
    assert "notes.txt: Not a directory." in caplog.text


async def test_an_added_voice_never_replaces_a_listed_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_voices(tmp_path, {"vera": 1})
    async with opened(tmp_path, voices_file=path) as store:
        added = (await store.add(new_voice(tmp_path))).voice_id
        write_voices(tmp_path, {"vera": {"speaker_id": 1, "aliases": [added]}})
        await store.read_again()
        assert store.catalog.get(added).voice_id == "vera"
    assert "has the id of another voice" in caplog.text


async def test_many_changes_at_once_all_take_place(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            for index in range(8):
                nursery.start_soon(store.add, new_voice(tmp_path, name=f"v{index}"))
                edit = VoiceSettings(speed=0.7 + index / 20)
                nursery.start_soon(store.edit_settings, f"speaker_{index % 4}", edit)
        names = [voice.name for voice in store.catalog.all() if voice.added]
        assert sorted(names) == [f"v{index}" for index in range(8)]
        settings = dict(store.settings)
    async with opened(tmp_path) as store:
        assert dict(store.settings) == settings
        assert len(store.catalog.all()) == 5 + 8
