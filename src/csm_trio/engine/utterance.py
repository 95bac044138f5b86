"""The engine's input and output: utterances in, frames out. Plain values; no torch, no Trio."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_trio.errors import SpeechError
from csm_trio.timebase import FRAME_S

SMALL_BATCH_FRAMES = 3
"""Maximum of frames in a frame batch, once the playback buffer is at low water: 240 ms."""

MAX_BATCH_FRAMES = 6
"""Maximum of frames in a frame batch, once the playback buffer is a second ahead: 480 ms."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; None takes the value of the checkpoint's generation config.

    `temperature` 0 or `top_k` 1 makes backbone and depth decoder greedy. `temperature_scale`
    multiplies the checkpoint's own temperatures, where `temperature` does not replace them.
    """

    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    temperature_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class PromptSegment:
    """A past utterance in a prompt; `codes` [frames, codebooks] without the end-of-speech frame."""

    speaker_id: int
    text: str
    codes: NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class VoicePrefix:
    """The prompt segments of a voice's clips, with which each of its prompts begins.

    `key` is their name in the prefix cache: equal keys mean equal segments.
    """

    key: str
    segments: tuple[PromptSegment, ...] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sentence to generate, in one voice, with the prompt segments that come before it.

    `history` has the context's last utterances, oldest first; the voice's `prefix` comes before
    them, where it has clips.

    `plays_at_s` is when its first frame is due on the monotonic clock, where earlier audio of
    its context is still playing; `frame_s` is how long each frame plays (its tempo may be
    changed). `batch` work has no deadline.
    """

    text: str
    speaker_id: int
    max_frames: int
    sampling: Sampling = Sampling()
    history: tuple[PromptSegment, ...] = ()
    plays_at_s: float | None = None
    batch: bool = False
    prefix: VoicePrefix | None = None
    frame_s: float = FRAME_S


@dataclass(frozen=True, slots=True)
class Frame:
    """80 ms of speech: 1,920 samples at 24 kHz and the codes [codebooks] they were decoded from.

    `attended_char` is the position in the utterance's text that the alignment head attended to,
    in characters; None without an alignment head.
    """

    pcm: NDArray[np.int16]
    codes: NDArray[np.int16]
    attended_char: float | None = None


StepResult = Frame | SpeechError | None
"""What one step makes of a row: a frame, the error that it failed with, None at its end."""

FrameBatch = tuple[Frame, ...]
"""Frames of one utterance that are delivered together, in order; at least one."""


def buffer_empty_after(buffer_empty_at_s: float | None, now_s: float, audio_s: float) -> float:
    """Return when a playback buffer is empty that gets `audio_s` of audio at `now_s`.

    `buffer_empty_at_s` is when it is empty without that audio; None before playback begins. A
    buffer that is empty already plays the audio from `now_s` on.
    """
    return (now_s if buffer_empty_at_s is None else max(now_s, buffer_empty_at_s)) + audio_s


REPEAT_WINDOW_FRAMES = 32
"""Frames in a row that must equal the frame one period before them: 2.56 s."""
SILENCE_WINDOW_FRAMES = 25
"""Silent frames in a row that end an utterance: 2 s."""


class EndReason(StrEnum):
    """Why an utterance ended."""

    SPOKEN = "spoken"
    """The model made its end-of-speech frame (zeros)."""
    CAPPED = "capped"
    """It reached its maximum of frames."""
    REPEATING = "repeating"
    """It repeated the same few frames."""
    SILENT = "silent"
    """It was silent for 2 s."""

    @property
    def window_frames(self) -> int:
        """How many of the last frames showed that it must end; they may enter no prompt."""
        return _WINDOW_FRAMES.get(self, 0)


_WINDOW_FRAMES = {
    EndReason.REPEATING: REPEAT_WINDOW_FRAMES,
    EndReason.SILENT: SILENCE_WINDOW_FRAMES,
}
