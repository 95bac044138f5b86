"""What the engine is asked to say, and what it gives back. Plain values; no torch, no trio."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_trio.timebase import FRAME_S

MAX_BATCH_FRAMES = 3
"""Frames that may travel together once the listener is ahead: 240 ms, a message's worth."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How codes are drawn; None means as the checkpoint's generation config has it.

    `temperature` 0 or `top_k` 1 makes both halves of the model greedy. `temperature_scale`
    multiplies the checkpoint's own temperatures, where `temperature` does not replace them.
    """

    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    temperature_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class PromptSegment:
    """One utterance of the past; `codes` [frames, codebooks], without an end-of-speech frame."""

    speaker_id: int
    text: str
    codes: NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sentence to be said, in one voice, after the turns it should sound like.

    `voice_id` names the voice whose clips it should sound like too, if that voice has any.

    `plays_at_s` is when its first frame is due on the monotonic clock, where earlier audio of
    its context is still playing, `frame_s` how long each plays (its tempo may be changed).
    `batch` work has no listener who waits for the next frame.
    """

    text: str
    speaker_id: int
    max_frames: int
    sampling: Sampling = Sampling()
    turns: tuple[PromptSegment, ...] = ()
    plays_at_s: float | None = None
    batch: bool = False
    voice_id: str | None = None
    frame_s: float = FRAME_S


@dataclass(frozen=True, slots=True)
class Frame:
    """80 ms of speech: 1,920 samples at 24 kHz and the codes [codebooks] they were made of.

    `glance` is where in the utterance's text the model looked meanwhile, in characters; None
    where that is not known.
    """

    pcm: NDArray[np.int16]
    codes: NDArray[np.int16]
    attended_char: float | None = None


FrameBatch = tuple[Frame, ...]
"""Frames of one utterance that are handed over together, in order; at least one."""


def buffer_empty_after(buffer_empty_at_s: float | None, now_s: float, audio_s: float) -> float:
    """Return when a player runs dry that gets `audio_s` more of sound at `now_s`.

    `buffer_empty_at_s` is when it would have without, None where it has not begun. One that ran dry
    already goes on when there is something to play.
    """
    return (now_s if buffer_empty_at_s is None else max(now_s, buffer_empty_at_s)) + audio_s


class EndReason(StrEnum):
    """Why an utterance ended. Only what was `SPOKEN` is fit to be the next prompt's context."""

    SPOKEN = "spoken"
    """The model said its frame of zeros."""
    CAPPED = "capped"
    """It reached its frame budget."""
    REPEATING = "repeating"
    """It said the same few frames over and over."""
    SILENT = "silent"
    """It said nothing audible for a long while."""
