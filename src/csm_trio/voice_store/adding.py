"""From a new voice and its files to an entry of the data directory."""

from collections.abc import Iterable, Sequence
from time import time

from csm_trio.config import EngineConfig
from csm_trio.errors import InvalidRequest, NotOffered, StartupError
from csm_trio.voice_store.changes import NewVoice, UploadedClip
from csm_trio.voice_store.directory import StoredClip, VoiceEntry
from csm_trio.voice_store.encoded_voice import (
    ClipSource,
    EncodedVoice,
    EncodingRequest,
    VoiceSource,
)
from csm_trio.voice_store.encoder_process import EncodeVoices
from csm_trio.voices import Voice

_MAX_SPEAKER_IDS = 16
"""Speaker ids among which one is chosen for a new voice."""


def speaker_ids(new: NewVoice, listed: Iterable[Voice]) -> tuple[int, ...]:
    """Return the ids among which one is chosen: its own, else 0 and those of the listed voices."""
    if new.speaker_id is not None:
        return (new.speaker_id,)
    ids = {0, *(voice.speaker_id for voice in listed)}
    return tuple(sorted(ids)[:_MAX_SPEAKER_IDS])


def clip_sources(clips: Sequence[UploadedClip]) -> tuple[ClipSource, ...]:
    """Return uploaded clips as sources of encoding."""
    return tuple(ClipSource(clip.file, clip.text) for clip in clips)


async def encode_new(
    source: VoiceSource, engine: EngineConfig, encode: EncodeVoices
) -> EncodedVoice:
    """Encode one voice.

    Raises InvalidRequest where its clips cannot be used, and NotOffered where nothing can be
    encoded.
    """
    try:
        (outcome,) = await encode(EncodingRequest(engine, (source,)))
    except StartupError as error:
        raise NotOffered(str(error)) from None
    if isinstance(outcome, str):
        raise InvalidRequest(outcome, param="files")
    return outcome


def stored_clips(clips: Sequence[UploadedClip], encoded: EncodedVoice) -> tuple[StoredClip, ...]:
    """Return uploaded clips as they are stored: prepared, with the client's names of them."""
    return tuple(
        StoredClip(made.text, clip.file_name, made.pcm)
        for clip, made in zip(clips, encoded.clips, strict=True)
    )


def new_entry(new: NewVoice, encoded: EncodedVoice) -> VoiceEntry:
    """Return the entry of a new voice."""
    return VoiceEntry(
        name=new.name,
        speaker_id=encoded.speaker_id,
        description=new.description,
        labels=new.labels or {},
        clips=stored_clips(new.clips, encoded),
        added_at_unix=int(time()),
    )
