"""What is one over all worker processes of a server: keys, tokens, voices, history, metrics.

`LocalSharedState` holds it, in a server of one process or in the supervisor; workers have
`processes.worker_state`, which asks the supervisor.
"""

from collections.abc import Collection
from typing import Protocol

from csm_trio.api.api_keys import ApiKeys, KeyStore
from csm_trio.api.auth import SingleUseTokens
from csm_trio.config import SpeechConfig
from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.request_history import RecordedRequest, RequestHistory
from csm_trio.pipeline.voice_prefix import VoicePrefixes
from csm_trio.protocol.speech_fields import NO_VOICE_SETTINGS
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.telemetry import Metrics
from csm_trio.voice_store.changes import AddedVoice, NewVoice, VoiceChange
from csm_trio.voice_store.store import VoiceStore
from csm_trio.voices import VoiceCatalog


class SharedState(Protocol):
    """The state that every worker sees alike."""

    @property
    def keys(self) -> ApiKeys:
        """The API keys as they are now."""

    async def issue_token(self, key_digest: bytes) -> str:
        """Return a new single-use token, which stands for the key with this digest."""

    async def redeem_token(self, token: str) -> bytes | None:
        """Return the digest of a token's key, and invalidate the token; None for no valid one."""

    @property
    def voices(self) -> VoiceCatalog:
        """The voices as they are now."""

    @property
    def prefixes(self) -> VoicePrefixes:
        """The prefixes of these voices."""

    def voice_edits(self, voice_id: str) -> VoiceSettings:
        """Return the edited settings of a voice."""

    async def edit_voice(self, voice_id: str, changes: VoiceSettings) -> None:
        """Edit the settings of a voice; return when every worker has them."""

    async def add_voice(self, new: NewVoice) -> AddedVoice:
        """Add a voice; raises as `VoiceStore.add`."""

    async def change_voice(self, voice_id: str, change: VoiceChange) -> None:
        """Change an added voice; raises as `VoiceStore.change`."""

    async def remove_voice(self, voice_id: str) -> None:
        """Remove an added voice; raises as `VoiceStore.remove`."""

    def record_segment(self, request: RecordedRequest, segment: PromptSegment) -> None:
        """Add a segment of a request to the request history."""

    async def segments_of(
        self, request_ids: Collection[str], voice_id: str
    ) -> tuple[PromptSegment, ...]:
        """Return the voice's segments of these requests, oldest first."""

    async def segments_before(
        self, previous_text: str, voice_id: str, client: str
    ) -> tuple[PromptSegment, ...]:
        """Return the segments of the client's latest request that ends with this text."""

    async def render_metrics(self) -> bytes:
        """Return the metrics of the whole server in Prometheus' text format."""


class LocalSharedState:
    """The state itself."""

    def __init__(
        self, config: SpeechConfig, metrics: Metrics, store: VoiceStore, keys: KeyStore
    ) -> None:
        self._metrics = metrics
        self._keys = keys
        self._store = store
        self._tokens = SingleUseTokens()
        self._history = RequestHistory(config)
        self._prefixes = VoicePrefixes(store.catalog)

    @property
    def voices(self) -> VoiceCatalog:
        return self._store.catalog

    @property
    def prefixes(self) -> VoicePrefixes:
        if self._prefixes.catalog is not self._store.catalog:
            self._prefixes = VoicePrefixes(self._store.catalog)
        return self._prefixes

    async def add_voice(self, new: NewVoice) -> AddedVoice:
        return await self._store.add(new)

    async def change_voice(self, voice_id: str, change: VoiceChange) -> None:
        await self._store.change(voice_id, change)

    async def remove_voice(self, voice_id: str) -> None:
        await self._store.remove(voice_id)

    @property
    def keys(self) -> ApiKeys:
        return self._keys.keys

    async def issue_token(self, key_digest: bytes) -> str:
        return self._tokens.issue(key_digest)

    async def redeem_token(self, token: str) -> bytes | None:
        return self._tokens.redeem(token)

    def voice_edits(self, voice_id: str) -> VoiceSettings:
        return self._store.settings.get(voice_id, NO_VOICE_SETTINGS)

    async def edit_voice(self, voice_id: str, changes: VoiceSettings) -> None:
        await self._store.edit_settings(voice_id, changes)

    def record_segment(self, request: RecordedRequest, segment: PromptSegment) -> None:
        self._history.record(request, segment)

    async def segments_of(
        self, request_ids: Collection[str], voice_id: str
    ) -> tuple[PromptSegment, ...]:
        return self._history.segments_of(request_ids, voice_id)

    async def segments_before(
        self, previous_text: str, voice_id: str, client: str
    ) -> tuple[PromptSegment, ...]:
        return self._history.segments_before(previous_text, voice_id, client=client)

    async def render_metrics(self) -> bytes:
        return self._metrics.render()
