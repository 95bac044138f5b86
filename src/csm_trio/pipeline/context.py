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
from csm_trio.alignment.voice_profiles import Manners
from csm_trio.config import SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.engine.utterance import (
    BUNCH_FRAMES,
    EndReason,
    Frame,
    Sampling,
    Turn,
    Utterance,
    plays_out_after,
)
from csm_trio.errors import ListenerStalled, SpeechError, first_leaf
from csm_trio.model.config import FRAME_SAMPLES
from csm_trio.pipeline.encoding import Encoding
from csm_trio.pipeline.prompt_history import History
from csm_trio.pipeline.segmenting import segment
from csm_trio.pipeline.spec import Heard, Sentence, SpeechOrder
from csm_trio.pipeline.stream_items import (
    Narrator,
    Pieces,
    SentenceBegin,
    SentenceEnd,
    TurnEnd,
    frames_of,
)
from csm_trio.protocol.events import AddText, ContextDone, ContextFailed, Flush, OutEvent
from csm_trio.telemetry import Metrics
from csm_trio.text.duration import longest_speech_s
from csm_trio.text.ssml import Break

logger = logging.getLogger(__name__)

FRAME_MS = 80
SILENCE = Frame(np.zeros(FRAME_SAMPLES, dtype=np.int16), np.zeros(0, dtype=np.int16))
"""What a `<break>` is made of: it holds no slot, and no history knows it."""

SENTENCES_AHEAD = 4
BUNCHES_IN_HAND = 2
CODEC_THREADS = 2


class Speaker:
    """Speaks contexts: what every door opens into."""

    def __init__(self, engine: Engine, config: SpeechConfig, metrics: Metrics) -> None:
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._manners = Manners()
        self._codec_limiter = trio.CapacityLimiter(CODEC_THREADS)

    async def speak(
        self,
        order: SpeechOrder,
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
                    to_generate, sentences = trio.open_memory_channel[Heard](SENTENCES_AHEAD)
                    to_encode, pieces = trio.open_memory_channel[Pieces](BUNCHES_IN_HAND)
                    nursery.start_soon(segment, order, deltas, to_generate)
                    nursery.start_soon(self._generate, order, sentences, to_encode)
                    nursery.start_soon(self._encoding(order).run, pieces, outbox.clone())
                last = ContextDone(order.context_id)
            except* trio.BrokenResourceError:
                # The break goes up: whoever it started with says why, or nobody listens.
                pass
            except* SpeechError as group:
                last = ContextFailed(order.context_id, first_error(group))
            finally:
                self._close_books(order, last)
            if last is not None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await outbox.send(last)

    async def _generate(
        self,
        order: SpeechOrder,
        sentences: trio.MemoryReceiveChannel[Heard],
        pieces: trio.MemorySendChannel[Pieces],
    ) -> None:
        """Have each sentence spoken; hold a slot only while its frames are being made."""
        history = History(self._config.history_turns, before=order.history)
        with sentences, pieces:
            async for heard in sentences:
                match heard:
                    case TurnEnd():
                        await self._hand_over(order, (heard,), pieces)
                    case Break(duration_ms=duration_ms):
                        silence = (SILENCE,) * round(duration_ms / 1000 / order.frame_s)
                        for start in range(0, len(silence), BUNCH_FRAMES):
                            bunch = silence[start : start + BUNCH_FRAMES]
                            await self._hand_over(order, bunch, pieces)
                    case Sentence():
                        await self._generate_sentence(order, heard, history, pieces)

    async def _generate_sentence(
        self,
        order: SpeechOrder,
        sentence: Sentence,
        history: History,
        pieces: trio.MemorySendChannel[Pieces],
    ) -> None:
        utterance = self._utterance(order, sentence, history)
        codes: list[NDArray[np.int16]] = []
        async with self._engine.generate(utterance) as stream:
            begun_s = trio.current_time()
            order.timeline.mark("admitted")
            async for bunch in stream:
                begin = () if codes else (_begin(sentence, utterance),)
                await self._hand_over(order, (*begin, *bunch), pieces)
                codes += [frame.codes for frame in bunch]
        if codes:
            await self._hand_over(order, (SentenceEnd(),), pieces)
            taken_s = trio.current_time() - begun_s
            self._metrics.real_time_factor.observe(taken_s / (len(codes) * order.frame_s))
        if stream.end is EndReason.SPOKEN and codes:
            turn = Turn(utterance.speaker_id, sentence.text, np.stack(codes))
            history.add(turn)
            if order.on_turn is not None:
                order.on_turn(turn)
        elif stream.end is not EndReason.SPOKEN:
            # The cap is the caller's to set, and a text may be such that it is met.
            level = logging.INFO if stream.end is EndReason.CAPPED else logging.WARNING
            logger.log(level, "utterance cut (%s): %d frames", stream.end, len(codes))

    async def _hand_over(
        self, order: SpeechOrder, made: Pieces, pieces: trio.MemorySendChannel[Pieces]
    ) -> None:
        """Pass pieces on to be encoded, or raise ListenerStalled.

        hypercorn shields its socket writes, so no deadline can sit on them: a listener who
        does not listen is noticed here.
        """
        frames = frames_of(made)
        if frames:
            order.timeline.mark("first_frame")
        try:
            pieces.send_nowait(made)
        except trio.WouldBlock:
            try:
                with trio.fail_after(self._config.stall_timeout_s):
                    await pieces.send(made)
            except trio.TooSlowError:
                raise ListenerStalled(self._config.stall_timeout_s) from None
        if frames:
            now_s, audio_s = time.monotonic(), len(frames) * order.frame_s
            order.plays_out_s = plays_out_after(order.plays_out_s, now_s, audio_s)

    def _utterance(self, order: SpeechOrder, sentence: Sentence, history: History) -> Utterance:
        settings = sentence.settings
        speaker_id = order.voice.speaker_id if settings.speaker_id is None else settings.speaker_id
        # A clip of another speaker's would be heard as somebody else's turn.
        own_voice = order.voice.voice_id if speaker_id == order.voice.speaker_id else None
        limit_ms = settings.max_audio_len_ms or order.max_audio_len_ms
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
            turns=history.heard_by(speaker_id, others=order.dialogue),
            plays_at_s=order.plays_out_s,
            frame_s=order.frame_s,
            batch=settings.batch or False,
            voice_id=settings.voice_id or own_voice,
        )

    def _encoding(self, order: SpeechOrder) -> Encoding:
        aligner = None
        if order.aligned and self._config.alignment != "off":
            aligner = Aligner(self._manners, time_scale=1 / order.speed)
        return Encoding(
            order,
            Narrator(aligner),
            self._metrics,
            buffer_size=order.settings.buffer_size or self._config.buffer_size,
            codec_limiter=self._codec_limiter,
        )

    def _close_books(self, order: SpeechOrder, last: OutEvent | None) -> None:
        match last:
            case ContextDone():
                outcome = "done"
            case ContextFailed(error=error):
                outcome = f"failed ({type(error).__name__})"
                self._metrics.failures.labels(type(error).__name__).inc()
                if isinstance(error, ListenerStalled):
                    self._metrics.cancels.labels("stalled").inc()
            case _:
                outcome = f"cancelled ({order.cancel_reason()})"
                self._metrics.cancels.labels(order.cancel_reason()).inc()
        logger.info(
            "context %s: voice=%s format=%s audio=%.2fs %s",
            outcome,
            order.voice.voice_id,
            order.audio_format.name,
            order.spoken_frames * order.frame_s,
            order.timeline,
        )


def first_error(group: BaseExceptionGroup[SpeechError]) -> SpeechError:
    """Return the SpeechError that brought the others of its group down."""
    error = first_leaf(group)
    assert isinstance(error, SpeechError)
    return error


def _begin(sentence: Sentence, utterance: Utterance) -> SentenceBegin:
    """Return what goes before the first frames of a sentence."""
    return SentenceBegin(sentence.spoken, f"{utterance.voice_id} {utterance.speaker_id}")
