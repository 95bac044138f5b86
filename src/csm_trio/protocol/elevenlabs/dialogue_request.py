"""ElevenLabs' text-to-dialogue body and query in, one checked `DialogueRequest` out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.errors import InvalidRequest, MissingField, TextTooLong
from csm_trio.protocol.elevenlabs.dialogue_socket import MAX_VOICES
from csm_trio.protocol.elevenlabs.speech_request import DEFAULT_REST_FORMAT, parse_body, read_text
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import (
    JsonFields,
    check_language,
    read_settings,
    read_voice_settings,
)

MAX_LINES = 1_000


@dataclass(frozen=True, slots=True)
class Line:
    """What one voice says before the next one's turn."""

    voice_id: str
    text: str


@dataclass(frozen=True, slots=True)
class DialogueRequest:
    """Lines to be said in a row, in one format; there is at least one."""

    lines: tuple[Line, ...]
    audio_format: AudioFormat
    settings: SpeechSettings = field(default_factory=SpeechSettings)

    @property
    def chars(self) -> int:
        """How much text there is."""
        return sum(len(line.text) for line in self.lines)

    @property
    def voice_ids(self) -> list[str]:
        """Who says each line."""
        return [line.voice_id for line in self.lines]


def parse_dialogue_request(
    body: bytes, query: Mapping[str, str], *, max_chars: int
) -> DialogueRequest:
    """Parse a dialogue request; unknown fields and parameters are ignored, null is absent.

    Raises `MissingField`, `TextTooLong` (for all lines together), `UnknownFormat`, or
    `InvalidRequest` naming the field that is wrong.
    """
    fields = parse_body(body)
    check_language(fields)
    lines = tuple(_read_line(one, max_chars) for one in _inputs(fields))
    if len({line.voice_id for line in lines}) > MAX_VOICES:
        raise InvalidRequest(f"inputs must have at most {MAX_VOICES} voices.", param="inputs")
    voice_settings = read_voice_settings(fields.members("settings"))
    request = DialogueRequest(
        lines=lines,
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_REST_FORMAT)),
        settings=voice_settings.speech().overridden_by(read_settings(fields)),
    )
    if request.chars > max_chars:
        raise TextTooLong(max_chars, param="inputs")
    return request


def _inputs(fields: JsonFields) -> list[JsonFields]:
    inputs = fields.values.get("inputs")
    if inputs is None:
        raise MissingField("inputs")
    if (
        not isinstance(inputs, list)
        or not 0 < len(inputs) <= MAX_LINES
        or not all(isinstance(one, dict) for one in inputs)
    ):
        raise InvalidRequest(f"inputs must be a list of 1 to {MAX_LINES} objects.", param="inputs")
    return [JsonFields(one, f"inputs.{at}") for at, one in enumerate(inputs)]


def _read_line(fields: JsonFields, max_chars: int) -> Line:
    voice_id = fields.text("voice_id")
    if voice_id is None:
        raise MissingField(fields.path("voice_id"))
    return Line(voice_id, read_text(fields, "text", max_chars))
