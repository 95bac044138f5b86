"""What every door needs to let a caller in: the house behind it, and the key."""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from werkzeug.datastructures import Headers

from csm_trio.api.admission import Admission
from csm_trio.api.auth import SingleUseTokens
from csm_trio.audio.formats import AudioFormat
from csm_trio.config import ServerConfig, SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.request_history import RequestHistory
from csm_trio.pipeline.spec import Backlog, ContextSpec
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import bearer_token
from csm_trio.protocol.voice_settings import DEFAULT_VOICE_SETTINGS, VoiceSettings
from csm_trio.telemetry import Metrics
from csm_trio.voices import Voice, VoiceCatalog


@dataclass(frozen=True, slots=True)
class ServerState:
    """Everything behind the doors; one per server.

    `voice_settings` are those that callers gave listed voices, until the server ends.
    """

    engine: Engine
    synthesizer: Synthesizer
    voices: VoiceCatalog
    admission: Admission
    metrics: Metrics
    server: ServerConfig
    speech: SpeechConfig
    request_history: RequestHistory
    tokens: SingleUseTokens = field(default_factory=SingleUseTokens)
    voice_settings: dict[str, VoiceSettings] = field(default_factory=dict)

    def accepts(self, key: str) -> bool:
        """Tell whether a key opens the doors, in a time that says nothing about it."""
        if self.server.api_key is None:
            return True
        return hmac.compare_digest(key.encode(), self.server.api_key.encode())

    def admits(self, headers: Headers, query: Mapping[str, str]) -> bool | None:
        """Tell whether what a socket shows opens it; None where it shows nothing.

        It may show the key or a single-use token, which is thereby used.
        """
        key, token = presented_key(headers, query), query.get("single_use_token")
        if key is None and token is None:
            return None
        if self.server.api_key is None or (key is not None and self.accepts(key)):
            return True
        return any(self.tokens.redeem(shown) for shown in (token, key) if shown is not None)

    def settings_of(self, voice: Voice) -> VoiceSettings:
        """Return what a voice is set to, whole."""
        return DEFAULT_VOICE_SETTINGS.overridden_by(
            self.voice_settings.get(voice.voice_id, VoiceSettings())
        )

    def spec(
        self,
        context_id: str,
        voice: Voice,
        audio_format: AudioFormat,
        settings: SpeechSettings,
        *,
        max_audio_len_ms: int,
        history: tuple[PromptSegment, ...] = (),
        on_segment: Callable[[PromptSegment], None] | None = None,
    ) -> ContextSpec:
        """Write down what a context will need before its text comes.

        The settings that the voice was given hold where `settings` say nothing.
        """
        given = self.voice_settings.get(voice.voice_id, VoiceSettings())
        return ContextSpec(
            context_id=context_id,
            voice=voice,
            audio_format=audio_format,
            settings=given.speech().overridden_by(settings),
            max_audio_len_ms=max_audio_len_ms,
            backlog=Backlog(self.speech.max_pending_chars),
            cancel_reason=lambda: self.admission.cancel_reason,
            history=history,
            on_segment=on_segment,
        )


def presented_key(headers: Headers, query: Mapping[str, str]) -> str | None:
    """Return the key a caller shows: header `xi-api-key`, a bearer token, or the query."""
    return (
        headers.get("xi-api-key")
        or bearer_token(headers.get("authorization"))
        or query.get("xi-api-key")
        or query.get("xi_api_key")
        or bearer_token(query.get("authorization"))
    )
