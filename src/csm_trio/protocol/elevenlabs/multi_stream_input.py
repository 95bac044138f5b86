"""ElevenLabs' `multi-stream-input` socket: its messages to events, and events to its frames.

Sans I/O, like `stream_input`; here empty text is a sign of life and ends nothing.
"""

from dataclasses import dataclass

from csm_trio.errors import InvalidRequest, TooManyContexts
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.protocol.elevenlabs.socket_messages_in import (
    CHUNK_LENGTHS,
    SpeechMessage,
    check_unchanged,
    read_speech_message,
)
from csm_trio.protocol.elevenlabs.socket_messages_out import frame_text, named_frame, speech_frame
from csm_trio.protocol.events import (
    Authenticate,
    CloseContext,
    CloseSession,
    ContextFailed,
    InEvent,
    KeepAlive,
    OpenContext,
    OutEvent,
)
from csm_trio.protocol.fields import JsonFields
from csm_trio.protocol.voice_settings import VoiceSettings

MAX_CONTEXTS = 5
"""The vendor's limit of contexts open at once on one socket; those that close do not count."""

MAX_CONTEXT_ID_CHARS = 256  # it comes back in every frame
UNNAMED_CONTEXT = ""


@dataclass(slots=True)
class _Context:
    """A context the client has not closed; `flushed` says whether a flush ended its text."""

    voice_settings: VoiceSettings
    flushed: bool = False


class MultiStreamInputProtocol:
    """`multi-stream-input`: several contexts on one socket, each named by `context_id`.

    A context opens with the first text that names it (a space will do) and may have its own
    voice settings. Without `context_id` it is the one context that has no name. `close_context`
    right after a flush without text is the normal end of a turn: what is left is said. Any
    other `close_context` is an interruption, a second one too.
    """

    contexts_fail_alone = True

    def __init__(self, *, auto_mode: bool = False, sync_alignment: bool = False) -> None:
        self._auto_mode = auto_mode
        self._sync_alignment = sync_alignment
        self._contexts: dict[str, _Context] = {}
        self._ended = False

    def receive(self, message: str | bytes) -> list[InEvent]:
        """Return what `message` means, in order; nothing after `close_socket`.

        Raises `InvalidMessage` if it is no JSON object, `TooManyContexts`, or `InvalidRequest`
        naming a field that is wrong.
        """
        if self._ended:
            return []
        said = read_speech_message(message)
        context_id = read_context_id(said.fields) or UNNAMED_CONTEXT
        if said.fields.flag("close_socket"):
            self._ended = True
            return [CloseSession()]
        if said.fields.flag("close_context"):
            return self._close(context_id, flush=said.flush)
        context = self._contexts.get(context_id)
        if context is None:
            return self._first_words(context_id, said) or [KeepAlive()]
        check_unchanged(context.voice_settings, said.voice_settings)
        return self._say(context_id, context, said, opening=False) or [KeepAlive()]

    def _close(self, context_id: str, *, flush: bool) -> list[InEvent]:
        context = self._contexts.pop(context_id, None)
        normal_end = context is not None and (context.flushed or flush)
        return [CloseContext(context_id, discard=not normal_end)]

    def _first_words(self, context_id: str, said: SpeechMessage) -> list[InEvent]:
        """Open a context, unless the message is a sign of life or a flush of nothing."""
        events: list[InEvent] = [] if said.api_key is None else [Authenticate(said.api_key)]
        if not said.known or (not said.text and (said.flush or said.text == "")):
            return events
        if len(self._contexts) == MAX_CONTEXTS:
            raise TooManyContexts(MAX_CONTEXTS)
        context = self._contexts[context_id] = _Context(said.voice_settings)
        lengths = () if self._auto_mode else said.chunk_lengths or CHUNK_LENGTHS
        events.append(OpenContext(context_id, said.settings, lengths))
        return [*events, *self._say(context_id, context, said, opening=True)]

    def _say(
        self, context_id: str, context: _Context, said: SpeechMessage, *, opening: bool
    ) -> list[InEvent]:
        if said.speaks or said.flush:
            context.flushed = not said.speaks
        return said.text_events(context_id, opening=opening, auto_mode=self._auto_mode)

    def send(self, event: OutEvent) -> str:
        """Return the message that tells the client of `event`, and of which context."""
        if isinstance(event, ContextFailed):
            frame = socket_error(event.error).body()
        else:
            frame = speech_frame(event, from_start=self._sync_alignment)
        return frame_text(named_frame(frame, event.context_id))


def read_context_id(fields: JsonFields) -> str | None:
    """Return the name of the context that a message is about; the SDKs know both spellings."""
    for name in ("context_id", "contextId"):
        context_id = fields.text(name)
        if context_id is not None and len(context_id) > MAX_CONTEXT_ID_CHARS:
            raise InvalidRequest(
                f"{name} must be at most {MAX_CONTEXT_ID_CHARS} characters long.", param=name
            )
        if context_id is not None:
            return context_id
    return None
