"""ElevenLabs' text-to-dialogue sockets: their messages to events, and events to their messages.

Sans I/O, like `stream_input`. Knows a voice as a speaker id; the endpoint supplies the mapping.
"""

from collections.abc import Callable, Mapping

from csm_trio.errors import InvalidRequest, TooManyContexts
from csm_trio.protocol.described import Described, Field, Flag, Objects, Text
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.protocol.elevenlabs.multi_stream_input import (
    CLOSE_CONTEXT,
    CLOSE_SOCKET,
    CONTEXT_IDS,
    MAX_CONTEXTS,
    read_context_id,
)
from csm_trio.protocol.elevenlabs.socket_messages_in import (
    FLUSH,
    KEY_MESSAGE_FIELDS,
    read_message_fields,
)
from csm_trio.protocol.elevenlabs.socket_messages_out import (
    Message,
    dialogue_message,
    message_text,
)
from csm_trio.protocol.elevenlabs.stream_input import SINGLE_CONTEXT
from csm_trio.protocol.events import (
    AddText,
    Authenticate,
    CloseContext,
    CloseSession,
    ContextFailed,
    Flush,
    InEvent,
    KeepAlive,
    OpenContext,
    OutEvent,
    SpeechSettings,
)
from csm_trio.protocol.fields import JsonFields, read_api_key
from csm_trio.protocol.speech_fields import SETTINGS, read_settings

MAX_VOICES = 10
"""Voices in one dialogue, at most: the vendor's limit."""

MAX_INPUTS = 1_000

VOICES = Described(
    "voices", "Ids of all voices; in the first message (of a context) only.",
    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_VOICES},
)  # fmt: skip
INPUT_VOICE = Text("voice_id", "One of the voices; it may be left out where there is one.")
INPUT_TEXT = Text("text", "Text of that voice, as it is written.")
NEW_TURN = Flag("new_turn", "Ends the turn before it.", False)
INPUTS = Objects("inputs", "Text of voices.", (INPUT_VOICE, INPUT_TEXT, NEW_TURN), 0, MAX_INPUTS)
KEEP_ALIVE = Flag("keep_alive", "Keeps the socket open.", False)
SINGLE_USE_TOKEN = Text("single_use_token", "A token in place of the API key.")
DIALOGUE_MESSAGE: tuple[Field, ...] = (
    VOICES, INPUTS, FLUSH, CLOSE_SOCKET, KEEP_ALIVE, *SETTINGS, *KEY_MESSAGE_FIELDS,
    SINGLE_USE_TOKEN,
)  # fmt: skip
"""The fields of a message of a dialogue's `stream-input`."""
MULTI_DIALOGUE_MESSAGE: tuple[Field, ...] = (*DIALOGUE_MESSAGE, *CONTEXT_IDS, CLOSE_CONTEXT)

# Speaker ids of one context's voices, by voice id.
_Cast = Mapping[str, int]


class DialogueProtocol:
    """`text-to-dialogue`: each input is synthesized in its voice, in one stream of speech.

    With `named_contexts` it is `multi-stream-input`, whose every message names its context, else
    `stream-input`. A context's first message registers its voices. Closing a context synthesizes
    its remaining text, as the vendor does; closing it again stops it. `speaker_of` raises
    `UnknownVoice`.
    """

    def __init__(self, speaker_of: Callable[[str], int], *, named_contexts: bool) -> None:
        self.contexts_fail_alone = named_contexts
        self._speaker_of = speaker_of
        self._named_contexts = named_contexts
        self._casts: dict[str, _Cast] = {}
        self._ended = False

    def receive(self, message: str | bytes, now_s: float = 0.0) -> list[InEvent]:
        """Return the events of `message`, in order; none after `close_socket`.

        Raises `InvalidMessage` if it is no JSON object, `TooManyContexts`, `UnknownVoice`, or
        `InvalidRequest` naming a field that is wrong.
        """
        if self._ended:
            return []
        fields = read_message_fields(message)
        context_id = read_context_id(fields) if self._named_contexts else SINGLE_CONTEXT
        if CLOSE_SOCKET.read(fields):
            self._ended = True
            return [CloseSession()]
        if context_id is None:
            raise InvalidRequest("context_id must be given in every message.", param="context_id")
        closes = self._named_contexts and CLOSE_CONTEXT.read(fields)
        objects = INPUTS.read(fields) or []
        inputs = [JsonFields(one) for one in objects]
        events = self._registration(context_id, fields, needed=bool(inputs))
        events += self._inputs(context_id, inputs)
        known = context_id in self._casts
        if known and FLUSH.read(fields):
            events.append(Flush(context_id))
        if closes:
            self._casts.pop(context_id, None)
            events.append(CloseContext(context_id, discard=not known))
        KEEP_ALIVE.read(fields)
        return events or [KeepAlive()]

    def _registration(self, context_id: str, fields: JsonFields, *, needed: bool) -> list[InEvent]:
        voices = fields.values.get("voices")
        settings = read_settings(fields)
        if context_id in self._casts:
            if voices is not None:
                raise InvalidRequest("voices can only be set in the first message.", param="voices")
            return []
        key = read_api_key(fields) or SINGLE_USE_TOKEN.read(fields)
        events: list[InEvent] = [Authenticate(key)] if key else []
        if voices is None and not needed:
            return events
        names = _voice_names(voices)
        if len(self._casts) == MAX_CONTEXTS:
            raise TooManyContexts(MAX_CONTEXTS)
        cast = self._casts[context_id] = {name: self._speaker_of(name) for name in names}
        first_voice = SpeechSettings(speaker_id=cast[names[0]], voice_id=names[0])
        return [*events, OpenContext(context_id, settings.overridden_by(first_voice))]

    def _inputs(self, context_id: str, inputs: list[JsonFields]) -> list[InEvent]:
        events: list[InEvent] = []
        for one in inputs:
            cast = self._casts[context_id]
            voice_id = INPUT_VOICE.read(one)
            if voice_id is None and len(cast) == 1:
                (voice_id,) = cast
            if voice_id is None or voice_id not in cast:
                raise InvalidRequest(
                    "voice_id must be one of the voices set in the first message.",
                    param="voice_id",
                )
            if NEW_TURN.read(one):
                events.append(Flush(context_id))
            text = INPUT_TEXT.read(one)
            if text:
                voice = SpeechSettings(speaker_id=cast[voice_id], voice_id=voice_id)
                events.append(AddText(context_id, text, voice))
        return events

    def send(self, event: OutEvent) -> str:
        """Return the message for `event`."""
        if isinstance(event, ContextFailed):
            message: Message = socket_error(event.error).to_message()
        else:
            message = dialogue_message(event)
        if self._named_contexts:
            message["context_id"] = event.context_id
        return message_text(message)


def _voice_names(voices: object) -> list[str]:
    if voices is None:
        raise InvalidRequest("voices must be set in the first message.", param="voices")
    if (
        not isinstance(voices, list)
        or not 0 < len(voices) <= MAX_VOICES
        or not all(isinstance(name, str) and name for name in voices)
    ):
        raise InvalidRequest(
            f"voices must be a list of 1 to {MAX_VOICES} voice ids.", param="voices"
        )
    return voices
