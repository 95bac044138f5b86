"""Parse a socket's query string into a checked `SocketQuery`; knows no message and no event."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.errors import UnsupportedModel
from csm_trio.protocol.described import Field, Flag, Integer, Text
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import QueryFields
from csm_trio.protocol.speech_fields import (
    LANGUAGE_CODE,
    SCALAR_SETTINGS,
    check_language,
    read_settings,
)

DEFAULT_SOCKET_FORMAT = "pcm_24000"
DEFAULT_INACTIVITY_TIMEOUT_S = 20
MAX_INACTIVITY_TIMEOUT_S = 180

INACTIVITY_TIMEOUT = Integer(
    "inactivity_timeout", "Seconds without input after which the socket is closed.", 1,
    MAX_INACTIVITY_TIMEOUT_S, DEFAULT_INACTIVITY_TIMEOUT_S,
)  # fmt: skip
AUTO_MODE = Flag("auto_mode", "Each message's text is synthesized at once.", False)
SYNC_ALIGNMENT = Flag("sync_alignment", "Alignments count from the start of the context.", False)
SOCKET_FORMAT = Text(
    "output_format", "Codec, sample rate, and bit rate.", FORMATS, default=DEFAULT_SOCKET_FORMAT
)
SOCKET_MODEL_ID = Text("model_id", "Any name but that of a dialogue model.")
DIALOGUE_SOCKET_QUERY: tuple[Field, ...] = (SOCKET_FORMAT, LANGUAGE_CODE, *SCALAR_SETTINGS)
SOCKET_QUERY: tuple[Field, ...] = (
    SOCKET_MODEL_ID, *DIALOGUE_SOCKET_QUERY, INACTIVITY_TIMEOUT, AUTO_MODE, SYNC_ALIGNMENT,
)  # fmt: skip

DIALOGUE_MODELS = ("eleven_v3", "eleven_v4")
"""Beginnings of the names of models whose text may hold audio tags."""


@dataclass(frozen=True, slots=True)
class SocketQuery:
    """The parameters of a socket's query; `settings` hold until a message changes them."""

    audio_format: AudioFormat
    settings: SpeechSettings = field(default_factory=SpeechSettings)
    inactivity_timeout_s: int = DEFAULT_INACTIVITY_TIMEOUT_S
    auto_mode: bool = False
    sync_alignment: bool = False


def parse_socket_query(query: Mapping[str, str], *, dialogue: bool = False) -> SocketQuery:
    """Parse a socket's query string; unknown parameters are ignored, as the vendor does.

    A `dialogue` socket knows neither `auto_mode` nor `sync_alignment`, and its
    `inactivity_timeout` is fixed. Raises `UnknownFormat`, `UnsupportedModel` for a dialogue model
    on any other socket, or `InvalidRequest` naming the parameter that is wrong.
    """
    fields = QueryFields(query)
    check_language(fields)
    if not dialogue:
        _refuse_dialogue_model(query.get("model_id", ""))
    # Parameters of the other sockets are ignored on a dialogue socket, like unknown ones.
    speech_fields = QueryFields({}) if dialogue else fields
    timeout_s = INACTIVITY_TIMEOUT.read(speech_fields)
    return SocketQuery(
        audio_format=AudioFormat.parse(query.get("output_format", DEFAULT_SOCKET_FORMAT)),
        settings=read_settings(fields),
        inactivity_timeout_s=DEFAULT_INACTIVITY_TIMEOUT_S if timeout_s is None else timeout_s,
        auto_mode=AUTO_MODE.read(speech_fields) or False,
        sync_alignment=SYNC_ALIGNMENT.read(speech_fields) or False,
    )


def _refuse_dialogue_model(model_id: str) -> None:
    if model_id.startswith(DIALOGUE_MODELS):
        raise UnsupportedModel(model_id)
