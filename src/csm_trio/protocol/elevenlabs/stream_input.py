"""ElevenLabs' `stream-input` socket: its messages to events, and events to its frames.

Sans I/O: knows neither the socket nor what becomes of the events. Times out, counts and
authenticates nothing; it only says what a message means.
"""

from dataclasses import replace

from csm_trio.alignment.alignment import Aligned, whole_words
from csm_trio.errors import InvalidRequest
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.protocol.elevenlabs.socket_messages_in import (
    CHUNK_LENGTHS,
    SpeechMessage,
    check_unchanged,
    read_message,
    read_speech_message,
)
from csm_trio.protocol.elevenlabs.socket_messages_out import frame_text, speech_frame
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


class StreamInputProtocol:
    """`stream-input`: one socket, one context, open from the first message to the empty text.

    The opener `{"text": " "}` is not obligatory: the first message may carry real text. With
    `auto_mode` every message's text is said at once, and no chunk schedule applies.
    `{"clear": true}` (an extension) is obeyed before the text of its own message, and even after
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
        self._word_begun: Aligned | None = None

    def receive(self, message: str | bytes) -> list[InEvent]:
        """Return what `message` means, in order; after the end of input, only a clear is heard.

        Raises `InvalidMessage` if it is no JSON object, `InvalidRequest` naming a field that
        is wrong; what went before stays in force.
        """
        if self._ended:
            return [ClearContext(SINGLE_CONTEXT)] if _asks_for_silence(message) else []
        said = read_speech_message(message)
        clear = said.fields.flag("clear") or False
        if not said.known and not clear:
            return [KeepAlive()]
        if self._opened:
            check_unchanged(self._voice_settings, said.voice_settings)
        opening = not self._opened
        events = self._opening_events(said) if opening else []
        if clear:
            # What the texts before have set still holds; their text does not.
            events += [ClearContext(SINGLE_CONTEXT), self._open()]
        self._settings = self._settings.overridden_by(said.settings)
        if said.text == "" and not said.flush:
            # Vocode's {"text": "", "try_trigger_generation": true, "flush": false} ends it too.
            self._ended = True
            events += [CloseContext(SINGLE_CONTEXT), CloseSession()]
        else:
            events += said.text_events(SINGLE_CONTEXT, opening=opening, auto_mode=self._auto_mode)
        return events or [KeepAlive()]

    def _opening_events(self, said: SpeechMessage) -> list[InEvent]:
        self._opened = True
        self._settings = said.settings
        self._voice_settings = said.voice_settings
        if said.chunk_lengths is not None and not self._auto_mode:
            self._chunk_lengths = said.chunk_lengths
        key = said.api_key
        return [*([] if key is None else [Authenticate(key)]), self._open()]

    def _open(self) -> OpenContext:
        return OpenContext(SINGLE_CONTEXT, self._settings, self._chunk_lengths)

    def send(self, event: OutEvent) -> str:
        """Return the message that tells the client of `event`.

        Its alignment is whole words: Vocode joins the messages' characters with spaces between.
        """
        if isinstance(event, ContextFailed):
            return socket_error(event.error).frame()
        if isinstance(event, Audio):
            event = replace(event, aligned=self._whole_words(event.aligned))
        else:
            self._word_begun = None
        return frame_text(speech_frame(event))

    def _whole_words(self, aligned: Aligned | None) -> Aligned | None:
        pieces = [piece for piece in (self._word_begun, aligned) if piece is not None]
        whole, self._word_begun = whole_words(pieces)
        return whole


def _asks_for_silence(message: str | bytes) -> bool:
    try:
        return read_message(message).flag("clear") or False
    except InvalidRequest:
        return False
