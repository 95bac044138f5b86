"""What one context is to say, and how: everything its stages share, and what they hand on.

It must not know the stages.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.engine.utterance import PromptSegment
from csm_trio.errors import TextTooLong
from csm_trio.pipeline.stream_items import TurnEnd
from csm_trio.protocol.events import SpeechSettings
from csm_trio.telemetry import Timeline
from csm_trio.text.spans import SpokenText
from csm_trio.text.ssml import Break
from csm_trio.timebase import FRAME_S
from csm_trio.voices import Voice


@dataclass(frozen=True, slots=True)
class Sentence:
    """What `segment` lets go of: what is to be said, and the settings it came under."""

    index: int
    spoken: SpokenText
    settings: SpeechSettings

    @property
    def text(self) -> str:
        """As it is to be spoken."""
        return self.spoken.text


SpeechItem = Sentence | Break | TurnEnd
"""What there is to hear, in order."""


@dataclass(slots=True)
class Backlog:
    """Characters that a context has been sent and not yet begun to work on.

    Text is never held back by not reading it, so it must be counted: `add` raises TextTooLong
    over the limit.
    """

    limit_chars: int
    waiting_chars: int = 0

    def add(self, chars: int) -> None:
        """Count a delta in; an empty one counts as a character, since it takes memory too."""
        self.waiting_chars += chars or 1
        if self.waiting_chars > self.limit_chars:
            raise TextTooLong(self.limit_chars)

    def remove(self, chars: int) -> None:
        """Count a delta out."""
        self.waiting_chars -= chars or 1


@dataclass(slots=True)
class ContextSpec:
    """Everything `speak` must know of one context before its text comes.

    `cancel_reason` says what a cancel of it is to be counted as. `chunk_lengths` are the
    segmenter's. In a `dialogue` every speaker hears what the others said before, and the client
    is told where turns end: at a flush, and where `voice_id` changes. `history` was said before
    it began, and `on_segment` is told each sentence that a later order may have as its own history.
    `aligned` says whether the client is told which character is spoken when.
    """

    context_id: str
    voice: Voice
    audio_format: AudioFormat
    settings: SpeechSettings
    max_audio_len_ms: int
    backlog: Backlog
    cancel_reason: Callable[[], str]
    chunk_lengths: tuple[int, ...] = ()
    dialogue: bool = False
    history: tuple[PromptSegment, ...] = ()
    on_segment: Callable[[PromptSegment], None] | None = None
    aligned: bool = False
    timeline: Timeline = field(default_factory=Timeline)
    spoken_frames: int = 0
    turns_done: int = 0
    buffer_empty_at_s: float | None = None
    """When the listener's player runs dry, on the monotonic clock: what was made so far plays on
    from its first frame."""

    @property
    def speed(self) -> float:
        """How fast all of the context plays."""
        return 1.0 if self.settings.speed is None else self.settings.speed

    @property
    def frame_s(self) -> float:
        """How long a frame plays at this speed."""
        return FRAME_S / self.speed
