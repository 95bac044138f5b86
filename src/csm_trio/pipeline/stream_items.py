"""Items that flow from generating to encoding: frames, and where sentences and turns begin and end.

It must not know how frames are generated, nor what they are encoded to.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from csm_trio.engine.utterance import Frame
from csm_trio.text.spans import SpokenText


@dataclass(frozen=True, slots=True)
class SentenceBegin:
    """The frames after it are of this sentence; `voice` is the key of its voice profile."""

    spoken: SpokenText
    voice: str


@dataclass(frozen=True, slots=True)
class SentenceEnd:
    """The sentence has no more frames."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A dialogue voice's turn has no more frames."""


StreamItem = SentenceBegin | Frame | SentenceEnd | TurnEnd
StreamItems = tuple[StreamItem, ...]


def frames_of(items: Iterable[StreamItem]) -> list[Frame]:
    """Return the frames among `items`."""
    return [item for item in items if isinstance(item, Frame)]


def has_turn_end(items: Iterable[StreamItem]) -> bool:
    """Return whether a turn ends among `items`."""
    return any(isinstance(item, TurnEnd) for item in items)


def chunks_of(items: Iterable[StreamItem], max_frames: int) -> Iterator[list[StreamItem]]:
    """Split items into chunks of at most `max_frames` frames, none across the end of a turn.

    A sentence's or a turn's end stays with the frame before it.
    """
    chunk: list[StreamItem] = []
    frames = 0
    for item in items:
        if frames == max_frames and not isinstance(item, SentenceEnd | TurnEnd):
            yield chunk
            chunk, frames = [], 0
        chunk.append(item)
        frames += isinstance(item, Frame)
        if isinstance(item, TurnEnd):
            yield chunk
            chunk, frames = [], 0
    if chunk:
        yield chunk
