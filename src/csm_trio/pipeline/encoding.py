"""The third stage of a context: frame batches in, chunks in its format and their alignment out.

It must not know where frames come from, nor where chunks go.
"""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import trio
from numpy.typing import NDArray

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.alignment import Aligned
from csm_trio.audio.encoders import make_encoder
from csm_trio.engine.utterance import MAX_BATCH_FRAMES, Frame
from csm_trio.pipeline.spec import ContextProgress, ContextSpec
from csm_trio.pipeline.stream_items import (
    SentenceBegin,
    SentenceEnd,
    StreamItem,
    StreamItems,
    TurnEnd,
    chunks_of,
    frames_of,
    has_turn_end,
)
from csm_trio.protocol.events import Audio, OutEvent, TurnDone
from csm_trio.telemetry import Metrics

_NEAR_END_CHARS = 8  # at least as many as are spoken in one frame batch
_NO_SAMPLES = np.zeros(0, dtype=np.int16)


class TimestampTracker:
    """Finds the characters that begin in each chunk; without an aligner there are none."""

    def __init__(self, aligner: Aligner | None) -> None:
        self._aligner = aligner

    def ready(self, held: Sequence[StreamItem]) -> int:
        """Return how many of `held` to send now, so that a sentence's end goes with its last frame.

        Where the end may come next, the last frame waits for it. That frame is silence, or one of
        a batch, which the engine delivers only to a client whose playback buffer is above its low
        water.
        """
        left = None if self._aligner is None else self._aligner.chars_left
        near_chars = _NEAR_END_CHARS if len(frames_of(held)) > 1 else 0
        waits = left is not None and left <= near_chars and isinstance(held[-1], Frame)
        return len(held) - waits

    def advance(
        self, chunk: Sequence[StreamItem], pcm: NDArray[np.int16], *, always: bool
    ) -> Aligned | None:
        """Align one more chunk; return the characters that began since the last alignment.

        `pcm` are the samples of its frames. `always` is whether the chunk carries bytes: without
        any, only a sentence's end is worth a message.
        """
        if self._aligner is None:
            return None
        ended = False
        begin = end = 0  # of the samples of frames that are aligned in one call, which costs less
        for item, after in zip_longest(chunk, chunk[1:]):
            match item:
                case Frame(attended_char=attended_char):
                    end += len(item.pcm)
                    if isinstance(after, Frame) and after.attended_char == attended_char:
                        continue
                    self._aligner.feed(pcm[begin:end], attended_char)
                    begin = end
                case SentenceBegin(spoken=spoken, voice=voice):
                    self._aligner.begin(spoken, voice)
                case SentenceEnd():
                    self._aligner.end()
                    ended = True
        return self._aligner.take() if always or ended else None


class Encoding:
    """Encodes one context: one encoder and one timestamp tracker for all sentences.

    The first chunk waits for `buffer_size` frames. Heavy codecs run on threads, as many as
    `codec_limiter` allows.
    """

    def __init__(
        self,
        spec: ContextSpec,
        progress: ContextProgress,
        tracker: TimestampTracker,
        metrics: Metrics,
        *,
        buffer_size: int,
        codec_limiter: trio.CapacityLimiter,
    ) -> None:
        self._spec = spec
        self._progress = progress
        self._tracker = tracker
        self._metrics = metrics
        self._waiting_for = buffer_size
        self._codec_limiter = codec_limiter
        self._encoder = make_encoder(spec.audio_format, speed=spec.speed)

    async def run(
        self,
        items: trio.MemoryReceiveChannel[StreamItems],
        outbox: trio.MemorySendChannel[OutEvent],
    ) -> None:
        """Encode frames into chunks, until the frames end.

        After the first, a chunk holds the frames at hand: one frame batch, or more where the
        client is slower than the engine.
        """
        spec, progress = self._spec, self._progress
        held: list[StreamItem] = []
        turn_begun = False
        with items, outbox:
            async for made in items:
                held += made
                while len(held) < MAX_BATCH_FRAMES and (more := _receive_nowait(items)):
                    held += more
                turn_begun = not isinstance(held[-1], TurnEnd)
                if len(frames_of(held)) < self._waiting_for and not has_turn_end(held):
                    continue
                self._waiting_for = 0
                ready = self._tracker.ready(held)
                await self._send_chunks(held[:ready], outbox)
                held = held[ready:]
            await self._send_chunks(held, outbox)
            tail = await self._run_codec(None)
            aligned = self._tracker.advance((), _NO_SAMPLES, always=True)
            if tail or aligned:
                await outbox.send(Audio(spec.context_id, tail, aligned, progress.turns_done))
            if spec.dialogue and turn_begun:
                await outbox.send(TurnDone(spec.context_id))

    async def _send_chunks(
        self, held: Sequence[StreamItem], outbox: trio.MemorySendChannel[OutEvent]
    ) -> None:
        spec, progress = self._spec, self._progress
        for chunk in chunks_of(held, MAX_BATCH_FRAMES):
            frames = frames_of(chunk)
            pcm = np.concatenate([frame.pcm for frame in frames]) if frames else _NO_SAMPLES
            data = await self._run_codec(pcm) if frames else b""
            progress.spoken_frames += len(frames)
            aligned = self._tracker.advance(chunk, pcm, always=bool(data))
            gap_s = progress.timeline.lap("chunk") if data else None
            if data or aligned:
                await _send_soon(outbox, Audio(spec.context_id, data, aligned, progress.turns_done))
            if data and progress.timeline.mark("first_chunk"):
                first_audio_s = progress.timeline.since("segmented", "first_chunk")
                self._metrics.ttfa_s.observe(first_audio_s or 0.0)
            elif gap_s is not None:
                self._metrics.chunk_gap_s.observe(gap_s)
            progress.begun += sum(isinstance(item, SentenceBegin) for item in chunk)
            if isinstance(chunk[-1], TurnEnd):
                progress.turns_done += 1
                await outbox.send(TurnDone(spec.context_id))

    async def _run_codec(self, pcm: NDArray[np.int16] | None) -> bytes:
        """Encode samples, or finish the stream (None); heavy codecs go to a thread."""
        encoder = self._encoder
        if not encoder.heavy:
            return encoder.finish() if pcm is None else encoder.encode(pcm)
        if pcm is None:
            return await trio.to_thread.run_sync(encoder.finish, limiter=self._codec_limiter)
        return await trio.to_thread.run_sync(encoder.encode, pcm, limiter=self._codec_limiter)


async def _send_soon(outbox: trio.MemorySendChannel[OutEvent], event: OutEvent) -> None:
    """Send an event, without a full checkpoint where the receiver already waits.

    The caller must have passed a checkpoint before; a cancelled caller sends nothing.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        outbox.send_nowait(event)
    except trio.WouldBlock:
        await outbox.send(event)


def _receive_nowait(items: trio.MemoryReceiveChannel[StreamItems]) -> StreamItems | None:
    try:
        return items.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        return None
