"""Events between protocols and pipeline: frozen values, no behaviour beyond merging settings."""

from dataclasses import dataclass
from typing import Literal

from csm_trio.alignment.alignment import Aligned
from csm_trio.errors import SpeechError
from csm_trio.protocol.overrides import Overridable


@dataclass(frozen=True, slots=True)
class SpeechSettings(Overridable):
    """Settings of one voice's speech; None means the default of the server or model.

    `temperature` 0 or `top_k` 1 is greedy. `seed` is unsigned 32-bit. `buffer_size` is in
    frames of 80 ms. `batch` work waits while a live context's playback buffer is below low water.
    `speed` holds for a context as a whole, as it was when it opened. `temperature_scale`
    multiplies the model's own temperature where `temperature` does not replace it. `voice_id` is
    the voice of a turn, in a context of several voices. `normalization` selects text
    normalization; with `ssml` the text's tags are markup.
    """

    speaker_id: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_audio_len_ms: int | None = None
    buffer_size: int | None = None
    batch: bool | None = None
    speed: float | None = None
    temperature_scale: float | None = None
    voice_id: str | None = None
    normalization: Literal["auto", "on", "off"] | None = None
    ssml: bool | None = None
    audio_tags: bool | None = None


@dataclass(frozen=True, slots=True)
class OpenContext:
    """A context begins.

    `chunk_lengths[i]` is how many characters may wait for a sentence end before sentence i is cut
    without one (the last entry holds for all later ones); empty means the server's own rule.
    """

    context_id: str
    settings: SpeechSettings = SpeechSettings()
    chunk_lengths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AddText:
    """A delta: text as it arrived, verbatim; `settings` hold from this text on."""

    context_id: str
    text: str
    settings: SpeechSettings = SpeechSettings()


@dataclass(frozen=True, slots=True)
class Flush:
    """Synthesize the buffered text now.

    A `hint` flush (`try_trigger_generation`) emits only text that can stand alone.
    """

    context_id: str
    hint: bool = False


@dataclass(frozen=True, slots=True)
class CloseContext:
    """No more text will come. With `discard`, cancel; else synthesize the remaining text.

    With `unless_heard`, cancel where audio of the text before the last flush has been sent.
    """

    context_id: str
    discard: bool = False
    unless_heard: bool = False


@dataclass(frozen=True, slots=True)
class ClearContext:
    """Cancel the context and discard its text; one may be opened anew under this id."""

    context_id: str


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The client ends the session once the text it has sent is synthesized."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """The client gave a key in a message instead of in the upgrade request."""

    api_key: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """A message without content; it restarts the inactivity timeout."""


@dataclass(frozen=True, slots=True)
class Audio:
    """A chunk: encoded bytes of one context, the next part of one continuous stream.

    `aligned` are the characters that begin in it, if any do and alignment is on. The last chunk of
    a sentence may be empty, where earlier chunks hold all of its audio. In a dialogue, `turn` is
    the number of turns that ended before it.
    """

    context_id: str
    data: bytes
    aligned: Aligned | None = None
    turn: int = 0


@dataclass(frozen=True, slots=True)
class TurnDone:
    """One voice's turn in a dialogue is complete; no chunk has audio of two turns."""

    context_id: str


@dataclass(frozen=True, slots=True)
class ContextDone:
    """This context is over: all its text is synthesized, or the client has discarded the rest."""

    context_id: str


@dataclass(frozen=True, slots=True)
class ContextCleared:
    """This context was cleared: no more audio of the text before will come."""

    context_id: str


@dataclass(frozen=True, slots=True)
class ContextFailed:
    """This context ends early, for the given reason."""

    context_id: str
    error: SpeechError


InEvent = (
    OpenContext
    | AddText
    | Flush
    | CloseContext
    | ClearContext
    | CloseSession
    | Authenticate
    | KeepAlive
)
OutEvent = Audio | TurnDone | ContextDone | ContextCleared | ContextFailed
