"""ElevenLabs' `voice_settings`: what a caller turned, and what of it changes the speech.

CSM has none of these knobs. `stability` becomes a temperature and `speed` a tempo; the others are
kept to be shown again, and have no effect on the sound.
"""

from dataclasses import dataclass, fields

from csm_trio.protocol.events import SpeechSettings

_SCALE_AT_0, _SCALE_AT_1 = 1.3, 0.5


@dataclass(frozen=True, slots=True)
class VoiceSettings:
    """The vendor's knobs; None where nothing was said."""

    stability: float | None = None
    similarity_boost: float | None = None
    style: float | None = None
    use_speaker_boost: bool | None = None
    speed: float | None = None

    def overridden_by(self, other: "VoiceSettings") -> "VoiceSettings":
        """Return these settings with every field that `other` sets replaced by its value."""
        names = [field.name for field in fields(self)]
        theirs = {name: getattr(other, name) for name in names}
        said = {name: value for name, value in theirs.items() if value is not None}
        return VoiceSettings(**{name: getattr(self, name) for name in names} | said)

    def speech(self) -> SpeechSettings:
        """Return what of these settings changes how it is said."""
        scale = None if self.stability is None else temperature_scale(self.stability)
        return SpeechSettings(speed=self.speed, temperature_scale=scale)


USUAL_VOICE_SETTINGS = VoiceSettings(0.5, 0.75, 0.0, True, 1.0)
"""What the vendor's default settings are, and what a voice is listed with."""


def temperature_scale(stability: float) -> float:
    """Return what a stability in [0, 1] multiplies the model's own temperature by.

    1.3 at 0 (varied), 1 at the vendor's default of 0.5, 0.5 at 1 (even); straight lines between.
    """
    if stability < 0.5:
        return _SCALE_AT_0 + (1.0 - _SCALE_AT_0) * 2 * stability
    return 1.0 + (_SCALE_AT_1 - 1.0) * (2 * stability - 1.0)
