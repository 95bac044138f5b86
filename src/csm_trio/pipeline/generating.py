"""The second stage of a context: sentences in, frame batches from the engine out.

Holds one pool token, and only while the frames of one utterance are being made. It must not know
what frames are encoded to.
"""

import logging
import secrets
import time
from collections.abc import Sequence

import numpy as np
import trio
from numpy.typing import NDArray

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
from csm_trio.errors import ClientStalled
from csm_trio.pipeline.prompt_history import PromptHistory
from csm_trio.pipeline.spec import ContextProgress, ContextSpec, Sentence, SpeechItem
from csm_trio.pipeline.stream_items import (
    SentenceBegin,
    SentenceEnd,
    StreamItems,
    TurnEnd,
    frames_of,
)
from csm_trio.telemetry import Metrics
from csm_trio.text.duration import longest_speech_s
from csm_trio.text.ssml import Break
from csm_trio.timebase import FRAME_MS, FRAME_SAMPLES

logger = logging.getLogger(__name__)

SILENCE = Frame(np.zeros(FRAME_SAMPLES, dtype=np.int16), np.zeros(0, dtype=np.int16))
"""The frame that a `<break>` is made of, and the speech of a text without any; it takes no slot and
enters no prompt history."""

LOGGED_CHARS = 1000
"""Characters of a sentence that a line of the log holds at most."""


class Generating:
    """Generates the sentences of one context, one utterance at a time."""

    def __init__(
        self,
        spec: ContextSpec,
        progress: ContextProgress,
        engine: Engine,
        metrics: Metrics,
        config: SpeechConfig,
    ) -> None:
        self._spec = spec
        self._progress = progress
        self._engine = engine
        self._metrics = metrics
        self._stall_timeout_s = config.stall_timeout_s
        self._logs_texts = config.log_texts
        self._has_delivered = False
        self._history = PromptHistory(config.history_sentences, before=spec.history)

    async def run(
        self,
        sentences: trio.MemoryReceiveChannel[SpeechItem],
        items: trio.MemorySendChannel[StreamItems],
    ) -> None:
        """Generate each sentence in order, until the sentences end; break tags become silence.

        Raises ClientStalled where the client takes nothing for `stall_timeout_s`, and what
        `Engine.generate` raises.
        """
        with sentences, items:
            async for item in sentences:
                match item:
                    case TurnEnd():
                        await self._deliver((item,), items)
                    case Break(duration_ms=duration_ms):
                        silence = (SILENCE,) * round(duration_ms / 1000 / self._spec.frame_s)
                        for start in range(0, len(silence), MAX_BATCH_FRAMES):
                            await self._deliver(silence[start : start + MAX_BATCH_FRAMES], items)
                        self._progress.generated += 1
                    case Sentence():
                        await self._generate_sentence(item, items)
                        self._progress.generated += 1
            if self._spec.never_empty and not self._has_delivered:
                await self._deliver((SILENCE,), items)

    async def _generate_sentence(
        self, sentence: Sentence, items: trio.MemorySendChannel[StreamItems]
    ) -> None:
        utterance = self._utterance(sentence)
        if self._logs_texts:
            _log_text(self._spec.context_id, sentence)
        codes: list[NDArray[np.int16]] = []
        async with self._engine.generate(utterance, self._spec.session_id) as stream:
            begun_s = trio.current_time()
            self._progress.timeline.mark("admitted")
            async for frame_batch in stream:
                begin = () if codes else (_sentence_begin(sentence, utterance),)
                await self._deliver((*begin, *frame_batch), items)
                codes += [frame.codes for frame in frame_batch]
        if codes:
            await self._deliver((SentenceEnd(),), items)
            took_s = trio.current_time() - begun_s
            self._metrics.real_time_factor.observe(took_s / (len(codes) * self._spec.frame_s))
        if stream.end is not None:
            heard = codes[: max(0, len(codes) - stream.end.window_frames)]
            self._remember(utterance, sentence, heard)
        if stream.end is not EndReason.SPOKEN:
            # A cap is the client's to set, and some texts reach it: that is no warning.
            level = logging.INFO if stream.end is EndReason.CAPPED else logging.WARNING
            logger.log(level, "utterance ended early (%s): %d frames", stream.end, len(codes))

    def _remember(
        self, utterance: Utterance, sentence: Sentence, codes: Sequence[NDArray[np.int16]]
    ) -> None:
        """Add what was heard of a sentence to the prompt history and to the request history."""
        if not codes:
            return
        segment = PromptSegment(utterance.speaker_id, sentence.text, np.stack(codes))
        self._history.add(segment)
        if self._spec.on_segment is not None:
            self._spec.on_segment(segment)

    async def _deliver(self, made: StreamItems, items: trio.MemorySendChannel[StreamItems]) -> None:
        """Send items to encoding; raise ClientStalled at the deadline."""
        spec, progress = self._spec, self._progress
        frames = frames_of(made)
        if frames:
            self._has_delivered = True
            progress.timeline.mark("first_frame")
        try:
            items.send_nowait(made)
        except trio.WouldBlock:
            # A client that stops reading is noticed here, behind all buffers of its connection.
            try:
                with trio.fail_after(self._stall_timeout_s):
                    await items.send(made)
            except trio.TooSlowError:
                raise ClientStalled(self._stall_timeout_s) from None
        if frames:
            now_s = time.monotonic()
            # Before a sentence begins the playback buffer may wait for the client's text.
            if progress.buffer_empty_at_s is not None and len(frames) == len(made):
                self._metrics.underrun_s.observe(max(0.0, now_s - progress.buffer_empty_at_s))
            audio_s = len(frames) * spec.frame_s
            progress.buffer_empty_at_s = buffer_empty_after(
                progress.buffer_empty_at_s, now_s, audio_s
            )

    def _utterance(self, sentence: Sentence) -> Utterance:
        spec, settings = self._spec, sentence.settings
        speaker_id = spec.voice.speaker_id if settings.speaker_id is None else settings.speaker_id
        # The prefix cache of another speaker's clip would read as that speaker's segment.
        own_voice = spec.voice.voice_id if speaker_id == spec.voice.speaker_id else None
        voice_id = settings.voice_id or own_voice
        limit_ms = settings.max_audio_len_ms or spec.max_audio_len_ms
        longest_ms = min(limit_ms, round(1000 * longest_speech_s(sentence.text)))
        # Sentences of one seeded request must not share their noise, yet each is reproducible.
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
            history=self._history.prompt_for(speaker_id, others=spec.dialogue),
            plays_at_s=self._progress.buffer_empty_at_s,
            frame_s=spec.frame_s,
            batch=settings.batch or False,
            prefix=None if voice_id is None else spec.prefix_of(voice_id),
        )


def _log_text(context_id: str, sentence: Sentence) -> None:
    """Log a sentence as it is spoken, on one line."""
    text = sentence.text
    more = f" and {len(text) - LOGGED_CHARS} more" if len(text) > LOGGED_CHARS else ""
    # `repr` escapes whatever is not printable: line ends of every kind, and terminal controls.
    shown = repr(text[:LOGGED_CHARS])
    logger.info("context %r, sentence %d: %s%s", context_id[:64], sentence.index, shown, more)


def _sentence_begin(sentence: Sentence, utterance: Utterance) -> SentenceBegin:
    key = "" if utterance.prefix is None else utterance.prefix.key
    return SentenceBegin(sentence.spoken, f"{key} {utterance.speaker_id}")
