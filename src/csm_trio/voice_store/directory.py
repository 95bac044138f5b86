"""The data directory: added voices as files, valid after a kill at any moment.

    DIR/voices/ID/voice.json      speaker_id, name, description, labels, added_at_unix, clips
    DIR/voices/ID/SAMPLE.wav      a prepared clip
    DIR/voice_settings.json       edited settings of any voice, by its id
    DIR/uploads/                  files of requests that are being read

A voice appears and disappears with the rename of its folder, and changes with the rename of its
voice.json; so several processes may write. Every function blocks: call it in a thread.
"""

import contextlib
import json
import os
import secrets
import shutil
import string
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.wav import wav_header
from csm_trio.errors import StartupError
from csm_trio.named_files import read_json
from csm_trio.timebase import SAMPLE_RATE_HZ
from csm_trio.voices import Voice, VoiceClip, is_speaker_id, read_labels

_MAX_JSON_BYTES = 1 << 20
_UNFINISHED = "."
"""First character of folders that are not (any more) a voice."""
_LEFTOVER_S = 3600.0
"""Seconds after which what a killed process has left is removed."""
_ID_CHARS = string.ascii_letters + string.digits


def new_id() -> str:
    """Return a new id for a voice or a sample: 20 letters and digits, as ElevenLabs' are."""
    return "".join(secrets.choice(_ID_CHARS) for _ in range(20))


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A clip to store: prepared samples int16 [n] at 24 kHz, or the file of a stored one."""

    text: str
    file_name: str
    pcm: NDArray[np.int16] | None
    stored: VoiceClip | None = None


@dataclass(frozen=True, slots=True)
class VoiceEntry:
    """What the directory holds of a voice."""

    name: str
    speaker_id: int
    description: str | None
    labels: Mapping[str, str]
    clips: tuple[StoredClip, ...]
    added_at_unix: int


class VoiceDirectory:
    """The voices of one data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uploads = path / "uploads"
        self._voices = path / "voices"
        self._settings = path / "voice_settings.json"

    def open(self) -> None:
        """Make the directory, and remove what killed processes have left.

        Raises StartupError where it cannot be written to.
        """
        try:
            for folder in (self._voices, self.uploads):
                folder.mkdir(parents=True, exist_ok=True)
            with _removed_at_exit(self._voices / f"{_UNFINISHED}{new_id()}") as probe:
                probe.mkdir()
            old_s = time.time() - _LEFTOVER_S
            for folder in (*self._voices.iterdir(), *self.uploads.iterdir()):
                unfinished = folder.parent == self.uploads or folder.name.startswith(_UNFINISHED)
                if unfinished and folder.stat().st_mtime < old_s:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise StartupError(
                f"--data-dir {self.path} cannot be written to: {error.strerror}."
            ) from None

    def paths(self) -> list[Path]:
        """Return the files and folders by whose change the directory has changed."""
        with contextlib.suppress(OSError):
            entries = [folder / "voice.json" for folder in self._folders()]
            return [self._voices, *entries]
        return [self._voices]

    def read(self) -> tuple[list[Voice], list[str]]:
        """Return the voices, oldest first, and a sentence about each that is broken.

        Raises OSError where the directory itself cannot be read.
        """
        voices, problems = [], []
        for folder in self._folders():
            try:
                voices.append(_read_voice(folder))
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as error:
                problems.append(f"{folder}: {error.strerror}.")
            except StartupError as error:
                problems.append(str(error))
        voices.sort(key=lambda voice: (voice.added_at_unix, voice.voice_id))
        return voices, problems

    def read_settings(self) -> dict[str, dict[str, Any]]:
        """Return the edited settings by voice id; raise StartupError for a broken file."""
        if not self._settings.exists():
            return {}
        value = read_json(self._settings, max_bytes=16 * _MAX_JSON_BYTES)
        if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
            raise StartupError(f"{self._settings} must hold objects by voice id.")
        return value

    def write_settings(self, settings: Mapping[str, Mapping[str, object]]) -> None:
        """Replace the edited settings."""
        _write_json(self._settings, settings)

    def has(self, voice_id: str) -> bool:
        """Return whether there is a voice of this id."""
        return self._folder(voice_id).is_dir()

    def add(self, voice_id: str, entry: VoiceEntry) -> Voice:
        """Store a new voice and return it; raises FileExistsError where the id is taken."""
        with _removed_at_exit(self._voices / f"{_UNFINISHED}{new_id()}") as folder:
            folder.mkdir()
            _write_entry(folder, entry)
            if self.has(voice_id):
                raise FileExistsError(voice_id)
            folder.rename(self._folder(voice_id))
            _sync_folder(self._voices)
        return _read_voice(self._folder(voice_id))

    def change(self, voice_id: str, entry: VoiceEntry) -> Voice:
        """Replace a voice's entry and return it; raises FileNotFoundError where it is gone."""
        folder = self._folder(voice_id)
        _write_entry(folder, entry)
        voice = _read_voice(folder)
        kept = {folder / "voice.json", *(clip.file for clip in voice.clips)}
        for file in folder.iterdir():
            if file not in kept:
                file.unlink(missing_ok=True)
        return voice

    def remove(self, voice_id: str) -> None:
        """Remove a voice; raises FileNotFoundError where there is none."""
        with _removed_at_exit(self._voices / f"{_UNFINISHED}{new_id()}") as gone:
            self._folder(voice_id).rename(gone)
            _sync_folder(self._voices)

    def _folder(self, voice_id: str) -> Path:
        assert "/" not in voice_id
        assert not voice_id.startswith(_UNFINISHED)
        return self._voices / voice_id

    def _folders(self) -> list[Path]:
        return [one for one in self._voices.iterdir() if not one.name.startswith(_UNFINISHED)]


@contextlib.contextmanager
def _removed_at_exit(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_voice(folder: Path) -> Voice:
    """Read one voice; raise FileNotFoundError where it is gone, StartupError where it is broken."""
    path = folder / "voice.json"
    path.stat()
    value = read_json(path, max_bytes=_MAX_JSON_BYTES)
    if not isinstance(value, dict):
        raise StartupError(f"{path} must hold a JSON object.")
    name, speaker_id = value.get("name"), value.get("speaker_id")
    description, added_at = value.get("description"), value.get("added_at_unix")
    labels, clips = read_labels(value.get("labels")), value.get("clips")
    if not (
        isinstance(name, str)
        and is_speaker_id(speaker_id)
        and isinstance(description, str | None)
        and isinstance(added_at, int)
        and labels is not None
        and isinstance(clips, list)
    ):
        raise StartupError(f"{path} is not the entry of a voice.")
    return Voice(
        folder.name,
        name,
        speaker_id,
        category="cloned",
        description=description,
        clips=tuple(_read_clip(path, clip) for clip in clips),
        labels=labels,
        added_at_unix=added_at,
    )


def _read_clip(entry: Path, value: object) -> VoiceClip:
    members = value if isinstance(value, dict) else {}
    sample_id, text, name = (members.get(key) for key in ("sample_id", "text", "file_name"))
    if not (isinstance(sample_id, str) and sample_id.isalnum() and isinstance(text, str)):
        raise StartupError(f"{entry} has a clip without sample_id and text.")
    file = entry.parent / f"{sample_id}.wav"
    if not file.is_file():
        raise StartupError(f"{file} is missing.")
    return VoiceClip(sample_id, text, file, prepared=True, file_name=str(name or file.name))


def _write_entry(folder: Path, entry: VoiceEntry) -> None:
    """Write new clips, then the entry that names them."""
    clips = [
        {"sample_id": _stored_id(folder, clip), "text": clip.text, "file_name": clip.file_name}
        for clip in entry.clips
    ]
    _write_json(
        folder / "voice.json",
        {
            "name": entry.name,
            "speaker_id": entry.speaker_id,
            "description": entry.description,
            "labels": dict(entry.labels),
            "added_at_unix": entry.added_at_unix,
            "clips": clips,
        },
    )


def _stored_id(folder: Path, clip: StoredClip) -> str:
    """Return the sample's id; write its file where it is new."""
    if clip.stored is not None:
        return clip.stored.sample_id
    assert clip.pcm is not None
    sample_id, data = new_id(), clip.pcm.astype("<i2").tobytes()
    header = wav_header(SAMPLE_RATE_HZ, data_bytes=len(data))
    _write_file(folder / f"{sample_id}.wav", header + data)
    return sample_id


def _write_json(path: Path, value: object) -> None:
    data = json.dumps(value, ensure_ascii=False, indent=1).encode()
    _write_file(path, data)


def _write_file(path: Path, data: bytes) -> None:
    """Write a file under a name of its own, then give it its name: it is whole at any moment."""
    partial = path.with_name(f"{_UNFINISHED}{new_id()}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
