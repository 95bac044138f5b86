"""Read the fields that messages of all text-to-speech sockets share, and check each.

Must not know which message opens or ends a context: that depends on the socket.
"""

from dataclasses import dataclass

from csm_trio.errors import BinaryMessage, InvalidMessage, InvalidRequest
from csm_trio.protocol.described import Described, Field, Flag, Members, Text
from csm_trio.protocol.events import AddText, Flush, InEvent, SpeechSettings
from csm_trio.protocol.fields import KEY_FIELDS, JsonFields, parse_object, read_api_key
from csm_trio.protocol.speech_fields import (
    NO_SETTINGS,
    NO_VOICE_SETTINGS,
    SETTINGS,
    SPEECH_FIELDS,
    VOICE_SETTINGS,
    read_settings,
    read_voice_settings,
)
from csm_trio.protocol.voice_settings import VoiceSettings

CHUNK_LENGTHS = (120, 160, 250, 290)
"""Characters that may wait for a sentence end, by sentence: the vendor's default
`chunk_length_schedule` (asyncapi.yml)."""

_CHUNK_LENGTH_RANGE = (50, 500)
_MAX_SCHEDULE_ITEMS = 100

# The first is documented for the first message, the second for later ones.
_GENERATION_FIELDS = ("generation_config", "generator_config")
_SCHEDULE = "chunk_length_schedule"

TEXT = Text("text", "Text as it is written; it may end anywhere. An empty one ends the input.")
FLUSH = Flag("flush", "Synthesize all text now.", False)
TRY_TRIGGER = Flag("try_trigger_generation", "Synthesize what can stand alone.", False)
_SCHEDULE_FIELD = Described(
    _SCHEDULE, "Characters that may wait for the end of a sentence, by sentence.",
    {
        "type": "array",
        "items": {
            "type": "number", "minimum": _CHUNK_LENGTH_RANGE[0], "maximum": _CHUNK_LENGTH_RANGE[1],
        },
        "maxItems": _MAX_SCHEDULE_ITEMS,
    },
)  # fmt: skip
GENERATION_CONFIGS = tuple(
    Members(name, "When text is synthesized before its sentence ends.", (_SCHEDULE_FIELD,))
    for name in _GENERATION_FIELDS
)
KEY_MESSAGE_FIELDS = tuple(
    Text(name, "The API key, where the upgrade had none.")
    for name in (*KEY_FIELDS, "authorization")
)
SPEECH_MESSAGE: tuple[Field, ...] = (
    TEXT, FLUSH, TRY_TRIGGER, *SETTINGS, *GENERATION_CONFIGS, *KEY_MESSAGE_FIELDS,
)  # fmt: skip
"""The fields of a message of every text-to-speech socket."""

_FIELDS = frozenset(field.name for field in SPEECH_MESSAGE) - SPEECH_FIELDS | {VOICE_SETTINGS.name}


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """One message of a client; `known` is false where it has no field of a text socket."""

    fields: JsonFields
    text: str | None
    flush: bool
    try_trigger: bool
    settings: SpeechSettings
    voice_settings: VoiceSettings
    chunk_lengths: tuple[int, ...] | None
    api_key: str | None
    known: bool

    @property
    def has_words(self) -> bool:
        """Whether it holds text other than whitespace."""
        return bool(self.text and not self.text.isspace())

    def text_events(self, context_id: str, *, opening: bool, auto_mode: bool) -> list[InEvent]:
        """Return the events that it adds to an open context, or to the one that it is `opening`.

        With `auto_mode` its text is flushed at once.
        """
        # The opener's space only opens (recorded); a later space stands between two words.
        text = "" if self.text is None or (opening and not self.has_words) else self.text
        settings = NO_SETTINGS if opening else self.settings
        events: list[InEvent] = []
        if text or settings != NO_SETTINGS:
            events.append(AddText(context_id, text, settings))
        if self.flush or (auto_mode and self.has_words):
            events.append(Flush(context_id))
        elif self.try_trigger:
            events.append(Flush(context_id, hint=True))
        return events


def read_message_fields(message: str | bytes) -> JsonFields:
    """Return the members of a message.

    Raises `InvalidMessage` if it is no JSON object, `BinaryMessage` if it is binary.
    """
    if isinstance(message, bytes):
        raise BinaryMessage
    try:
        return JsonFields(parse_object(message))
    except ValueError:
        raise InvalidMessage from None


def read_client_message(message: str | bytes) -> ClientMessage:
    """Parse a message of a text-to-speech socket.

    Raises `InvalidMessage` if it is no JSON object, `InvalidRequest` naming a field that is
    wrong.
    """
    fields = read_message_fields(message)
    settings = read_settings(fields)
    given = {name for name, value in fields.values.items() if value is not None}
    return ClientMessage(
        fields=fields,
        text=TEXT.read(fields),
        flush=FLUSH.read(fields) or False,
        try_trigger=TRY_TRIGGER.read(fields) or False,
        settings=settings,
        voice_settings=read_voice_settings(VOICE_SETTINGS.read(fields)),
        chunk_lengths=_chunk_lengths(fields),
        api_key=read_api_key(fields),
        known=not _FIELDS.isdisjoint(given) or settings != NO_SETTINGS,
    )


def check_unchanged(first: VoiceSettings, later: VoiceSettings) -> None:
    """Raise `InvalidRequest`, with the vendor's text, if a context's voice settings change."""
    if later not in (NO_VOICE_SETTINGS, first):
        raise InvalidRequest(
            "voice_settings field must be provided in the first message and then either be not "
            "provided or not change.",
            param="voice_settings",
        )


def _chunk_lengths(fields: JsonFields) -> tuple[int, ...] | None:
    """Return the first schedule in the message; null and an empty one count as absent."""
    for config in [one.read(fields) for one in GENERATION_CONFIGS if one.name in fields.values]:
        schedule = config.values.get(_SCHEDULE)
        if schedule:
            return _read_schedule(schedule, config.path(_SCHEDULE))
    return None


def _read_schedule(schedule: object, path: str) -> tuple[int, ...]:
    low, high = _CHUNK_LENGTH_RANGE
    lengths = schedule if isinstance(schedule, list) else []
    # The vendor's schema has numbers, not integers.
    if 0 < len(lengths) <= _MAX_SCHEDULE_ITEMS and all(
        isinstance(item, int | float) and not isinstance(item, bool) and low <= item <= high
        for item in lengths
    ):
        return tuple(map(int, lengths))
    raise InvalidRequest(f"{path} must be a list of numbers from {low} to {high}.", param=path)
