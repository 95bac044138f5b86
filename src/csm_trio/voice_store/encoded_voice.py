"""What goes to the process that encodes voices, and what comes back. Plain values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from csm_trio.config import EngineConfig
from csm_trio.voices import Voice


@dataclass(frozen=True, slots=True)
class ClipSource:
    """A clip to encode: an audio file and its transcript; a `prepared` one is taken as it is."""

    file: Path
    text: str
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class VoiceSource:
    """A voice to encode; its speaker id is chosen among `speaker_ids`."""

    speaker_ids: tuple[int, ...]
    clips: tuple[ClipSource, ...]

    @classmethod
    def of(cls, voice: Voice) -> Self:
        """Return a known voice as a source; its speaker id stays."""
        clips = (ClipSource(clip.file, clip.text, clip.prepared) for clip in voice.clips)
        return cls((voice.speaker_id,), tuple(clips))


@dataclass(frozen=True, slots=True)
class EncodingRequest:
    """Voices to encode, with the codec of the model that the settings name."""

    engine: EngineConfig
    voices: tuple[VoiceSource, ...]


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A prepared clip: its text, its samples int16 [n] at 24 kHz, its codes [frames, codebooks]."""

    text: str
    pcm: NDArray[np.int16]
    codes: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class EncodedVoice:
    """A voice's prompt: its speaker id and clips; `warnings` are sentences for its owner."""

    speaker_id: int
    clips: tuple[EncodedClip, ...]
    warnings: tuple[str, ...] = ()


EncodingOutcome = EncodedVoice | str
"""An encoded voice, or the sentence that says why it cannot be used."""
