"""One context: a stream of text in one voice becomes one stream of encoded speech.

Three stages, each given its channel ends, which it owns and closes:

    deltas -> segment -> sentences -> generate -> frames -> encode -> outbox

It must not know sockets, HTTP or any vendor's JSON, nor how frames are made.
"""

import contextlib
import logging
import secrets
import time

import numpy as np
import trio
from numpy.typing import NDArray

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.voice_profiles import VoiceProfiles
from csm_trio.config import SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.engine.utterance import (
    MAX_BATCH_FRAMES,
    EndReason,
    Frame,
    PromptSegment,
    Sampling,
    Utterance,
    buffer_empty_after,
)
from csm_trio.errors import ClientStalled, SpeechError, first_leaf
from csm_trio.pipeline.encoding import Encoding
from csm_trio.pipeline.prompt_history import PromptHistory
from csm_trio.pipeline.segmenting import segment
from csm_trio.pipeline.spec import ContextSpec, Sentence, SpeechItem
from csm_trio.pipeline.stream_items import (
    SentenceBegin,
    SentenceEnd,
    StreamItems,
    TimestampTracker,
    TurnEnd,
    frames_of,
)
from csm_trio.protocol.events import AddText, ContextDone, ContextFailed, Flush, OutEvent
from csm_trio.telemetry import Metrics
from csm_trio.text.duration import longest_speech_s
from csm_trio.text.ssml import Break
from csm_trio.timebase import FRAME_MS, FRAME_SAMPLES

logger = logging.getLogger(__name__)

SILENCE = Frame(np.zeros(FRAME_SAMPLES, dtype=np.int16), np.zeros(0, dtype=np.int16))
"""What a `<break>` is made of: it holds no slot, and no history knows it."""

SENTENCE_QUEUE_SIZE = 4
FRAME_BATCH_QUEUE_SIZE = 2
CODEC_THREADS = 2


class Synthesizer:
    """Speaks contexts: what every door opens into."""

    def __init__(self, engine: Engine, config: SpeechConfig, metrics: Metrics) -> None:
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._profiles = VoiceProfiles()
        self._codec_limiter = trio.CapacityLimiter(CODEC_THREADS)

    async def synthesize(
        self,
        spec: ContextSpec,
        deltas: trio.MemoryReceiveChannel[AddText | Flush],
        outbox: trio.MemorySendChannel[OutEvent],
    ) -> None:
        """Say all text of `deltas`, as Audio events into `outbox`; then one last event.

        The last word is ContextDone or ContextFailed; a cancelled context says nothing more.
        """
        last: OutEvent | None = None
        with deltas, outbox:
            try:
                async with trio.open_nursery() as nursery:
                    to_generate, sentences = trio.open_memory_channel[SpeechItem](
                        SENTENCE_QUEUE_SIZE
                    )
                    to_encode, items = trio.open_memory_channel[StreamItems](FRAME_BATCH_QUEUE_SIZE)
                    nursery.start_soon(segment, spec, deltas, to_generate)
                    nursery.start_soon(self._generate, spec, sentences, to_encode)
                    nursery.start_soon(self._encoding(spec).run, items, outbox.clone())
                last = ContextDone(spec.context_id)
            except* trio.BrokenResourceError:
                # The break goes up: whoever it started with says why, or nobody listens.
                pass
            except* SpeechError as group:
                last = ContextFailed(spec.context_id, first_error(group))
            finally:
                self._record_outcome(spec, last)
            if last is not None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await outbox.send(last)

    async def _generate(
        self,
        spec: ContextSpec,
        sentences: trio.MemoryReceiveChannel[SpeechItem],
        items: trio.MemorySendChannel[StreamItems],
    ) -> None:
        """Have each sentence spoken; hold a slot only while its frames are being made."""
        history = PromptHistory(self._config.history_sentences, before=spec.history)
        with sentences, items:
            async for item in sentences:
                match item:
                    case TurnEnd():
                        await self._deliver(spec, (item,), items)
                    case Break(duration_ms=duration_ms):
                        silence = (SILENCE,) * round(duration_ms / 1000 / spec.frame_s)
                        for start in range(0, len(silence), MAX_BATCH_FRAMES):
                            frame_batch = silence[start : start + MAX_BATCH_FRAMES]
                            await self._deliver(spec, frame_batch, items)
                    case Sentence():
                        await self._generate_sentence(spec, item, history, items)

    async def _generate_sentence(
        self,
        spec: ContextSpec,
        sentence: Sentence,
        history: PromptHistory,
        items: trio.MemorySendChannel[StreamItems],
    ) -> None:
        utterance = self._utterance(spec, sentence, history)
        codes: list[NDArray[np.int16]] = []
        async with self._engine.generate(utterance) as stream:
            begun_s = trio.current_time()
            spec.timeline.mark("admitted")
            async for frame_batch in stream:
                begin = () if codes else (_begin(sentence, utterance),)
                await self._deliver(spec, (*begin, *frame_batch), items)
                codes += [frame.codes for frame in frame_batch]
        if codes:
            await self._deliver(spec, (SentenceEnd(),), items)
            taken_s = trio.current_time() - begun_s
            self._metrics.real_time_factor.observe(taken_s / (len(codes) * spec.frame_s))
        if stream.end is EndReason.SPOKEN and codes:
            turn = PromptSegment(utterance.speaker_id, sentence.text, np.stack(codes))
            history.add(turn)
            if spec.on_segment is not None:
                spec.on_segment(turn)
        elif stream.end is not EndReason.SPOKEN:
            # The cap is the caller's to set, and a text may be such that it is met.
            level = logging.INFO if stream.end is EndReason.CAPPED else logging.WARNING
            logger.log(level, "utterance cut (%s): %d frames", stream.end, len(codes))

    async def _deliver(
        self, spec: ContextSpec, made: StreamItems, items: trio.MemorySendChannel[StreamItems]
    ) -> None:
        """Pass pieces on to be encoded, or raise ClientStalled.

        hypercorn shields its socket writes, so no deadline can sit on them: a listener who
        does not listen is noticed here.
        """
        frames = frames_of(made)
        if frames:
            spec.timeline.mark("first_frame")
        try:
            items.send_nowait(made)
        except trio.WouldBlock:
            try:
                with trio.fail_after(self._config.stall_timeout_s):
                    await items.send(made)
            except trio.TooSlowError:
                raise ClientStalled(self._config.stall_timeout_s) from None
        if frames:
            now_s, audio_s = time.monotonic(), len(frames) * spec.frame_s
            spec.buffer_empty_at_s = buffer_empty_after(spec.buffer_empty_at_s, now_s, audio_s)

    def _utterance(
        self, spec: ContextSpec, sentence: Sentence, history: PromptHistory
    ) -> Utterance:
        settings = sentence.settings
        speaker_id = spec.voice.speaker_id if settings.speaker_id is None else settings.speaker_id
        # A clip of another speaker's would be heard as somebody else's turn.
        own_voice = spec.voice.voice_id if speaker_id == spec.voice.speaker_id else None
        limit_ms = settings.max_audio_len_ms or spec.max_audio_len_ms
        longest_ms = min(limit_ms, round(1000 * longest_speech_s(sentence.text)))
        # Sentences of one seeded request must not share their noise, yet each have its own.
        seed = secrets.randbits(62) if settings.seed is None else settings.seed
        return Utterance(
            text=sentence.text,
            speaker_id=speaker_id,
            max_frames=max(1, longest_ms // FRAME_MS),
            sampling=Sampling(
                temperature=settings.temperature,
                top_k=settings.top_k,
                seed=seed + (sentence.index << 32),
                temperature_scale=(
                    1.0 if settings.temperature_scale is None else settings.temperature_scale
                ),
            ),
            history=history.prompt_for(speaker_id, others=spec.dialogue),
            plays_at_s=spec.buffer_empty_at_s,
            frame_s=spec.frame_s,
            batch=settings.batch or False,
            voice_id=settings.voice_id or own_voice,
        )

    def _encoding(self, spec: ContextSpec) -> Encoding:
        aligner = None
        if spec.aligned and self._config.alignment != "off":
            aligner = Aligner(self._profiles, time_scale=1 / spec.speed)
        return Encoding(
            spec,
            TimestampTracker(aligner),
            self._metrics,
            buffer_size=spec.settings.buffer_size or self._config.buffer_size,
            codec_limiter=self._codec_limiter,
        )

    def _record_outcome(self, spec: ContextSpec, last: OutEvent | None) -> None:
        match last:
            case ContextDone():
                outcome = "done"
            case ContextFailed(error=error):
                outcome = f"failed ({type(error).__name__})"
                self._metrics.failures.labels(type(error).__name__).inc()
                if isinstance(error, ClientStalled):
                    self._metrics.cancels.labels("stalled").inc()
            case _:
                outcome = f"cancelled ({spec.cancel_reason()})"
                self._metrics.cancels.labels(spec.cancel_reason()).inc()
        logger.info(
            "context %s: voice=%s format=%s audio=%.2fs %s",
            outcome,
            spec.voice.voice_id,
            spec.audio_format.name,
            spec.spoken_frames * spec.frame_s,
            spec.timeline,
        )


def first_error(group: BaseExceptionGroup[SpeechError]) -> SpeechError:
    """Return the SpeechError that brought the others of its group down."""
    error = first_leaf(group)
    assert isinstance(error, SpeechError)
    return error


def _begin(sentence: Sentence, utterance: Utterance) -> SentenceBegin:
    """Return what goes before the first frames of a sentence."""
    return SentenceBegin(sentence.spoken, f"{utterance.voice_id} {utterance.speaker_id}")
