"""ElevenLabs' `multi-stream-input` socket: its messages to events, and events to its messages.

Sans I/O, like `stream_input`; here empty text is a keep-alive and ends nothing.
"""

from dataclasses import dataclass

from csm_trio.errors import TooManyContexts
from csm_trio.protocol.described import Field, Flag, Text
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.protocol.elevenlabs.socket_messages_in import (
    CHUNK_LENGTHS,
    SPEECH_MESSAGE,
    ClientMessage,
    check_unchanged,
    read_client_message,
)
from csm_trio.protocol.elevenlabs.socket_messages_out import (
    message_text,
    named_message,
    speech_message,
)
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
"""Contexts open at once on one socket, at most: the vendor's limit. Closing ones do not count."""

NORMAL_END_S = 0.5
"""Seconds after a flush within which `close_context` is the normal end of a turn. Frameworks send
both at once (Pipecat, LiveKit, ElevenLabs' guide); a caller who interrupts comes later."""

MAX_CONTEXT_ID_CHARS = 256  # it comes back in every message
UNNAMED_CONTEXT = ""

# The SDKs know both spellings.
CONTEXT_IDS = tuple(
    Text(name, "The context that the message is about.", max_chars=MAX_CONTEXT_ID_CHARS)
    for name in ("context_id", "contextId")
)
CLOSE_CONTEXT = Flag("close_context", "End the context; without a flush it is cancelled.", False)
CLOSE_SOCKET = Flag("close_socket", "End every context, then the socket.", False)
MULTI_SPEECH_MESSAGE: tuple[Field, ...] = (
    *SPEECH_MESSAGE, *CONTEXT_IDS, CLOSE_CONTEXT, CLOSE_SOCKET,
)  # fmt: skip
"""The fields of a message of `multi-stream-input`."""


@dataclass(slots=True)
class _Context:
    """A context the client has not closed.

    `flushed_at_s` is when a flush ended its text; None where text without one came after it.
    `flushed_with_text` says whether that flush came with words.
    """

    voice_settings: VoiceSettings
    flushed_at_s: float | None = None
    flushed_with_text: bool = False


class MultiStreamInputProtocol:
    """`multi-stream-input`: several contexts on one socket, each named by `context_id`.

    A context opens with the first text that names it (a space will do) and may have its own
    voice settings. A message without `context_id` belongs to the one unnamed context.
    `close_context` at once after a flush, or with one, is the normal end of a turn: all text is
    synthesized, that which came with the flush too. Any other `close_context` is a barge-in: a
    later one, a second one, and one after a flush with text that is being heard already (LiveKit
    flushes every sentence).
    """

    contexts_fail_alone = True

    def __init__(self, *, auto_mode: bool = False, sync_alignment: bool = False) -> None:
        self._auto_mode = auto_mode
        self._sync_alignment = sync_alignment
        self._contexts: dict[str, _Context] = {}
        self._ended = False

    def receive(self, text: str | bytes, now_s: float = 0.0) -> list[InEvent]:
        """Return the events of message `text`, in order; none after `close_socket`.

        `now_s` is when it came, on any clock. Raises `InvalidMessage` if it is no JSON object,
        `TooManyContexts`, or `InvalidRequest` naming a field that is wrong.
        """
        if self._ended:
            return []
        message = read_client_message(text)
        context_id = read_context_id(message.fields) or UNNAMED_CONTEXT
        if CLOSE_SOCKET.read(message.fields):
            self._ended = True
            return [CloseSession()]
        if CLOSE_CONTEXT.read(message.fields):
            return self._close(context_id, message, now_s)
        return self._text(context_id, message, now_s) or [KeepAlive()]

    def _text(self, context_id: str, message: ClientMessage, now_s: float) -> list[InEvent]:
        context = self._contexts.get(context_id)
        if context is None:
            return self._open(context_id, message, now_s)
        check_unchanged(context.voice_settings, message.voice_settings)
        return self._add_text(context_id, context, message, now_s, opening=False)

    def _close(self, context_id: str, message: ClientMessage, now_s: float) -> list[InEvent]:
        # Text without a flush would be dropped by the close.
        speaks = message.flush and message.has_words
        events = self._text(context_id, message, now_s) if speaks else []
        context = self._contexts.pop(context_id, None)
        if context is None:
            close = CloseContext(context_id, discard=True)
        elif message.flush:
            close = CloseContext(context_id)
        elif context.flushed_at_s is None or now_s - context.flushed_at_s > NORMAL_END_S:
            close = CloseContext(context_id, discard=True)
        else:
            close = CloseContext(context_id, unless_heard=context.flushed_with_text)
        return [*events, close]

    def _open(self, context_id: str, message: ClientMessage, now_s: float) -> list[InEvent]:
        """Open a context, unless the message is a keep-alive or a flush without text."""
        events: list[InEvent] = [] if message.api_key is None else [Authenticate(message.api_key)]
        if not message.known or (not message.text and (message.flush or message.text == "")):
            return events
        if len(self._contexts) == MAX_CONTEXTS:
            raise TooManyContexts(MAX_CONTEXTS)
        context = self._contexts[context_id] = _Context(message.voice_settings)
        lengths = () if self._auto_mode else message.chunk_lengths or CHUNK_LENGTHS
        events.append(OpenContext(context_id, message.settings, lengths))
        return [*events, *self._add_text(context_id, context, message, now_s, opening=True)]

    def _add_text(
        self,
        context_id: str,
        context: _Context,
        message: ClientMessage,
        now_s: float,
        *,
        opening: bool,
    ) -> list[InEvent]:
        if message.flush:
            context.flushed_at_s, context.flushed_with_text = now_s, message.has_words
        elif message.has_words:
            context.flushed_at_s = None
        return message.text_events(context_id, opening=opening, auto_mode=self._auto_mode)

    def send(self, event: OutEvent) -> str:
        """Return the message for `event`, with the name of its context."""
        if isinstance(event, ContextFailed):
            message = socket_error(event.error).to_message()
        else:
            message = speech_message(event, from_start=self._sync_alignment)
        return message_text(named_message(message, event.context_id))


def read_context_id(fields: JsonFields) -> str | None:
    """Return the context id of a message."""
    ids = (field.read(fields) for field in CONTEXT_IDS)
    return next((context_id for context_id in ids if context_id is not None), None)
