"""Frames with the sentences they are of, on their way to be encoded; and what is being said when.

It must not know how frames are made, nor what they are encoded to.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.alignment import Aligned
from csm_trio.engine.utterance import Frame
from csm_trio.text.spans import SpokenText


@dataclass(frozen=True, slots=True)
class SentenceBegin:
    """The frames after it say this; `voice` names whose they are."""

    spoken: SpokenText
    voice: str


@dataclass(frozen=True, slots=True)
class SentenceEnd:
    """The sentence has no more frames."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What one voice of a dialogue was to say before another's turn has all been said."""


_NEAR_CHARS = 8  # as many as may pass in the frames that come at once, and some

StreamItem = SentenceBegin | Frame | SentenceEnd | TurnEnd
StreamItems = tuple[StreamItem, ...]


def frames_of(items: Iterable[StreamItem]) -> list[Frame]:
    """Return the frames among `pieces`."""
    return [item for item in items if isinstance(item, Frame)]


def has_turn_end(items: Iterable[StreamItem]) -> bool:
    """Tell whether a turn ends among `pieces`."""
    return any(isinstance(item, TurnEnd) for item in items)


def chunks_of(items: Iterable[StreamItem], most_frames: int) -> Iterator[list[StreamItem]]:
    """Part pieces into chunks of at most so many frames, none of two turns.

    An end stays with the frame before it.
    """
    chunk: list[StreamItem] = []
    frames = 0
    for item in items:
        if frames == most_frames and not isinstance(item, SentenceEnd | TurnEnd):
            yield chunk
            chunk, frames = [], 0
        chunk.append(item)
        frames += isinstance(item, Frame)
        if isinstance(item, TurnEnd):
            yield chunk
            chunk, frames = [], 0
    if chunk:
        yield chunk


class TimestampTracker:
    """Tells which characters begin in each chunk; without an aligner it never does."""

    def __init__(self, aligner: Aligner | None) -> None:
        self._aligner = aligner

    def ready(self, held: list[StreamItem]) -> int:
        """Return how many of `held` to send now: a sentence's end should go with its last frame.

        So where the end may be next, the last frame waits for it. That is silence, which nobody
        hears a player run dry of; or near the end one of several, which come to those who are
        ahead.
        """
        left = None if self._aligner is None else self._aligner.chars_left
        near_chars = _NEAR_CHARS if len(frames_of(held)) > 1 else 0
        waits = left is not None and left <= near_chars and isinstance(held[-1], Frame)
        return len(held) - waits

    def advance(self, chunk: Iterable[StreamItem], *, heard: bool) -> Aligned | None:
        """Follow one more chunk; return what has begun in it and since the last that told.

        `heard` says whether the client gets bytes with it: without, only a sentence's end is worth
        a message.
        """
        if self._aligner is None:
            return None
        ended = False
        for _, group in groupby(chunk, _heard_together):
            items = list(group)
            match items[0]:
                case SentenceBegin(spoken=spoken, voice=voice):
                    self._aligner.begin(spoken, voice)
                case Frame(attended_char=None):
                    self._aligner.feed(np.concatenate([one.pcm for one in frames_of(items)]))
                case Frame(pcm=pcm, attended_char=attended_char):
                    self._aligner.feed(pcm, attended_char)
                case SentenceEnd():
                    self._aligner.end()
                    ended = True
        return self._aligner.take() if heard or ended else None


def _heard_together(item: StreamItem) -> object:
    """Tell pieces apart but for frames without a glance: as one they cost the ear less."""
    return "sound" if isinstance(item, Frame) and item.attended_char is None else id(item)
