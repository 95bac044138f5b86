"""ElevenLabs' `stream-input` socket: its messages to events, and events to its messages.

Sans I/O: knows neither the socket nor the consumer of the events. Times out, counts and
authenticates nothing; it only translates.
"""

from dataclasses import replace

from csm_trio.alignment.alignment import Aligned, whole_words
from csm_trio.errors import InvalidRequest
from csm_trio.protocol.described import Field, Flag
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.protocol.elevenlabs.socket_messages_in import (
    CHUNK_LENGTHS,
    SPEECH_MESSAGE,
    ClientMessage,
    check_unchanged,
    read_client_message,
    read_message_fields,
)
from csm_trio.protocol.elevenlabs.socket_messages_out import message_text, speech_message
from csm_trio.protocol.events import (
    Audio,
    Authenticate,
    ClearContext,
    CloseContext,
    CloseSession,
    ContextFailed,
    InEvent,
    KeepAlive,
    OpenContext,
    OutEvent,
    SpeechSettings,
)
from csm_trio.protocol.voice_settings import VoiceSettings

# The one context of this socket has no name on the wire.
SINGLE_CONTEXT = ""

CLEAR = Flag("clear", "Cancel the speech; text of the same message comes after.", False)
STREAM_INPUT_MESSAGE: tuple[Field, ...] = (*SPEECH_MESSAGE, CLEAR)
"""The fields of a message of `stream-input`."""


class StreamInputProtocol:
    """`stream-input`: one socket, one context, open from the first message to the empty text.

    The opener `{"text": " "}` is optional: the first message may carry real text. With
    `auto_mode` every message's text is flushed at once, and no chunk schedule applies.
    `{"clear": true}` (an extension) applies before the text of its own message, and even after
    the end of input.
    """

    contexts_fail_alone = False

    def __init__(self, *, auto_mode: bool = False) -> None:
        self._auto_mode = auto_mode
        self._opened = False
        self._ended = False
        self._settings = SpeechSettings()
        self._voice_settings = VoiceSettings()
        self._chunk_lengths: tuple[int, ...] = () if auto_mode else CHUNK_LENGTHS
        self._partial_word: Aligned | None = None

    def receive(self, text: str | bytes, now_s: float = 0.0) -> list[InEvent]:
        """Return the events of message `text`, in order; after the end of input, only a clear.

        Raises `InvalidMessage` if it is no JSON object, `InvalidRequest` naming a field that
        is wrong; earlier messages stay in force.
        """
        if self._ended:
            return [ClearContext(SINGLE_CONTEXT)] if _is_clear(text) else []
        message = read_client_message(text)
        clear = CLEAR.read(message.fields) or False
        if not message.known and not clear:
            return [KeepAlive()]
        if self._opened:
            check_unchanged(self._voice_settings, message.voice_settings)
        opening = not self._opened
        events = self._opening_events(message) if opening else []
        if clear:
            # The settings of earlier messages still hold; their text does not.
            events += [ClearContext(SINGLE_CONTEXT), self._open()]
        self._settings = self._settings.overridden_by(message.settings)
        if message.text == "" and not message.flush:
            # Vocode's {"text": "", "try_trigger_generation": true, "flush": false} ends it too.
            self._ended = True
            events += [CloseContext(SINGLE_CONTEXT), CloseSession()]
        else:
            events += message.text_events(
                SINGLE_CONTEXT, opening=opening, auto_mode=self._auto_mode
            )
        return events or [KeepAlive()]

    def _opening_events(self, message: ClientMessage) -> list[InEvent]:
        self._opened = True
        self._settings = message.settings
        self._voice_settings = message.voice_settings
        if message.chunk_lengths is not None and not self._auto_mode:
            self._chunk_lengths = message.chunk_lengths
        key = message.api_key
        return [*([] if key is None else [Authenticate(key)]), self._open()]

    def _open(self) -> OpenContext:
        return OpenContext(SINGLE_CONTEXT, self._settings, self._chunk_lengths)

    def send(self, event: OutEvent) -> str:
        """Return the message for `event`; its alignment holds whole words only."""
        if isinstance(event, ContextFailed):
            return socket_error(event.error).to_text()
        if isinstance(event, Audio):
            # Vocode joins the characters of consecutive messages with spaces between.
            event = replace(event, aligned=self._whole_words(event.aligned))
        else:
            self._partial_word = None
        return message_text(speech_message(event))

    def _whole_words(self, aligned: Aligned | None) -> Aligned | None:
        parts = [part for part in (self._partial_word, aligned) if part is not None]
        whole, self._partial_word = whole_words(parts)
        return whole


def _is_clear(text: str | bytes) -> bool:
    try:
        return CLEAR.read(read_message_fields(text)) or False
    except InvalidRequest:
        return False
