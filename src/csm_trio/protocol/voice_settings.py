"""ElevenLabs' `voice_settings`, and their effect on speech.

CSM has no such settings. `stability` becomes a temperature scale and `speed` a tempo; the others
are stored and returned, and have no effect on the audio.
"""

from dataclasses import dataclass

from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.overrides import Overridable

_SCALE_AT_0, _SCALE_AT_1 = 1.3, 0.5


@dataclass(frozen=True, slots=True)
class VoiceSettings(Overridable):
    """The vendor's voice settings; None where unset."""

    stability: float | None = None
    similarity_boost: float | None = None
    style: float | None = None
    use_speaker_boost: bool | None = None
    speed: float | None = None

    def speech(self) -> SpeechSettings:
        """Return the settings that change the speech."""
        scale = None if self.stability is None else temperature_scale(self.stability)
        return SpeechSettings(speed=self.speed, temperature_scale=scale)


DEFAULT_VOICE_SETTINGS = VoiceSettings(0.5, 0.75, 0.0, True, 1.0)
"""The vendor's defaults: the settings that an unedited voice is listed with."""


def temperature_scale(stability: float) -> float:
    """Return the factor of the model's own temperature for a stability in [0, 1].

    1.3 at 0 (varied), 1 at the vendor's default of 0.5, 0.5 at 1 (even); linear between.
    """
    if stability < 0.5:
        return _SCALE_AT_0 + (1.0 - _SCALE_AT_0) * 2 * stability
    return 1.0 + (_SCALE_AT_1 - 1.0) * (2 * stability - 1.0)
