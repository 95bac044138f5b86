"""ElevenLabs' text-to-dialogue body and query in, one checked `DialogueRequest` out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.errors import InvalidRequest, MissingField, TextTooLong
from csm_trio.protocol.described import Field, Members, Objects, Text
from csm_trio.protocol.elevenlabs.dialogue_socket import MAX_INPUTS, MAX_VOICES
from csm_trio.protocol.elevenlabs.speech_request import (
    DEFAULT_REST_FORMAT,
    MODEL_ID,
    rest_format,
)
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import JsonFields
from csm_trio.protocol.rest import parse_body, read_text, speech_text
from csm_trio.protocol.speech_fields import (
    LANGUAGE_CODE,
    SETTINGS,
    VOICE_SETTINGS_FIELDS,
    check_language,
    read_settings,
    read_voice_settings,
)


@dataclass(frozen=True, slots=True)
class DialogueInput:
    """The text of one voice's turn."""

    voice_id: str
    text: str


@dataclass(frozen=True, slots=True)
class DialogueRequest:
    """Turns to be synthesized in order, in one format; there is at least one."""

    inputs: tuple[DialogueInput, ...]
    audio_format: AudioFormat
    settings: SpeechSettings = field(default_factory=SpeechSettings)

    @property
    def chars(self) -> int:
        """Characters of text in all inputs."""
        return sum(len(one.text) for one in self.inputs)

    @property
    def voice_ids(self) -> list[str]:
        """The voice of each input."""
        return [one.voice_id for one in self.inputs]


VOICE_ID = Text("voice_id", "The id of a voice.", required=True)
DIALOGUE_SETTINGS = Members("settings", "As `voice_settings`.", VOICE_SETTINGS_FIELDS)


def dialogue_inputs(max_chars: int) -> Objects:
    """Describe the turns of a dialogue."""
    return Objects(
        "inputs", f"Turns in order, of at most {MAX_VOICES} voices.",
        (speech_text("text", max_chars), VOICE_ID), 1, MAX_INPUTS, required=True,
    )  # fmt: skip


def dialogue_body(max_chars: int) -> tuple[Field, ...]:
    """Return the fields of a dialogue's body."""
    return dialogue_inputs(max_chars), DIALOGUE_SETTINGS, MODEL_ID, LANGUAGE_CODE, *SETTINGS


DIALOGUE_QUERY: tuple[Field, ...] = (rest_format(DEFAULT_REST_FORMAT),)


def parse_dialogue_request(
    body: bytes, query: Mapping[str, str], *, max_chars: int
) -> DialogueRequest:
    """Parse a dialogue request; unknown fields and parameters are ignored, null is absent.

    Raises `MissingField`, `TextTooLong` (for all inputs together), `UnknownFormat`, or
    `InvalidRequest` naming the field that is wrong.
    """
    fields = parse_body(body)
    check_language(fields)
    MODEL_ID.read(fields)
    inputs = tuple(_read_input(one, max_chars) for one in _input_fields(fields, max_chars))
    if len({one.voice_id for one in inputs}) > MAX_VOICES:
        raise InvalidRequest(f"inputs must have at most {MAX_VOICES} voices.", param="inputs")
    voice_settings = read_voice_settings(DIALOGUE_SETTINGS.read(fields))
    request = DialogueRequest(
        inputs=inputs,
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_REST_FORMAT)),
        settings=voice_settings.speech().overridden_by(read_settings(fields)),
    )
    if request.chars > max_chars:
        raise TextTooLong(max_chars, param="inputs")
    return request


def _input_fields(fields: JsonFields, max_chars: int) -> list[JsonFields]:
    inputs = dialogue_inputs(max_chars).read(fields)
    if inputs is None:
        raise MissingField("inputs")
    return [JsonFields(one, f"inputs.{index}") for index, one in enumerate(inputs)]


def _read_input(fields: JsonFields, max_chars: int) -> DialogueInput:
    voice_id = VOICE_ID.read(fields)
    if voice_id is None:
        raise MissingField(fields.path("voice_id"))
    return DialogueInput(voice_id, read_text(fields, "text", max_chars))
