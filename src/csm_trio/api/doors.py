"""What every door needs to let a caller in: the house behind it, and the key."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from csm_trio.api.admission import Admission
from csm_trio.audio.formats import AudioFormat
from csm_trio.config import ServerConfig, SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.pipeline.context import Backlog, Speaker, SpeechOrder
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.fields import bearer_token
from csm_trio.telemetry import Metrics
from csm_trio.voices import Voice, VoiceCatalog


@dataclass(frozen=True, slots=True)
class House:
    """Everything behind the doors; one per server."""

    engine: Engine
    speaker: Speaker
    voices: VoiceCatalog
    admission: Admission
    metrics: Metrics
    server: ServerConfig
    speech: SpeechConfig

    def accepts(self, key: str) -> bool:
        """Tell whether a key opens the doors, in a time that says nothing about it."""
        if self.server.api_key is None:
            return True
        return hmac.compare_digest(key.encode(), self.server.api_key.encode())

    def order(
        self,
        context_id: str,
        voice: Voice,
        audio_format: AudioFormat,
        settings: SpeechSettings,
        *,
        max_audio_len_ms: int,
    ) -> SpeechOrder:
        """Write down what a context will need before its text comes."""
        return SpeechOrder(
            context_id=context_id,
            voice=voice,
            audio_format=audio_format,
            settings=settings,
            max_audio_len_ms=max_audio_len_ms,
            backlog=Backlog(self.speech.max_pending_chars),
            cancel_reason=lambda: self.admission.cancel_reason,
        )


def presented_key(headers: Headers, query: Mapping[str, str]) -> str | None:
    """Return the key a caller shows: header `xi-api-key`, a bearer token, or the query."""
    return (
        headers.get("xi-api-key")
        or bearer_token(headers.get("authorization"))
        or query.get("xi-api-key")
        or query.get("xi_api_key")
    )
