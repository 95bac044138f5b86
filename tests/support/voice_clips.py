"""A double of the process that encodes voices, and voices for it."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trio

from csm_trio.errors import StartupError
from csm_trio.voice_store.encoded_voice import (
    ClipSource,
    EncodedClip,
    EncodedVoice,
    EncodingOutcome,
    EncodingRequest,
    VoiceSource,
)

BAD = b"no sound"


def encoded_clip(source: ClipSource) -> EncodedClip:
    """Return samples and codes that depend on the file alone."""
    data = source.file.read_bytes()
    if data.startswith(BAD):
        raise ValueError("The file is no audio.")
    mark = zlib.crc32(data)
    pcm = np.full(1_920 + mark % 100, mark % 30_000, np.int16)
    return EncodedClip(source.text, pcm, np.full((2, 4), mark % 2_048, np.int16))


@dataclass(slots=True)
class FakeEncoder:
    """Encodes voices at once, or after `release`; records every request."""

    requests: list[EncodingRequest] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    failure: StartupError | None = None
    gate: trio.Event | None = None
    begun: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, request: EncodingRequest) -> Sequence[EncodingOutcome]:
        self.requests.append(request)
        self.begun.set()
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return [self._outcome(voice) for voice in request.voices]

    def _outcome(self, voice: VoiceSource) -> EncodingOutcome:
        try:
            clips = tuple(encoded_clip(clip) for clip in voice.clips)
        except ValueError as error:
            return str(error)
        return EncodedVoice(voice.speaker_ids[-1], clips, self.warnings)


def write_clip(folder: Path, name: str, data: bytes = b"speech") -> Path:
    """Write a file that the double takes for a clip."""
    path = folder / name
    path.write_bytes(data)
    return path
