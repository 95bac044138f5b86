"""ElevenLabs' text-to-dialogue body and query in, one checked `DialogueRequest` out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.errors import InvalidRequest, MissingField, TextTooLong
from csm_trio.protocol.elevenlabs.dialogue_socket import MAX_INPUTS, MAX_VOICES
from csm_trio.protocol.elevenlabs.speech_request import DEFAULT_REST_FORMAT
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import (
    JsonFields,
    check_language,
    read_settings,
    read_voice_settings,
)
from csm_trio.protocol.rest import parse_body, read_text


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


def parse_dialogue_request(
    body: bytes, query: Mapping[str, str], *, max_chars: int
) -> DialogueRequest:
    """Parse a dialogue request; unknown fields and parameters are ignored, null is absent.

    Raises `MissingField`, `TextTooLong` (for all inputs together), `UnknownFormat`, or
    `InvalidRequest` naming the field that is wrong.
    """
    fields = parse_body(body)
    check_language(fields)
    inputs = tuple(_read_input(one, max_chars) for one in _input_fields(fields))
    if len({one.voice_id for one in inputs}) > MAX_VOICES:
        raise InvalidRequest(f"inputs must have at most {MAX_VOICES} voices.", param="inputs")
    voice_settings = read_voice_settings(fields.members("settings"))
    request = DialogueRequest(
        inputs=inputs,
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_REST_FORMAT)),
        settings=voice_settings.speech().overridden_by(read_settings(fields)),
    )
    if request.chars > max_chars:
        raise TextTooLong(max_chars, param="inputs")
    return request


def _input_fields(fields: JsonFields) -> list[JsonFields]:
    inputs = fields.objects("inputs", at_least=1, at_most=MAX_INPUTS)
    if inputs is None:
        raise MissingField("inputs")
    return [JsonFields(one, f"inputs.{index}") for index, one in enumerate(inputs)]


def _read_input(fields: JsonFields, max_chars: int) -> DialogueInput:
    voice_id = fields.text("voice_id")
    if voice_id is None:
        raise MissingField(fields.path("voice_id"))
    return DialogueInput(voice_id, read_text(fields, "text", max_chars))
