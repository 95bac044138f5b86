"""What doors and pipeline say to each other: frozen values, no behaviour beyond merging."""

from dataclasses import dataclass, fields
from typing import Literal

from csm_trio.alignment.alignment import Aligned
from csm_trio.errors import SpeechError


@dataclass(frozen=True, slots=True)
class SpeechSettings:
    """A caller's wishes about one voice's speech; None means "as the server or model has it".

    `temperature` 0 or `top_k` 1 is greedy. `seed` is unsigned 32-bit. `buffer_size` is in
    frames of 80 ms. `batch` work waits while a live call is short of audio. `speed` holds for
    a context as a whole, as it was when it opened. `temperature_scale` multiplies the model's
    own temperature where `temperature` does not replace it. `voice_id` is whose turn it is,
    where a context has several voices. `normalization` is how much of the text is put in words;
    with `ssml` its tags are markup.
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

    def overridden_by(self, other: "SpeechSettings") -> "SpeechSettings":
        """Return these settings with every field that `other` sets replaced by its value."""
        merged = {}
        for field in fields(self):
            theirs = getattr(other, field.name)
            merged[field.name] = getattr(self, field.name) if theirs is None else theirs
        return SpeechSettings(**merged)


@dataclass(frozen=True, slots=True)
class OpenContext:
    """A stream of text begins.

    `chunk_lengths` are the characters that may wait for a sentence's end before each of the
    first sentences is cut without one (the last holds on); none means the server's own.
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
    """Say what is buffered now.

    A `hint` flush (`try_trigger_generation`) lets go only of what can stand alone.
    """

    context_id: str
    hint: bool = False


@dataclass(frozen=True, slots=True)
class CloseContext:
    """No more text will come. With `discard`, stop speaking now; else say what is left."""

    context_id: str
    discard: bool = False


@dataclass(frozen=True, slots=True)
class ClearContext:
    """Stop speaking now and forget what waits; a context may be opened anew under this id."""

    context_id: str


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The client wants nothing more on this socket once what it asked for is said."""


@dataclass(frozen=True, slots=True)
class Authenticate:
    """The client gave a key in a message instead of in the upgrade request."""

    api_key: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing but a sign of life."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Encoded bytes of one context, the next piece of one continuous stream.

    `aligned` are the characters that begin in it, where any do and someone asked. The one that
    closes a sentence may come without bytes, where its sound has all gone before. In a dialogue,
    `turn` says how many turns were over before it.
    """

    context_id: str
    data: bytes
    aligned: Aligned | None = None
    turn: int = 0


@dataclass(frozen=True, slots=True)
class TurnDone:
    """One voice's turn in a dialogue has been heard; no chunk has sound of two turns' sentences."""

    context_id: str


@dataclass(frozen=True, slots=True)
class ContextDone:
    """This context is over: everything asked of it has been said, or nobody wants the rest."""

    context_id: str


@dataclass(frozen=True, slots=True)
class ContextCleared:
    """Nothing more will be heard of what this context was asked to say before it was cleared."""

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
