"""A worker's view of what is one over all workers: each question goes to the supervisor."""

import itertools
from collections.abc import Collection, Hashable, Mapping

from csm_trio.api.admission import SessionCounts
from csm_trio.api.api_keys import ApiKey, ApiKeys
from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.request_history import RecordedRequest
from csm_trio.pipeline.voice_prefix import VoicePrefixes
from csm_trio.processes.control_channel import ControlChannel
from csm_trio.protocol.speech_fields import NO_VOICE_SETTINGS
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.telemetry import hide_secrets
from csm_trio.voice_store.changes import AddedVoice, NewVoice, VoiceChange
from csm_trio.voices import VoiceCatalog


class SupervisedSessions:
    """Sessions counted by the supervisor, over all workers."""

    def __init__(self, control: ControlChannel, limit: int) -> None:
        self.limit = limit
        self.open_sessions = 0
        self._control = control
        self._ids = itertools.count()
        self._lease_ids: dict[Hashable, int] = {}

    async def acquire(self, lease: Hashable, key: ApiKey | None = None) -> SessionCounts:
        """Take a session, of those of a key; raises as `LocalSessions.acquire`."""
        lease_id = self._lease_ids[lease] = next(self._ids)
        acquired = False
        try:
            counts: SessionCounts = await self._control.call("admit", lease_id, key)
            acquired = True
        finally:
            if not acquired:
                self.release(lease)
        self.open_sessions = counts.total
        return counts

    def release(self, lease: Hashable) -> None:
        """Return a session, or stop waiting for it."""
        self._control.notify("release", self._lease_ids.pop(lease))


class SupervisedState:
    """Shared state that the supervisor holds; voices are copied to every worker."""

    def __init__(
        self,
        control: ControlChannel,
        voices: VoiceCatalog,
        edits: Mapping[str, VoiceSettings],
        keys: ApiKeys,
    ) -> None:
        self._control = control
        self.set_voices(voices, edits)
        self.set_keys(keys)

    def set_keys(self, keys: ApiKeys) -> None:
        """Store what the supervisor has sent."""
        self.keys = keys
        hide_secrets(keys.secrets)

    def set_voices(self, voices: VoiceCatalog, edits: Mapping[str, VoiceSettings]) -> None:
        """Store what the supervisor has sent."""
        self.voices, self._edits = voices, edits
        self.prefixes = VoicePrefixes(voices)

    async def issue_token(self, key_digest: bytes) -> str:
        return str(await self._control.call("issue_token", key_digest))

    async def redeem_token(self, token: str) -> bytes | None:
        key_digest: bytes | None = await self._control.call("redeem_token", token)
        return key_digest

    def voice_edits(self, voice_id: str) -> VoiceSettings:
        return self._edits.get(voice_id, NO_VOICE_SETTINGS)

    async def edit_voice(self, voice_id: str, changes: VoiceSettings) -> None:
        await self._control.call("edit_voice", voice_id, changes)

    async def add_voice(self, new: NewVoice) -> AddedVoice:
        added: AddedVoice = await self._control.call("add_voice", new)
        return added

    async def change_voice(self, voice_id: str, change: VoiceChange) -> None:
        await self._control.call("change_voice", voice_id, change)

    async def remove_voice(self, voice_id: str) -> None:
        await self._control.call("remove_voice", voice_id)

    def record_segment(self, request: RecordedRequest, segment: PromptSegment) -> None:
        self._control.notify("record_segment", request, segment)

    async def segments_of(
        self, request_ids: Collection[str], voice_id: str
    ) -> tuple[PromptSegment, ...]:
        segments: tuple[PromptSegment, ...] = await self._control.call(
            "segments_of", tuple(request_ids), voice_id
        )
        return segments

    async def segments_before(
        self, previous_text: str, voice_id: str, client: str
    ) -> tuple[PromptSegment, ...]:
        segments: tuple[PromptSegment, ...] = await self._control.call(
            "segments_before", previous_text, voice_id, client
        )
        return segments

    async def render_metrics(self) -> bytes:
        return bytes(await self._control.call("render_metrics"))
