"""The voices of one server: read at start and on change; added, changed and deleted by request.

Files are the truth: a change writes them, then has them read again. One task reads; it alone
replaces the catalog, so every request sees a whole one. A broken file keeps what was known.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import trio
from numpy.typing import NDArray

from csm_trio.config import Config
from csm_trio.errors import (
    InvalidRequest,
    NotOffered,
    NotStored,
    StartupError,
    TooManyVoices,
    UnknownVoice,
)
from csm_trio.protocol.fields import JsonFields
from csm_trio.protocol.speech_fields import NO_VOICE_SETTINGS, read_voice_settings
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.voice_store.adding import (
    clip_sources,
    encode_new,
    new_entry,
    speaker_ids,
    stored_clips,
)
from csm_trio.voice_store.changes import AddedVoice, NewVoice, VoiceChange
from csm_trio.voice_store.directory import StoredClip, VoiceDirectory, VoiceEntry, new_id
from csm_trio.voice_store.encoded_voice import (
    ClipSource,
    EncodedVoice,
    EncodingOutcome,
    EncodingRequest,
    VoiceSource,
)
from csm_trio.voice_store.encoder_process import EncodeVoices
from csm_trio.voices import MAX_CLIPS, Voice, VoiceCatalog, VoiceClip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _ClipKey:
    """A clip as it was when it was encoded."""

    file: Path
    text: str
    mtime_ns: int
    n_bytes: int

    @classmethod
    def of(cls, clip: VoiceClip) -> "_ClipKey":
        """Look at the clip's file; raises OSError where it is gone."""
        stat = clip.file.stat()
        return cls(clip.file, clip.text, stat.st_mtime_ns, stat.st_size)


@dataclass(frozen=True, slots=True)
class _Codes:
    """What encoding made of a clip: its text may have been cut with it."""

    text: str
    codes: NDArray[np.int16]


_QUOTED = re.compile("“.*”", re.DOTALL)
"""A transcript that a warning quotes to the voice's owner."""


class VoiceStore:
    """Reads and changes the voices; `catalog` is that of the last reading."""

    def __init__(self, config: Config, encode: EncodeVoices) -> None:
        self.catalog = VoiceCatalog(())
        self._settings: dict[str, VoiceSettings] = {}
        self._engine, self._speech = config.engine, config.speech
        self._encode = encode
        folder = config.speech.data_dir
        self._directory = None if folder is None else VoiceDirectory(folder)
        self._listed: tuple[Voice, ...] = ()
        self._codes: dict[_ClipKey, _Codes] = {}
        self._encoding = trio.CapacityLimiter(1)
        self._writing_settings = trio.CapacityLimiter(1)
        self._n_adding = 0
        # Readers that wait for the next reading to end, and the event that begins it.
        self._waiting: list[trio.Event] = []
        self._reading_wanted = trio.Event()
        self._problems: set[str] = set()

    # --- reading ---

    async def load(self) -> None:
        """Read all voices for the first time, and encode their clips.

        Raises StartupError where the voices file or the data directory cannot be used; a broken
        added voice is logged and left out.
        """
        if self._directory is not None:
            await trio.to_thread.run_sync(self._directory.open)
            self._settings = await trio.to_thread.run_sync(_read_settings, self._directory)
        self._listed = await self._read_listed()
        await self._read_added(set())

    async def run(
        self, on_change: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    ) -> NoReturn:
        """Read the voices again whenever `read_again` asks for it; then call `on_change`."""
        while True:
            await self._reading_wanted.wait()
            self._reading_wanted = trio.Event()
            waiting, self._waiting = self._waiting, []
            problems: set[str] = set()
            try:
                self._listed = await self._read_listed()
            except StartupError as error:
                problems.add(f"{error} The voices of this file stay as they were.")
            await self._read_added(problems)
            await on_change()
            for event in waiting:
                event.set()

    async def read_again(self) -> None:
        """Have the files read again; return when their voices are the current ones."""
        read = trio.Event()
        self._waiting.append(read)
        self._reading_wanted.set()
        await read.wait()

    @property
    def settings(self) -> Mapping[str, VoiceSettings]:
        """The edited settings by voice id."""
        return self._settings

    @property
    def has_files(self) -> bool:
        """Whether there are files that may change."""
        return self._speech.voices_file is not None or self._directory is not None

    def paths(self) -> list[Path]:
        """Return the files by whose change the voices have changed; blocks."""
        file = self._speech.voices_file
        clips = [clip.file for voice in self._listed for clip in voice.clips]
        added = [] if self._directory is None else self._directory.paths()
        return [*([] if file is None else [file]), *clips, *added]

    async def _read_listed(self) -> tuple[Voice, ...]:
        """Return the voices of the voices file, encoded; raise StartupError where one is broken."""
        path = self._speech.voices_file
        catalog = await trio.to_thread.run_sync(VoiceCatalog.load, path)
        voices, problems = await self._encoded(catalog.all())
        for voice_id, problem in problems.items():
            raise StartupError(f"The voices file {path}: voice {voice_id!r}: {problem}")
        return tuple(voices)

    async def _read_added(self, problems: set[str]) -> None:
        """Read the data directory, publish all voices, and log the problems that are new."""
        added = await self._read_directory(problems)
        taken = {name for voice in self._listed for name in (voice.voice_id, *voice.aliases)}
        problems.update(
            f"voice {voice.voice_id!r} of the data directory has the id of another voice"
            for voice in added
            if voice.voice_id in taken
        )
        added = [voice for voice in added if voice.voice_id not in taken]
        self.catalog = VoiceCatalog([*self._listed, *added])
        for problem in problems - self._problems:
            logger.error("voices: %s", problem)
        self._problems = problems

    async def _read_directory(self, problems: set[str]) -> list[Voice]:
        """Return the added voices, encoded; a broken one stays as it was."""
        if self._directory is None:
            return []
        try:
            stored, broken = await trio.to_thread.run_sync(self._directory.read)
        except OSError as error:
            problems.add(f"{error.filename}: {error.strerror}; the added voices stay as they were")
            return self._added
        problems.update(broken)
        added, unusable = await self._encoded(stored)
        problems.update(f"voice {name!r}: {why}" for name, why in unusable.items())
        kept = {voice.voice_id for voice in stored} & set(unusable)
        return added + [voice for voice in self._added if voice.voice_id in kept]

    @property
    def _added(self) -> list[Voice]:
        return [voice for voice in self.catalog.all() if voice.added]

    async def _encoded(self, voices: Sequence[Voice]) -> tuple[list[Voice], dict[str, str]]:
        """Encode the clips that are new; return the voices, and why others cannot be used."""
        keys, problems = await trio.to_thread.run_sync(_keys_of, voices)
        missing = [
            voice
            for voice in voices
            if any(key not in self._codes for key in keys.get(voice.voice_id, ()))
        ]
        if missing:
            for voice, outcome in zip(missing, await self._outcomes(missing), strict=True):
                if isinstance(outcome, str):
                    problems[voice.voice_id] = outcome
                else:
                    self._keep(keys[voice.voice_id], outcome)
        usable = [voice for voice in voices if voice.voice_id not in problems]
        return [self._with_codes(voice, keys[voice.voice_id]) for voice in usable], problems

    async def _outcomes(self, voices: Sequence[Voice]) -> Sequence[EncodingOutcome]:
        sources = tuple(VoiceSource.of(voice) for voice in voices)
        try:
            async with self._encoding:
                return await self._encode(EncodingRequest(self._engine, sources))
        except StartupError as error:
            # Nothing can be encoded now: that must not end a server that runs.
            return [str(error)] * len(voices)

    def _keep(self, keys: Sequence[_ClipKey], encoded: EncodedVoice) -> None:
        for key, clip in zip(keys, encoded.clips, strict=True):
            self._codes[key] = _Codes(clip.text, clip.codes)
        for warning in encoded.warnings:
            shown = warning if self._speech.log_texts else _QUOTED.sub("(not logged)", warning)
            logger.warning("voices: %s", shown)

    def _with_codes(self, voice: Voice, keys: Sequence[_ClipKey]) -> Voice:
        found = [self._codes[key] for key in keys]
        clips = [
            replace(clip, text=one.text, codes=one.codes)
            for clip, one in zip(voice.clips, found, strict=True)
        ]
        return replace(voice, clips=tuple(clips))

    # --- changing ---

    async def add(self, new: NewVoice) -> AddedVoice:
        """Add a voice; return when requests may name it.

        Raises NotOffered without a data directory, TooManyVoices at the limit, InvalidRequest for
        clips that cannot be used, NotStored where the directory cannot be written to.
        """
        directory = self._writable()
        with self._counted():
            source = VoiceSource(speaker_ids(new, self._listed), clip_sources(new.clips))
            encoded = await self._encode_new(source)
            entry, voice_id = new_entry(new, encoded), new_id()
            await self._write(partial(directory.add, voice_id, entry), encoded)
            await self.read_again()
        return AddedVoice(voice_id, encoded.warnings)

    async def change(self, voice_id: str, change: VoiceChange) -> None:
        """Change an added voice; return when requests see the change.

        Raises UnknownVoice, NotOffered for a voice of the voices file, and as `add`.
        """
        voice = self._added_voice(voice_id)
        kept = [clip for clip in voice.clips if clip.sample_id not in change.without_samples]
        if len(kept) + len(change.clips) > MAX_CLIPS:
            raise InvalidRequest(f"A voice has at most {MAX_CLIPS} files.", param="files")
        stored = tuple(StoredClip(clip.text, clip.file_name, None, clip) for clip in kept)
        encoded = EncodedVoice(voice.speaker_id, ())
        if change.clips:
            sources = (
                *(ClipSource(clip.file, clip.text, prepared=True) for clip in kept),
                *clip_sources(change.clips),
            )
            encoded = await self._encode_new(VoiceSource((voice.speaker_id,), sources))
            new = replace(encoded, clips=encoded.clips[len(kept) :])
            stored += stored_clips(change.clips, new)
        entry = VoiceEntry(
            name=voice.name if change.name is None else change.name,
            speaker_id=voice.speaker_id,
            description=voice.description if change.description is None else change.description,
            labels=voice.labels if change.labels is None else change.labels,
            clips=stored,
            added_at_unix=voice.added_at_unix or 0,
        )
        await self._write(partial(self._writable().change, voice_id, entry), encoded)
        await self.read_again()

    async def remove(self, voice_id: str) -> None:
        """Remove an added voice; contexts that use it speak on.

        Raises UnknownVoice, and NotOffered for a voice of the voices file.
        """
        directory = self._writable()
        self._added_voice(voice_id)
        try:
            await trio.to_thread.run_sync(directory.remove, voice_id)
        except FileNotFoundError:
            raise UnknownVoice(voice_id) from None
        except OSError as error:
            raise NotStored(error.strerror) from None
        await self.edit_settings(voice_id, None)
        await self.read_again()

    async def edit_settings(self, voice_id: str, changes: VoiceSettings | None) -> None:
        """Change the settings of a voice, or with None forget them; they outlive the server only
        with a data directory.

        Raises NotStored where the directory cannot be written to.
        """
        old = self._settings.pop(voice_id, NO_VOICE_SETTINGS)
        if changes is not None:
            self._settings[voice_id] = old.overridden_by(changes)
        elif old is NO_VOICE_SETTINGS:
            return
        if self._directory is None:
            return
        async with self._writing_settings:
            values = {name: one.set_values() for name, one in self._settings.items()}
            try:
                await trio.to_thread.run_sync(self._directory.write_settings, values)
            except OSError as error:
                raise NotStored(error.strerror) from None

    def _writable(self) -> VoiceDirectory:
        if self._directory is None:
            raise NotOffered("This server keeps no voices: start it with --data-dir.")
        return self._directory

    def _added_voice(self, voice_id: str) -> Voice:
        voice = self.catalog.get(voice_id)
        if not voice.added:
            raise NotOffered("Only an added voice can be changed or deleted.")
        return voice

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a voice that is being added; raise TooManyVoices at the limit."""
        if len(self._added) + self._n_adding >= self._speech.max_voices:
            raise TooManyVoices(self._speech.max_voices)
        self._n_adding += 1
        try:
            yield
        finally:
            self._n_adding -= 1

    async def _encode_new(self, source: VoiceSource) -> EncodedVoice:
        async with self._encoding:
            return await encode_new(source, self._engine, self._encode)

    async def _write(self, write: Callable[[], Voice], encoded: EncodedVoice) -> None:
        """Write a voice to the directory; the codes of its new clips need not be made again."""
        try:
            voice = await trio.to_thread.run_sync(write)
            keys, _ = await trio.to_thread.run_sync(_keys_of, [voice])
        except FileNotFoundError:
            raise NotStored("it was deleted meanwhile") from None
        except OSError as error:
            raise NotStored(error.strerror) from None
        if encoded.clips and voice.voice_id in keys:
            self._keep(keys[voice.voice_id], encoded)


def _keys_of(voices: Sequence[Voice]) -> tuple[dict[str, list[_ClipKey]], dict[str, str]]:
    """Return the keys of the voices' clips by voice id, and why others have none."""
    keys: dict[str, list[_ClipKey]] = {}
    problems: dict[str, str] = {}
    for voice in voices:
        try:
            keys[voice.voice_id] = [_ClipKey.of(clip) for clip in voice.clips]
        except OSError as error:
            problems[voice.voice_id] = f"{error.filename}: {error.strerror}."
    return keys, problems


def _read_settings(directory: VoiceDirectory) -> dict[str, VoiceSettings]:
    return {
        voice_id: read_voice_settings(JsonFields(values, within=voice_id))
        for voice_id, values in directory.read_settings().items()
    }
