"""The prefix of a voice: its encoded clips as prompt segments."""

from csm_trio.engine.utterance import PromptSegment, VoicePrefix
from csm_trio.voices import Voice, VoiceCatalog


def voice_prefix(voice: Voice) -> VoicePrefix | None:
    """Return the prefix of a voice whose clips are encoded; None for a voice without clips."""
    segments = tuple(
        PromptSegment(voice.speaker_id, clip.text, clip.codes)
        for clip in voice.clips
        if clip.codes is not None
    )
    return VoicePrefix(voice.clips_key, segments) if segments else None


class VoicePrefixes:
    """The prefixes of a catalog's voices by id or alias, each made once."""

    def __init__(self, catalog: VoiceCatalog) -> None:
        self.catalog = catalog
        self._prefixes: dict[str, VoicePrefix | None] = {}

    def of(self, voice_id: str) -> VoicePrefix | None:
        """Return the prefix of a listed voice; None where it has no clips or is not listed."""
        voice = self.catalog.find(voice_id)
        if voice is None or not voice.clips:
            return None
        if voice.voice_id not in self._prefixes:
            self._prefixes[voice.voice_id] = voice_prefix(voice)
        return self._prefixes[voice.voice_id]
