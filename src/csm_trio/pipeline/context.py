"""One context: a stream of text in one voice becomes one stream of encoded speech.

Three stages, each in its own file, each given channel ends that it owns and closes:

    deltas -> segmenting -> sentences -> generating -> frame batches -> encoding -> outbox

It must not know sockets, HTTP or any vendor's JSON, nor how frames are made.
"""

import contextlib
import logging
import time

import trio

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.voice_profiles import VoiceProfiles
from csm_trio.config import SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.errors import ClientStalled, SpeechError, first_leaf
from csm_trio.pipeline.encoding import Encoding, TimestampTracker
from csm_trio.pipeline.generating import Generating
from csm_trio.pipeline.segmenting import segment
from csm_trio.pipeline.spec import ContextProgress, ContextSpec, SpeechItem
from csm_trio.pipeline.stream_items import StreamItems
from csm_trio.protocol.events import AddText, ContextDone, ContextFailed, Flush, OutEvent
from csm_trio.telemetry import ContextTracer, FinishedContext, Metrics

logger = logging.getLogger(__name__)

SENTENCE_QUEUE_SIZE = 4
FRAME_BATCH_QUEUE_SIZE = 2
CODEC_THREADS = 2


class Synthesizer:
    """Synthesizes contexts for every endpoint; one per server."""

    def __init__(
        self,
        engine: Engine,
        config: SpeechConfig,
        metrics: Metrics,
        tracer: ContextTracer | None = None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._tracer = tracer
        self._profiles = VoiceProfiles()
        self._codec_limiter = trio.CapacityLimiter(CODEC_THREADS)

    async def synthesize(
        self,
        spec: ContextSpec,
        progress: ContextProgress,
        deltas: trio.MemoryReceiveChannel[AddText | Flush],
        outbox: trio.MemorySendChannel[OutEvent],
    ) -> None:
        """Synthesize the text of `deltas` into Audio events, then send one last event.

        The last event is ContextDone or ContextFailed; a cancelled context sends nothing more.
        """
        last: OutEvent | None = None
        with deltas, outbox:
            try:
                async with trio.open_nursery() as nursery:
                    to_generate, sentences = trio.open_memory_channel[SpeechItem](
                        SENTENCE_QUEUE_SIZE
                    )
                    to_encode, items = trio.open_memory_channel[StreamItems](FRAME_BATCH_QUEUE_SIZE)
                    generating = Generating(
                        spec, progress, self._engine, self._metrics, self._config
                    )
                    encoding = self._encoding(spec, progress)
                    nursery.start_soon(segment, spec, progress, deltas, to_generate)
                    nursery.start_soon(generating.run, sentences, to_encode)
                    nursery.start_soon(encoding.run, items, outbox.clone())
                last = ContextDone(spec.context_id)
            except* trio.BrokenResourceError:
                # A downstream stage closed its channel: it reports the cause itself, or the
                # client is gone.
                pass
            except* SpeechError as group:
                last = ContextFailed(spec.context_id, first_error(group))
            finally:
                self._record_outcome(spec, progress, last)
            if last is not None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await outbox.send(last)

    def _encoding(self, spec: ContextSpec, progress: ContextProgress) -> Encoding:
        aligner = None
        if spec.aligned and self._config.alignment != "off":
            aligner = Aligner(self._profiles, time_scale=1 / spec.speed)
        return Encoding(
            spec,
            progress,
            TimestampTracker(aligner),
            self._metrics,
            buffer_size=spec.settings.buffer_size or self._config.buffer_size,
            codec_limiter=self._codec_limiter,
        )

    def _record_outcome(
        self, spec: ContextSpec, progress: ContextProgress, last: OutEvent | None
    ) -> None:
        """Count, log and trace how a context ended; without a last event it was cancelled."""
        reason = ""
        match last:
            case ContextDone():
                outcome = "done"
            case ContextFailed(error=error):
                outcome, reason = "failed", type(error).__name__
                self._metrics.failures.labels(reason).inc()
                if isinstance(error, ClientStalled):
                    self._metrics.cancels.labels("stalled").inc()
            case _:
                outcome, reason = "cancelled", progress.cancel_reason()
                progress.timeline.mark("cancelled")
                self._metrics.cancels.labels(reason).inc()
        if self._tracer is not None:
            self._tracer.record(_finished(spec, progress, outcome, reason))
        logger.info(
            "context %s: voice=%s format=%s audio=%.2fs %s",
            f"{outcome} ({reason})" if reason else outcome,
            spec.voice.voice_id,
            spec.audio_format.name,
            progress.spoken_frames * spec.frame_s,
            progress.timeline,
        )


def _finished(
    spec: ContextSpec, progress: ContextProgress, outcome: str, reason: str
) -> FinishedContext:
    return FinishedContext(
        context_id=spec.context_id,
        session_id=spec.session_id,
        parent=spec.trace_parent,
        voice_id=spec.voice.voice_id,
        output_format=spec.audio_format.name,
        characters=progress.characters,
        sentences=progress.generated,
        frames=progress.spoken_frames,
        audio_s=progress.spoken_frames * spec.frame_s,
        outcome=outcome,
        reason=reason,
        timeline=progress.timeline,
        ended_s=time.monotonic(),
    )


def first_error(group: BaseExceptionGroup[SpeechError]) -> SpeechError:
    """Return the first SpeechError of a group: the one that ended the other tasks."""
    error = first_leaf(group)
    assert isinstance(error, SpeechError)
    return error
