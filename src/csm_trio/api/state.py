"""The server's state as plain data: everything that endpoints need to answer a request."""

from collections.abc import Callable
from dataclasses import dataclass, field

from csm_trio.api.admission import Admission
from csm_trio.api.auth import UnauthenticatedSockets
from csm_trio.api.shared_state import SharedState
from csm_trio.audio.formats import AudioFormat
from csm_trio.config import ServerConfig, SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.voice_settings import DEFAULT_VOICE_SETTINGS, VoiceSettings
from csm_trio.telemetry import Metrics, session_id, trace_parent
from csm_trio.voices import Voice, VoiceCatalog


@dataclass(frozen=True, slots=True)
class ServerState:
    """Everything that endpoints share; one per process that serves clients."""

    engine: Engine
    synthesizer: Synthesizer
    admission: Admission
    metrics: Metrics
    server: ServerConfig
    speech: SpeechConfig
    shared: SharedState
    unauthenticated: UnauthenticatedSockets = field(default_factory=UnauthenticatedSockets)

    @property
    def voices(self) -> VoiceCatalog:
        """The voices as they are now; a request that needs several lookups keeps one catalog."""
        return self.shared.voices

    def settings_of(self, voice: Voice) -> VoiceSettings:
        """Return the settings of a voice: the defaults, with its edits."""
        return DEFAULT_VOICE_SETTINGS.overridden_by(self.shared.voice_edits(voice.voice_id))

    def context_spec(
        self,
        context_id: str,
        voice: Voice,
        audio_format: AudioFormat,
        settings: SpeechSettings,
        *,
        max_audio_len_ms: int,
        chunk_lengths: tuple[int, ...] = (),
        dialogue: bool = False,
        aligned: bool = False,
        history: tuple[PromptSegment, ...] = (),
        never_empty: bool = False,
        on_segment: Callable[[PromptSegment], None] | None = None,
    ) -> ContextSpec:
        """Return the complete spec of a context; `ContextSpec` describes its fields.

        The edits of the voice hold where `settings` leave a value open.
        """
        edits = self.shared.voice_edits(voice.voice_id)
        return ContextSpec(
            context_id=context_id,
            voice=voice,
            audio_format=audio_format,
            settings=edits.speech().overridden_by(settings),
            max_audio_len_ms=max_audio_len_ms,
            max_pending_chars=self.speech.max_pending_chars,
            session_id=session_id.get(),
            chunk_lengths=chunk_lengths,
            dialogue=dialogue,
            aligned=aligned,
            history=history,
            never_empty=never_empty,
            on_segment=on_segment,
            prefix_of=self.shared.prefixes.of,
            trace_parent=trace_parent.get(),
        )
