"""Sessions without a server: a scripted socket before each, a fake engine behind."""

import base64
import json
from collections.abc import Sequence
from typing import cast

import numpy as np
import trio

from csm_trio.audio.formats import AudioFormat
from csm_trio.config import SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.engine.utterance import Utterance
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.session import Session, SessionConfig, SocketProtocol
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.protocol.elevenlabs.stream_input import StreamInputProtocol
from csm_trio.protocol.events import (
    OpenContext,
)
from csm_trio.telemetry import Metrics
from csm_trio.voices import Voice
from support.fakes import FakeEngine, ScriptedSocket, sine_frames

GUARD_S = 3_600
OPENER: dict[str, object] = {"text": " "}
EOS: dict[str, object] = {"text": ""}


def text_message(text: str, **fields: object) -> dict[str, object]:
    return {"text": text, **fields}


class SessionRun:
    """A session over a scripted socket and a fake engine, and the settings of an endpoint."""

    def __init__(
        self,
        engine: FakeEngine | None = None,
        *,
        socket: ScriptedSocket | None = None,
        protocol: SocketProtocol | None = None,
        inactivity_timeout_s: float = 20.0,
        max_pending_chars: int = 1_000,
    ) -> None:
        self.engine = engine or FakeEngine()
        self.socket = socket or ScriptedSocket()
        self.specs: list[ContextSpec] = []
        self.metrics = Metrics()
        self._max_pending_chars = max_pending_chars
        synthesizer = Synthesizer(cast(Engine, self.engine), SpeechConfig(), self.metrics)
        config = SessionConfig(self._open_spec, lambda: "hang_up", inactivity_timeout_s)
        self._session = Session(
            protocol or StreamInputProtocol(), synthesizer, config, self.metrics
        )

    def _open_spec(self, opened: OpenContext) -> ContextSpec:
        spec = ContextSpec(
            context_id=opened.context_id,
            voice=Voice("vera", "Vera", 0),
            audio_format=AudioFormat.parse("pcm_24000"),
            settings=opened.settings,
            max_audio_len_ms=30_000,
            max_pending_chars=self._max_pending_chars,
            chunk_lengths=opened.chunk_lengths,
        )
        self.specs.append(spec)
        return spec

    async def run(self, *messages: dict[str, object] | str | bytes) -> None:
        """Serve a client that sends these messages and then stays connected."""
        self.socket.client_send(*messages)
        with trio.fail_after(GUARD_S):
            await self._session.run(self.socket.receive, self.socket.send)
        assert self.engine.open_utterances == 0

    @property
    def sent(self) -> list[dict[str, object]]:
        return [json.loads(message) for message in self.socket.sent]

    @property
    def texts(self) -> list[str]:
        return [utterance.text for utterance in self.engine.utterances]

    def cancels(self, reason: str) -> float:
        value = self.metrics.registry.get_sample_value("csm_cancels_total", {"reason": reason})
        return value or 0.0


def joined_audio(messages: Sequence[dict[str, object]]) -> bytes:
    return b"".join(base64.b64decode(str(sent["audio"])) for sent in messages if sent["audio"])


def expected_audio(utterances: Sequence[Utterance]) -> bytes:
    pcm = [frame.pcm for text_message in utterances for frame in sine_frames(text_message)]
    return np.concatenate(pcm).astype("<i2").tobytes()
