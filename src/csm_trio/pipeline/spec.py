"""What one context is to synthesize, fixed at its start, and the progress that its stages record.

It must not know the stages.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.engine.utterance import PromptSegment, VoicePrefix
from csm_trio.errors import TextTooLong
from csm_trio.pipeline.stream_items import TurnEnd
from csm_trio.protocol.events import SpeechSettings
from csm_trio.telemetry import Timeline, TraceParent
from csm_trio.text.spans import SpokenText
from csm_trio.text.ssml import Break
from csm_trio.timebase import FRAME_S
from csm_trio.voices import Voice


@dataclass(frozen=True, slots=True)
class Sentence:
    """The unit of generation: a normalized sentence and the settings that its text came under."""

    index: int
    spoken: SpokenText
    settings: SpeechSettings

    @property
    def text(self) -> str:
        """The normalized text."""
        return self.spoken.text


SpeechItem = Sentence | Break | TurnEnd
"""What segmenting emits, in order."""


@dataclass(slots=True)
class Backlog:
    """Characters that a context has received and not yet segmented.

    The session never stops reading its socket, so unread text is bounded by this quota.
    """

    limit_chars: int
    waiting_chars: int = 0

    def add(self, chars: int) -> None:
        """Count a delta in; an empty one counts as one character, since it takes memory too.

        Raises TextTooLong over the limit.
        """
        self.waiting_chars += chars or 1
        if self.waiting_chars > self.limit_chars:
            raise TextTooLong(self.limit_chars)

    def remove(self, chars: int) -> None:
        """Count a delta out."""
        self.waiting_chars -= chars or 1


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """Everything that is fixed about one context before its text arrives.

    max_audio_len_ms: the server's cap of one sentence; `settings` may hold a lower one of the
    client's. max_pending_chars: the limit of the context's backlog. session_id: the session for
    which the pool counts its slots. chunk_lengths: the segmenter's schedule. dialogue: every
    voice's prompt holds the other voices' segments, and turns end at a flush and where `voice_id`
    changes. aligned: chunks carry alignments. history: the prompt segments that precede the
    context. never_empty: a context without any speech becomes one frame of silence. on_segment:
    receives each generated sentence, for the request history. prefix_of: returns the prefix of a
    voice by its id, None where it has no clips. trace_parent: the caller's span.
    """

    context_id: str
    voice: Voice
    audio_format: AudioFormat
    settings: SpeechSettings
    max_audio_len_ms: int
    max_pending_chars: int
    session_id: str = ""
    chunk_lengths: tuple[int, ...] = ()
    dialogue: bool = False
    aligned: bool = False
    history: tuple[PromptSegment, ...] = ()
    never_empty: bool = False
    on_segment: Callable[[PromptSegment], None] | None = None
    prefix_of: Callable[[str], VoicePrefix | None] = lambda voice_id: None
    trace_parent: TraceParent | None = None

    @property
    def speed(self) -> float:
        """Tempo of the whole context; 1.0 is unchanged."""
        return 1.0 if self.settings.speed is None else self.settings.speed

    @property
    def frame_s(self) -> float:
        """Playing time of one frame at this tempo."""
        return FRAME_S / self.speed


@dataclass(slots=True)
class ContextProgress:
    """What changes while one context is synthesized.

    cancel_reason: returns the reason that a cancel is counted under. characters: of the text
    received. emitted: sentences and breaks
    of segmenting. generated: of which all frames have gone to encoding. begun: sentences of which
    audio has been sent. buffer_empty_at_s: when the
    client's playback buffer runs empty, in seconds of the monotonic clock; None before its first
    frame.
    """

    backlog: Backlog
    cancel_reason: Callable[[], str]
    timeline: Timeline = field(default_factory=Timeline)
    characters: int = 0
    emitted: int = 0
    generated: int = 0
    begun: int = 0
    spoken_frames: int = 0
    turns_done: int = 0
    buffer_empty_at_s: float | None = None

    @property
    def speaks(self) -> bool:
        """Whether there is text that is not yet generated; buffered text waits for more."""
        return self.backlog.waiting_chars > 0 or self.emitted > self.generated

    def receive(self, chars: int) -> None:
        """Count a delta in; raises TextTooLong over the limit of the backlog."""
        self.backlog.add(chars)
        self.characters += chars
        if chars:
            self.timeline.mark("first_text")

    @classmethod
    def begin(cls, spec: ContextSpec, cancel_reason: Callable[[], str]) -> "ContextProgress":
        """Return the progress of a context that has received nothing yet."""
        return cls(Backlog(spec.max_pending_chars), cancel_reason)
