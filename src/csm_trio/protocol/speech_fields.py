"""The speech settings of every endpoint: their fields and bounds, and how they are read."""

from typing import Literal, cast

from csm_trio.errors import InvalidRequest
from csm_trio.protocol.described import Field, Flag, Integer, Members, Number, Text
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import Fields, JsonFields
from csm_trio.protocol.voice_settings import DEFAULT_VOICE_SETTINGS, VoiceSettings
from csm_trio.voices import MAX_SPEAKER_ID

SPEED_RANGE = (0.7, 1.2)

STABILITY = Number(
    "stability", "Scales the model's temperature: 1.3 at 0, 1 at 0.5, 0.5 at 1.", 0.0, 1.0,
    DEFAULT_VOICE_SETTINGS.stability,
)  # fmt: skip
SIMILARITY_BOOST = Number(
    "similarity_boost", "Stored and returned; no effect.", 0.0, 1.0,
    DEFAULT_VOICE_SETTINGS.similarity_boost,
)  # fmt: skip
STYLE = Number(
    "style", "Stored and returned; no effect.", 0.0, 1.0, DEFAULT_VOICE_SETTINGS.style
)  # fmt: skip
USE_SPEAKER_BOOST = Flag(
    "use_speaker_boost", "Stored and returned; no effect.", DEFAULT_VOICE_SETTINGS.use_speaker_boost
)  # fmt: skip
SPEED = Number(
    "speed", "Tempo without a change of pitch.", *SPEED_RANGE, DEFAULT_VOICE_SETTINGS.speed
)
VOICE_SETTINGS_FIELDS: tuple[Field, ...] = (
    STABILITY, SIMILARITY_BOOST, STYLE, USE_SPEAKER_BOOST, SPEED,
)  # fmt: skip
VOICE_SETTINGS = Members(
    "voice_settings", "Settings of the voice, for this request.", VOICE_SETTINGS_FIELDS
)

SPEAKER_ID = Integer(
    "speaker_id", "Speaker of the model, in place of the voice's.", 0, MAX_SPEAKER_ID
)
TEMPERATURE = Number(
    "temperature", "Sampling temperature; 0 is greedy. Default: the model's.", 0.0, 2.0
)
TOP_K = Integer("top_k", "Sampling candidates; 1 is greedy. Default: the model's.", 1, 2**31)
SEED = Integer("seed", "Makes speech repeatable.", 0, 2**32 - 1)
MAX_AUDIO_LEN_MS = Integer("max_audio_len_ms", "Longest audio of one generation.", 80, 600_000)
BUFFER_SIZE = Integer(
    "buffer_size", "Frames of 80 ms in the first frame batch of an utterance.", 1, 250
)
PRIORITY = Text("priority", "Work of `batch` waits behind live calls.", choices=("live", "batch"))
NORMALIZATION = Text(
    "apply_text_normalization", "Whether figures and the like are written out.",
    choices=("auto", "on", "off"),
)  # fmt: skip
SSML = Flag("enable_ssml_parsing", "Whether `<break>` and other tags are markup.")
SCALAR_SETTINGS: tuple[Field, ...] = (
    SPEAKER_ID, TEMPERATURE, TOP_K, SEED, MAX_AUDIO_LEN_MS, BUFFER_SIZE, PRIORITY, NORMALIZATION,
    SSML,
)  # fmt: skip
"""The settings that a query may hold, too."""
SETTINGS: tuple[Field, ...] = (*SCALAR_SETTINGS, VOICE_SETTINGS)
"""Every field that `read_settings` reads."""
SPEECH_FIELDS = frozenset(field.name for field in SETTINGS)

LANGUAGE_CODE = Text(
    "language_code", "English, CSM's only language: `en`, `eng`, or with a region.",
    pattern="[eE][nN][gG]?(?:[-_][A-Za-z0-9]{2,8}){0,3}|",
)  # fmt: skip

NO_SETTINGS = SpeechSettings()
NO_VOICE_SETTINGS = VoiceSettings()


def read_settings(fields: Fields) -> SpeechSettings:
    """Return the speech settings among `fields`, including those in `voice_settings`.

    Without any it is `NO_SETTINGS` itself: most messages of a socket hold text alone.
    """
    if SPEECH_FIELDS.isdisjoint(fields.values):
        return NO_SETTINGS
    priority, normalization = PRIORITY.read(fields), NORMALIZATION.read(fields)
    settings = SpeechSettings(
        speaker_id=SPEAKER_ID.read(fields),
        temperature=TEMPERATURE.read(fields),
        top_k=TOP_K.read(fields),
        seed=SEED.read(fields),
        max_audio_len_ms=MAX_AUDIO_LEN_MS.read(fields),
        buffer_size=BUFFER_SIZE.read(fields),
        batch=None if priority is None else priority == "batch",
        normalization=cast(Literal["auto", "on", "off"] | None, normalization),
        ssml=SSML.read(fields),
    )
    if not isinstance(fields, JsonFields):
        return settings  # a query has no objects
    return read_voice_settings(VOICE_SETTINGS.read(fields)).speech().overridden_by(settings)


def read_voice_settings(fields: JsonFields) -> VoiceSettings:
    """Return the settings among the members of `voice_settings`; unknown ones are ignored.

    Raises `InvalidRequest` naming the member (`voice_settings.stability`) that is wrong.
    """
    if not fields.values:
        return NO_VOICE_SETTINGS
    return VoiceSettings(
        stability=STABILITY.read(fields),
        similarity_boost=SIMILARITY_BOOST.read(fields),
        style=STYLE.read(fields),
        use_speaker_boost=USE_SPEAKER_BOOST.read(fields),
        speed=SPEED.read(fields),
    )


def check_language(fields: Fields) -> None:
    """Raise `InvalidRequest` for a `language_code` that is not English; absent is allowed."""
    try:
        LANGUAGE_CODE.read(fields)
    except InvalidRequest as error:
        value = fields.text(LANGUAGE_CODE.name) or ""
        raise InvalidRequest(
            f"language_code '{value[:20]}' is not supported: this voice speaks English (en).",
            param=error.param,
            location=error.location,
        ) from None
