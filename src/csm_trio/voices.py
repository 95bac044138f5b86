"""The voices this server knows: a JSON file in, `Voice` values by id out.

A voice is a speaker of the model; what the speaker sounds like is the model's business.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from csm_trio.errors import StartupError, UnknownVoice

MAX_SPEAKER_ID = 2**32 - 1

_DEFAULT_VOICES = {
    "default": 1,  # the clearest of the embedded voice's four; to CSM-1B a turn label
    "speaker_0": 0,
    "speaker_1": 1,
    "speaker_2": 2,
    "speaker_3": 3,
}
_ENTRY_KEYS = ("speaker_id", "name", "description", "aliases")
_NUMERIC_ID = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as callers name it (`voice_id`) and as the model knows it (`speaker_id`)."""

    voice_id: str
    name: str
    speaker_id: int
    category: str = "premade"
    description: str | None = None
    aliases: tuple[str, ...] = ()


class VoiceCatalog:
    """Every voice by its id and its aliases, in the order of the file.

    A number from 0 to 2^32 - 1 names that speaker even where no voice is listed under it.
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
        """Read `{id: speaker}` or `{id: {"speaker_id": …, "name"?, …}}`.

        The file replaces the voices known without one (`None`). Raises `StartupError` naming
        the file, and the voice in it that is wrong.
        """
        if path is None:
            return cls(Voice(voice_id, voice_id, n) for voice_id, n in _DEFAULT_VOICES.items())
        try:
            entries = json.loads(path.read_bytes(), object_pairs_hook=_refuse_duplicates)
        except OSError as error:
            raise StartupError(
                f"The voices file {path} cannot be read: {error.strerror}."
            ) from None
        except RecursionError:
            raise StartupError(f"The voices file {path} is nested too deeply.") from None
        except ValueError as error:
            raise StartupError(f"The voices file {path} is not valid JSON: {error}.") from None
        if not isinstance(entries, dict):
            raise StartupError(f"The voices file {path} must hold a JSON object of voices by id.")
        try:
            return cls([_read_voice(voice_id, entry) for voice_id, entry in entries.items()])
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

    def get_or_nth(self, voice_id: str, names: Sequence[str]) -> Voice:
        """Return the voice of this id, or else the listed one whose place the id has in `names`.

        The names go round where they are more than the voices. Raises `UnknownVoice` for an id
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
    """One entry of a voices file is wrong; the text says which and how."""


def _read_voice(voice_id: str, entry: object) -> Voice:
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
    if (
        not isinstance(speaker_id, int)
        or isinstance(speaker_id, bool)
        or not 0 <= speaker_id <= MAX_SPEAKER_ID
    ):
        raise _BadEntry(
            f"voice {voice_id!r} needs a speaker_id, a whole number from 0 to {MAX_SPEAKER_ID}"
        )
    name, description = entry.get("name", voice_id), entry.get("description")
    if not isinstance(name, str) or not name:
        raise _BadEntry(f"the name of voice {voice_id!r} must be a string, and not empty")
    if not isinstance(description, str | None):
        raise _BadEntry(f"the description of voice {voice_id!r} must be a string")
    aliases = entry.get("aliases", [])
    if not isinstance(aliases, list) or not all(
        isinstance(alias, str) and _fits_a_path(alias) for alias in aliases
    ):
        raise _BadEntry(f"the aliases of voice {voice_id!r} must be a list of ids")
    return Voice(voice_id, name, speaker_id, description=description, aliases=tuple(aliases))


def _fits_a_path(voice_id: str) -> bool:
    return bool(voice_id) and "/" not in voice_id


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"{key!r} stands twice in one object")
        members[key] = value
    return members
