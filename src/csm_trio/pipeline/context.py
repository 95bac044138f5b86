"""One context: a stream of text in one voice becomes one stream of encoded speech.

Three stages, each given its channel ends, which it owns and closes:

    deltas -> segment -> sentences -> generate -> frames -> encode -> outbox

It must not know sockets, HTTP or any vendor's JSON, nor how frames are made.
"""

import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import trio
from numpy.typing import NDArray

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.manners import Manners
from csm_trio.audio.encoders import SOURCE_HZ, Encoder, make_encoder
from csm_trio.audio.formats import AudioFormat
from csm_trio.config import SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.engine.utterance import (
    BUNCH_FRAMES,
    FRAME_S,
    EndReason,
    Frame,
    Sampling,
    Utterance,
    plays_out_after,
)
from csm_trio.errors import ListenerStalled, SpeechError, TextTooLong, first_leaf
from csm_trio.model.prompt import Turn
from csm_trio.pipeline.history import History
from csm_trio.pipeline.narration import (
    Narrator,
    Piece,
    Pieces,
    SentenceBegin,
    SentenceEnd,
    TurnEnd,
    chunks_of,
    frames_of,
    has_turn_end,
)
from csm_trio.protocol.events import (
    AddText,
    Audio,
    ContextDone,
    ContextFailed,
    Flush,
    OutEvent,
    SpeechSettings,
    TurnDone,
)
from csm_trio.telemetry import Metrics, Timeline
from csm_trio.text.duration import longest_speech_s
from csm_trio.text.script import Line, Script
from csm_trio.text.spans import SpokenText
from csm_trio.text.ssml import Break
from csm_trio.voices import Voice

logger = logging.getLogger(__name__)

FRAME_MS = 80
FRAME_SAMPLES = SOURCE_HZ * FRAME_MS // 1000
SILENCE = Frame(np.zeros(FRAME_SAMPLES, dtype=np.int16), np.zeros(0, dtype=np.int16))
"""What a `<break>` is made of: it holds no slot, and no history knows it."""

LEAST_PART_S = 5.0
"""Sentences are not cut into shorter parts than this for the sake of a cap."""

SENTENCES_AHEAD = 4
BUNCHES_IN_HAND = 2
CODEC_THREADS = 2


@dataclass(frozen=True, slots=True)
class Sentence:
    """What `segment` lets go of: what is to be said, and the settings it came under."""

    index: int
    spoken: SpokenText
    settings: SpeechSettings

    @property
    def text(self) -> str:
        """As it is to be spoken."""
        return self.spoken.text


Heard = Sentence | Break | TurnEnd
"""What there is to hear, in order."""


@dataclass(slots=True)
class Backlog:
    """Characters that a context has been sent and not yet begun to work on.

    Text is never held back by not reading it, so it must be counted: `add` raises TextTooLong
    over the limit.
    """

    limit_chars: int
    waiting_chars: int = 0

    def add(self, chars: int) -> None:
        """Count a delta in; an empty one counts as a character, since it takes memory too."""
        self.waiting_chars += chars or 1
        if self.waiting_chars > self.limit_chars:
            raise TextTooLong(self.limit_chars)

    def remove(self, chars: int) -> None:
        """Count a delta out."""
        self.waiting_chars -= chars or 1


@dataclass(slots=True)
class SpeechOrder:
    """Everything `speak` must know of one context before its text comes.

    `cancel_reason` says what a cancel of it is to be counted as. `chunk_lengths` are the
    segmenter's. In a `dialogue` every speaker hears what the others said before, and the client
    is told where turns end: at a flush, and where `voice_id` changes. `history` was said before
    it began, and `on_turn` is told each sentence that a later order may have as its own history.
    `aligned` says whether the client is told which character is spoken when.
    """

    context_id: str
    voice: Voice
    audio_format: AudioFormat
    settings: SpeechSettings
    max_audio_len_ms: int
    backlog: Backlog
    cancel_reason: Callable[[], str]
    chunk_lengths: tuple[int, ...] = ()
    dialogue: bool = False
    history: tuple[Turn, ...] = ()
    on_turn: Callable[[Turn], None] | None = None
    aligned: bool = False
    timeline: Timeline = field(default_factory=Timeline)
    spoken_frames: int = 0
    turns_done: int = 0
    plays_out_s: float | None = None
    """When the listener's player runs dry, on the monotonic clock: what was made so far plays on
    from its first frame."""

    @property
    def speed(self) -> float:
        """How fast all of the context plays."""
        return 1.0 if self.settings.speed is None else self.settings.speed

    @property
    def frame_s(self) -> float:
        """How long a frame plays at this speed."""
        return FRAME_S / self.speed


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
                    nursery.start_soon(self._segment, order, deltas, to_generate)
                    nursery.start_soon(self._generate, order, sentences, to_encode)
                    nursery.start_soon(self._encode, order, pieces, outbox.clone())
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

    async def _segment(
        self,
        order: SpeechOrder,
        deltas: trio.MemoryReceiveChannel[AddText | Flush],
        sentences: trio.MemorySendChannel[Heard],
    ) -> None:
        """Cut deltas into sentences, until the deltas end."""
        settings = order.settings
        script = _script(settings, order)
        index = 0
        turn_begun = False
        with deltas, sentences:

            async def let_go(lines: list[Line]) -> None:
                nonlocal index
                for line in lines:
                    order.timeline.mark("segmented")
                    if isinstance(line, Break):
                        await sentences.send(line)
                        continue
                    await sentences.send(Sentence(index, line, settings))
                    index += 1

            async def end_turn() -> None:
                nonlocal turn_begun
                if order.dialogue and turn_begun:
                    await sentences.send(TurnEnd())
                turn_begun = False

            async for delta in deltas:
                match delta:
                    case AddText(text=text, settings=changes):
                        changed = settings.overridden_by(changes)
                        if changed != settings:
                            # What is buffered was sent under the old settings.
                            if _reads_alike(settings, changed):
                                await let_go(script.flush())
                            else:
                                await let_go(script.finish())
                                script = _script(changed, order)
                            if changed.voice_id != settings.voice_id:
                                await end_turn()
                            settings = changed
                        turn_begun = True
                        await let_go(script.feed(text))
                        order.backlog.remove(len(text))
                    case Flush(hint=hint):
                        await let_go(script.trigger() if hint else script.flush())
                        await end_turn()
                        order.backlog.remove(0)
            await let_go(script.finish())

    async def _generate(
        self,
        order: SpeechOrder,
        sentences: trio.MemoryReceiveChannel[Heard],
        pieces: trio.MemorySendChannel[Pieces],
    ) -> None:
        """Have each sentence spoken; hold a slot only while its frames are being made."""
        history = History(self._config.history_turns, before=order.history)
        with sentences, pieces:
            async for sentence in sentences:
                if isinstance(sentence, TurnEnd):
                    await self._hand_over(order, (sentence,), pieces)
                    continue
                if isinstance(sentence, Break):
                    silence = (SILENCE,) * round(sentence.duration_ms / 1000 / order.frame_s)
                    for start in range(0, len(silence), BUNCH_FRAMES):
                        bunch = silence[start : start + BUNCH_FRAMES]
                        await self._hand_over(order, bunch, pieces)
                    continue
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
                    audio_s = len(codes) * order.frame_s
                    self._metrics.real_time_factor.observe(taken_s / audio_s)
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

    async def _encode(
        self,
        order: SpeechOrder,
        pieces: trio.MemoryReceiveChannel[Pieces],
        outbox: trio.MemorySendChannel[OutEvent],
    ) -> None:
        """Turn frames into chunks in the context's format, until the frames end.

        The first chunk waits for `buffer_size` frames. Later ones take what there is: a bunch,
        or more where the client is slower than the engine.
        """
        encoder = make_encoder(order.audio_format, speed=order.speed)
        narrator = self._narrator(order)
        waiting_for = order.settings.buffer_size or self._config.buffer_size
        held: list[Piece] = []
        turn_begun = False
        with pieces, outbox:
            async for made in pieces:
                held += made
                while len(held) < BUNCH_FRAMES and (more := _at_hand(pieces)):
                    held += more
                turn_begun = not isinstance(held[-1], TurnEnd)
                if len(frames_of(held)) < waiting_for and not has_turn_end(held):
                    continue
                waiting_for = 0
                ready = narrator.ready(held)
                await self._send_chunks(order, held[:ready], encoder, narrator, outbox)
                held = held[ready:]
            await self._send_chunks(order, held, encoder, narrator, outbox)
            tail = await self._run_codec(encoder, None)
            aligned = narrator.narrate((), heard=True)
            if tail or aligned:
                await outbox.send(Audio(order.context_id, tail, aligned, order.turns_done))
            if order.dialogue and turn_begun:
                await outbox.send(TurnDone(order.context_id))

    def _narrator(self, order: SpeechOrder) -> Narrator:
        if not order.aligned or self._config.alignment == "off":
            return Narrator(None)
        return Narrator(Aligner(self._manners, time_scale=1 / order.speed))

    async def _send_chunks(
        self,
        order: SpeechOrder,
        held: Sequence[Piece],
        encoder: Encoder,
        narrator: Narrator,
        outbox: trio.MemorySendChannel[OutEvent],
    ) -> None:
        for chunk in chunks_of(held, BUNCH_FRAMES):
            pcm = [frame.pcm for frame in frames_of(chunk)]
            data = await self._run_codec(encoder, np.concatenate(pcm)) if pcm else b""
            order.spoken_frames += len(pcm)
            aligned = narrator.narrate(chunk, heard=bool(data))
            gap_s = order.timeline.lap("chunk") if data else None
            if data or aligned:
                audio = Audio(order.context_id, data, aligned, order.turns_done)
                await _send_soon(outbox, audio)
            if data and order.timeline.mark("first_chunk"):
                first_audio_s = order.timeline.since("segmented", "first_chunk")
                self._metrics.first_audio_s.observe(first_audio_s or 0.0)
            elif gap_s is not None:
                self._metrics.chunk_gap_s.observe(gap_s)
            if isinstance(chunk[-1], TurnEnd):
                order.turns_done += 1
                await outbox.send(TurnDone(order.context_id))

    async def _run_codec(self, encoder: Encoder, pcm: NDArray[np.int16] | None) -> bytes:
        """Encode samples, or finish the stream (None); heavy codecs go to a thread."""
        if not encoder.heavy:
            return encoder.finish() if pcm is None else encoder.encode(pcm)
        if pcm is None:
            return await trio.to_thread.run_sync(encoder.finish, limiter=self._codec_limiter)
        return await trio.to_thread.run_sync(encoder.encode, pcm, limiter=self._codec_limiter)

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


def _script(settings: SpeechSettings, order: SpeechOrder) -> Script:
    # The server's usual caps must not cut a word off; a caller's, or a very short one, is meant to.
    cap_s = order.max_audio_len_ms / 1000
    in_parts = settings.max_audio_len_ms is None and cap_s >= LEAST_PART_S
    return Script(
        normalization=settings.normalization or "auto",
        ssml=settings.ssml or False,
        chunk_lengths=order.chunk_lengths,
        limit_s=cap_s if in_parts else math.inf,
    )


def _reads_alike(one: SpeechSettings, other: SpeechSettings) -> bool:
    return (one.normalization, one.ssml, one.max_audio_len_ms) == (
        other.normalization,
        other.ssml,
        other.max_audio_len_ms,
    )


def _begin(sentence: Sentence, utterance: Utterance) -> SentenceBegin:
    """Return what goes before the first frames of a sentence."""
    return SentenceBegin(sentence.spoken, f"{utterance.voice_id} {utterance.speaker_id}")


async def _send_soon(outbox: trio.MemorySendChannel[OutEvent], event: OutEvent) -> None:
    """Send an event, without giving way to other tasks where its receiver waits for it.

    The sender must have waited for something before; a cancelled one says nothing.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        outbox.send_nowait(event)
    except trio.WouldBlock:
        await outbox.send(event)


def _at_hand(pieces: trio.MemoryReceiveChannel[Pieces]) -> Pieces | None:
    try:
        return pieces.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        return None
