"""ElevenLabs' sockets: their query and JSON messages to events, and events to their JSON.

Sans I/O: knows neither the socket nor what becomes of the events. Times out, counts and
authenticates nothing; it only says what a message means.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.errors import InvalidMessage
from csm_trio.protocol.events import (
    AddText,
    Audio,
    Authenticate,
    CloseContext,
    CloseSession,
    ContextDone,
    ContextFailed,
    Flush,
    InEvent,
    KeepAlive,
    OpenContext,
    OutEvent,
    SpeechSettings,
)
from csm_trio.protocol.faults import socket_fault
from csm_trio.protocol.fields import (
    JsonFields,
    QueryFields,
    check_language,
    parse_object,
    read_api_key,
    read_settings,
)

DEFAULT_SOCKET_FORMAT = "pcm_24000"
DEFAULT_INACTIVITY_TIMEOUT_S = 20
MAX_INACTIVITY_TIMEOUT_S = 180

# The one context of a `stream-input` socket has no name on the wire.
SINGLE_CONTEXT = ""

# Checked for their type and otherwise without effect here.
_OBJECT_FIELDS = ("voice_settings", "generation_config", "generator_config")
_OPENING_FIELDS = frozenset(
    {"text", "flush", "try_trigger_generation", *_OBJECT_FIELDS}
    | {"xi-api-key", "xi_api_key", "authorization"}
)


@dataclass(frozen=True, slots=True)
class SocketQuery:
    """What a socket's address asks for; `settings` hold until a message changes them."""

    audio_format: AudioFormat
    settings: SpeechSettings = field(default_factory=SpeechSettings)
    inactivity_timeout_s: int = DEFAULT_INACTIVITY_TIMEOUT_S
    auto_mode: bool = False
    api_key: str | None = field(default=None, repr=False)


def parse_socket_query(query: Mapping[str, str]) -> SocketQuery:
    """Parse a socket's query string; unknown parameters are ignored, as the vendor does.

    Raises `UnknownFormat`, or `InvalidRequest` naming the parameter that is wrong.
    """
    fields = QueryFields(query)
    check_language(fields)
    timeout_s = fields.integer("inactivity_timeout", 1, MAX_INACTIVITY_TIMEOUT_S)
    return SocketQuery(
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_SOCKET_FORMAT)),
        settings=read_settings(fields),
        inactivity_timeout_s=DEFAULT_INACTIVITY_TIMEOUT_S if timeout_s is None else timeout_s,
        auto_mode=fields.flag("auto_mode") or False,
        api_key=read_api_key(fields),
    )


@dataclass(frozen=True, slots=True)
class _Message:
    """One client message, every field checked. `known` is false where it says nothing to us."""

    text: str | None
    flush: bool
    try_trigger: bool
    settings: SpeechSettings
    api_key: str | None
    known: bool

    @property
    def ends_stream(self) -> bool:
        """Whether this is the end of input: empty text that is no flush.

        Vocode's `{"text": "", "try_trigger_generation": true, "flush": false}` ends it too.
        """
        return self.text == "" and not self.flush


class StreamInputProtocol:
    """`stream-input`: one socket, one context, open from the first message to the empty text.

    The opener `{"text": " "}` is not obligatory: the first message may carry real text. With
    `auto_mode` every message's text is said at once.
    """

    def __init__(self, *, auto_mode: bool = False) -> None:
        self._auto_mode = auto_mode
        self._opened = False
        self._ended = False

    def receive(self, message: str | bytes) -> list[InEvent]:
        """Return what `message` means, in order; nothing after the end of input.

        Raises `InvalidMessage` if it is no JSON object, `InvalidRequest` naming a field that
        is wrong; what went before stays in force.
        """
        if self._ended:
            return []
        said = _parse_message(message)
        if not said.known:
            return [KeepAlive()]
        opening, self._opened = not self._opened, True
        events: list[InEvent] = []
        if opening:
            if said.api_key is not None:
                events.append(Authenticate(said.api_key))
            events.append(OpenContext(SINGLE_CONTEXT, said.settings))
        if said.ends_stream:
            self._ended = True
            events += [CloseContext(SINGLE_CONTEXT), CloseSession()]
        else:
            events += self._text_events(said, opening=opening)
        return events or [KeepAlive()]

    def _text_events(self, said: _Message, *, opening: bool) -> list[InEvent]:
        text = said.text or ""
        # The opener's space only opens [recorded]; any later one stands between two words.
        if opening and text.isspace():
            text = ""
        settings = SpeechSettings() if opening else said.settings
        events: list[InEvent] = []
        if text or settings != SpeechSettings():
            events.append(AddText(SINGLE_CONTEXT, text, settings))
        if said.flush or (self._auto_mode and text.strip()):
            events.append(Flush(SINGLE_CONTEXT))
        elif said.try_trigger:
            events.append(Flush(SINGLE_CONTEXT, hint=True))
        return events

    def send(self, event: OutEvent) -> str:
        """Return the message that tells the client of `event`.

        All four keys always: Vocode skips whatever lacks `audio`, the last frame included.
        """
        match event:
            case Audio(data=data):
                return audio_frame(base64.b64encode(data).decode("ascii"), final=False)
            case ContextDone():
                return audio_frame(None, final=True)
            case ContextFailed(error=error):
                return socket_fault(error).frame()


def audio_frame(audio_base64: str | None, *, final: bool) -> str:
    """Return a frame as the vendor writes it, without alignment."""
    # By hand: base64 needs no escapes, and json.dumps would look for them in every character.
    audio = "null" if audio_base64 is None else f'"{audio_base64}"'
    is_final = "true" if final else "false"
    return (
        f'{{"audio": {audio}, "isFinal": {is_final}, '
        '"normalizedAlignment": null, "alignment": null}'
    )


def _parse_message(message: str | bytes) -> _Message:
    if isinstance(message, bytes):
        raise InvalidMessage
    try:
        values = parse_object(message)
    except ValueError:
        raise InvalidMessage from None
    fields = JsonFields(values)
    for name in _OBJECT_FIELDS:
        fields.check_object(name)
    settings = read_settings(fields)
    given = {name for name, value in values.items() if value is not None}
    return _Message(
        text=fields.text("text"),
        flush=fields.flag("flush") or False,
        try_trigger=fields.flag("try_trigger_generation") or False,
        settings=settings,
        api_key=read_api_key(fields),
        known=bool(given & _OPENING_FIELDS) or settings != SpeechSettings(),
    )
