"""Voice catalog: read the voices file, look up voices by id or alias.

A voice is a speaker id of the model, optionally with clips that become its prompt segments. The
module must not know the model, nor what is in a clip.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from csm_trio.errors import StartupError, UnknownVoice
from csm_trio.named_files import check_file, read_json

if TYPE_CHECKING:  # `csm-trio say` runs without the server's libraries
    import numpy as np
    from numpy.typing import NDArray

MAX_SPEAKER_ID = 2**32 - 1

_DEFAULT_VOICES = {
    "default": 1,  # the clearest of the embedded voice's four; for CSM-1B only a label
    "speaker_0": 0,
    "speaker_1": 1,
    "speaker_2": 2,
    "speaker_3": 3,
}
_ENTRY_KEYS = ("speaker_id", "name", "description", "clips", "aliases", "labels")
_CLIP_KEYS = ("file", "text")

_MAX_FILE_BYTES = 16 << 20
MAX_CLIP_BYTES = 64 << 20
"""A minute of 16-bit stereo at 192 kHz takes 46 MB."""
MAX_CLIPS = 25
"""Clips of one voice."""
_NUMERIC_ID = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class VoiceClip:
    """A reference clip: recorded speech of a voice and its transcript `text`, word for word.

    sample_id: its id within the voice. file: its audio; `prepared` where that is a clip as
    `audio.reference_clip` makes it. file_name: the name that it was uploaded under. codes: int16
    [frames, codebooks], once it is encoded.
    """

    sample_id: str
    text: str
    file: Path
    prepared: bool = False
    file_name: str = ""
    codes: "NDArray[np.int16] | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice by its id in the API (`voice_id`) and in the model (`speaker_id`).

    `clips` are recordings for the model to imitate. `added_at_unix` is the time at which it was
    added to the data directory; None for a voice of the voices file.
    """

    voice_id: str
    name: str
    speaker_id: int
    category: str = "premade"
    description: str | None = None
    clips: tuple[VoiceClip, ...] = ()
    aliases: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    added_at_unix: int | None = None

    @property
    def added(self) -> bool:
        """Whether it is in the data directory, and so can be edited and deleted."""
        return self.added_at_unix is not None

    @property
    def clips_key(self) -> str:
        """A name for its speaker and encoded clips: equal keys mean equal prompt segments."""
        digest = hashlib.sha256(str(self.speaker_id).encode())
        for clip in self.clips:
            assert clip.codes is not None
            digest.update(f"\0{clip.text}\0{clip.codes.shape}".encode())
            digest.update(clip.codes.tobytes())
        return digest.hexdigest()

    def clip(self, sample_id: str) -> VoiceClip | None:
        """Return the clip of this id; None where there is none."""
        return next((clip for clip in self.clips if clip.sample_id == sample_id), None)


class VoiceCatalog:
    """The voices by id and alias, in the order of the file.

    A number from 0 to 2^32 - 1 is the id of that speaker even where no voice is listed under it.
    """

    def __init__(self, voices: Iterable[Voice]) -> None:
        self._voices = {voice.voice_id: voice for voice in voices}
        self._named = dict(self._voices)
        for voice in self._voices.values():
            for alias in voice.aliases:
                if self._named.setdefault(alias, voice) is not voice:
                    raise _BadEntry(f"the alias {alias!r} of voice {voice.voice_id!r} is taken")

    @classmethod
    def load(cls, path: Path | None) -> "VoiceCatalog":
        """Read `{id: speaker}` or `{id: {"speaker_id": …, "name"?, "description"?, …}}`.

        `clips` is a list of `{"file": …, "text": …}`: audio files, their paths relative to the
        voices file, and their transcripts. `aliases` is a list of further ids, `labels` an object
        of strings. The file replaces the voices known without one (`None`). Raises `StartupError`
        naming the file, and the invalid voice.
        """
        if path is None:
            return cls(Voice(voice_id, voice_id, n) for voice_id, n in _DEFAULT_VOICES.items())
        name = f"The voices file {path}"
        entries = read_json(
            path, max_bytes=_MAX_FILE_BYTES, name=name, read_object=_refuse_duplicates
        )
        if not isinstance(entries, dict):
            raise StartupError(f"The voices file {path} must hold a JSON object of voices by id.")
        try:
            read = partial(_read_voice, path.parent)
            return cls([read(voice_id, entry) for voice_id, entry in entries.items()])
        except _BadEntry as error:
            raise StartupError(f"The voices file {path}: {error}.") from None

    def get(self, voice_id: str) -> Voice:
        """Return the voice of this id or alias; raise `UnknownVoice` if there is none."""
        voice = self._named.get(voice_id)
        if voice is not None:
            return voice
        if _NUMERIC_ID.fullmatch(voice_id) and int(voice_id) <= MAX_SPEAKER_ID:
            return Voice(voice_id, voice_id, int(voice_id))
        raise UnknownVoice(voice_id)

    def find(self, voice_id: str) -> Voice | None:
        """Return the listed voice of this id or alias; None where there is none."""
        return self._named.get(voice_id)

    def get_or_nth(self, voice_id: str, names: Sequence[str]) -> Voice:
        """Return the voice of this id, or the listed voice at the id's index in `names`.

        Indices beyond the listed voices wrap around. Raises `UnknownVoice` for an id
        that is neither.
        """
        listed = self.all()
        if voice_id in names and voice_id not in self._named and listed:
            return listed[names.index(voice_id) % len(listed)]
        return self.get(voice_id)

    def all(self) -> tuple[Voice, ...]:
        """Return the listed voices."""
        return tuple(self._voices.values())


class _BadEntry(Exception):
    """An entry of a voices file is invalid; the text names it and the reason."""


def _read_voice(folder: Path, voice_id: str, entry: object) -> Voice:
    if not _fits_a_path(voice_id):
        raise _BadEntry(f"voice {voice_id!r} must have an id that fits a path: not empty, no '/'")
    if not isinstance(entry, dict):
        entry = {"speaker_id": entry}
    for key in entry:
        if key not in _ENTRY_KEYS:
            raise _BadEntry(
                f"voice {voice_id!r} has an unknown key {key!r}; known are {', '.join(_ENTRY_KEYS)}"
            )
    speaker_id = entry.get("speaker_id")
    if not is_speaker_id(speaker_id):
        raise _BadEntry(
            f"voice {voice_id!r} needs a speaker_id, a whole number from 0 to {MAX_SPEAKER_ID}"
        )
    name, description = entry.get("name", voice_id), entry.get("description")
    if not isinstance(name, str) or not name:
        raise _BadEntry(f"the name of voice {voice_id!r} must be a string, and not empty")
    if not isinstance(description, str | None):
        raise _BadEntry(f"the description of voice {voice_id!r} must be a string")
    clips = _read_clips(folder, voice_id, entry.get("clips", []))
    category = "cloned" if clips else "premade"
    aliases = _read_aliases(voice_id, entry.get("aliases", []))
    labels = read_labels(entry.get("labels"))
    if labels is None:
        raise _BadEntry(f"the labels of voice {voice_id!r} must be an object of strings")
    return Voice(voice_id, name, speaker_id, category, description, clips, aliases, labels)


def is_speaker_id(value: object) -> TypeGuard[int]:
    """Return whether a value of JSON is a speaker id."""
    return type(value) is int and 0 <= value <= MAX_SPEAKER_ID


def read_labels(value: object) -> dict[str, str] | None:
    """Return the labels that `value` holds; None for anything but strings by name, or null."""
    if value is None:
        return {}
    strings = isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(text, str) for name, text in value.items()
    )
    return dict(value) if isinstance(value, dict) and strings else None


def _read_aliases(voice_id: str, entries: object) -> tuple[str, ...]:
    if isinstance(entries, list) and all(
        isinstance(alias, str) and _fits_a_path(alias) for alias in entries
    ):
        return tuple(entries)
    raise _BadEntry(f"the aliases of voice {voice_id!r} must be a list of ids")


def _fits_a_path(voice_id: str) -> bool:
    return bool(voice_id) and "/" not in voice_id


def _read_clips(folder: Path, voice_id: str, entries: object) -> tuple[VoiceClip, ...]:
    if not isinstance(entries, list):
        raise _BadEntry(f"the clips of voice {voice_id!r} must be a list")
    if len(entries) > MAX_CLIPS:
        raise _BadEntry(f"voice {voice_id!r} has more than {MAX_CLIPS} clips")
    clips = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or set(entry) != set(_CLIP_KEYS):
            raise _BadEntry(f"each clip of voice {voice_id!r} needs a file and a text, no more")
        file, text = entry["file"], entry["text"]
        if not isinstance(file, str) or not isinstance(text, str) or not text.strip():
            raise _BadEntry(f"the file and text of a clip of voice {voice_id!r} must be strings")
        try:
            name = f"the clip {file} of voice {voice_id!r}"
            check_file(folder / file, max_bytes=MAX_CLIP_BYTES, name=name)
        except StartupError as error:
            raise _BadEntry(str(error).removesuffix(".")) from None
        clips.append(VoiceClip(f"clip{index}", text.strip(), folder / file))
    return tuple(clips)


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"{key!r} stands twice in one object")
        members[key] = value
    return members
