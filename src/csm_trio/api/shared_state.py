"""What is one over all worker processes of a server: tokens, edited voices, history, metrics.

`LocalSharedState` holds it, in a server of one process or in the supervisor; workers have
`processes.worker_state`, which asks the supervisor.
"""

from collections.abc import Collection
from typing import Protocol

from csm_trio.api.auth import SingleUseTokens
from csm_trio.config import SpeechConfig
from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.request_history import RecordedRequest, RequestHistory
from csm_trio.protocol.fields import NO_VOICE_SETTINGS
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.telemetry import Metrics


class SharedState(Protocol):
    """The state that every worker sees alike."""

    async def issue_token(self) -> str:
        """Return a new single-use token."""

    async def redeem_token(self, token: str) -> bool:
        """Return whether a single-use token is valid, and invalidate it."""

    def voice_edits(self, voice_id: str) -> VoiceSettings:
        """Return the edited settings of a voice; they last until the server ends."""

    async def edit_voice(self, voice_id: str, changes: VoiceSettings) -> None:
        """Edit the settings of a voice; return when every worker has them."""

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

    def __init__(self, config: SpeechConfig, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tokens = SingleUseTokens()
        self._history = RequestHistory(config)
        self._edits: dict[str, VoiceSettings] = {}

    @property
    def all_voice_edits(self) -> dict[str, VoiceSettings]:
        """The edited settings by voice id."""
        return dict(self._edits)

    async def issue_token(self) -> str:
        return self._tokens.issue()

    async def redeem_token(self, token: str) -> bool:
        return self._tokens.redeem(token)

    def voice_edits(self, voice_id: str) -> VoiceSettings:
        return self._edits.get(voice_id, NO_VOICE_SETTINGS)

    async def edit_voice(self, voice_id: str, changes: VoiceSettings) -> None:
        self._edits[voice_id] = self.voice_edits(voice_id).overridden_by(changes)

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
