"""What a client asks of the voices: a new one, or a change of one. Plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class UploadedClip:
    """A clip as it was uploaded: an audio file, its transcript, and the client's name of it."""

    file: Path
    text: str
    file_name: str


@dataclass(frozen=True, slots=True)
class NewVoice:
    """A voice to add; without a `speaker_id` the one that suits its clips is chosen."""

    name: str
    clips: tuple[UploadedClip, ...]
    description: str | None = None
    labels: Mapping[str, str] | None = None
    speaker_id: int | None = None


@dataclass(frozen=True, slots=True)
class AddedVoice:
    """The id of a new voice; `warnings` are sentences about its clips."""

    voice_id: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VoiceChange:
    """A change of an added voice: None leaves a value as it is.

    `clips` are added to those that it has, `without_samples` are ids of clips to remove.
    """

    name: str | None = None
    description: str | None = None
    labels: Mapping[str, str] | None = None
    clips: tuple[UploadedClip, ...] = ()
    without_samples: tuple[str, ...] = ()
