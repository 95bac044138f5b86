"""The last stage of a context: frames in, chunks in its format out, and what is said in each.

It must not know where frames come from, nor who takes the chunks.
"""

from collections.abc import Sequence

import numpy as np
import trio
from numpy.typing import NDArray

from csm_trio.audio.encoders import make_encoder
from csm_trio.engine.utterance import MAX_BATCH_FRAMES
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.pipeline.stream_items import (
    StreamItem,
    StreamItems,
    TimestampTracker,
    TurnEnd,
    chunks_of,
    frames_of,
    has_turn_end,
)
from csm_trio.protocol.events import Audio, OutEvent, TurnDone
from csm_trio.telemetry import Metrics


class Encoding:
    """Encodes one context: one encoder and one narrator for all of its sentences.

    The first chunk waits for so many frames as `buffer_size` says. Heavy codecs run on threads,
    of which `codec_limiter` says how many.
    """

    def __init__(
        self,
        spec: ContextSpec,
        tracker: TimestampTracker,
        metrics: Metrics,
        *,
        buffer_size: int,
        codec_limiter: trio.CapacityLimiter,
    ) -> None:
        self._order = spec
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
        """Turn frames into chunks, until the frames end.

        After the first, chunks take what there is: a bunch, or more where the client is slower
        than the engine.
        """
        spec = self._order
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
            aligned = self._tracker.advance((), heard=True)
            if tail or aligned:
                await outbox.send(Audio(spec.context_id, tail, aligned, spec.turns_done))
            if spec.dialogue and turn_begun:
                await outbox.send(TurnDone(spec.context_id))

    async def _send_chunks(
        self, held: Sequence[StreamItem], outbox: trio.MemorySendChannel[OutEvent]
    ) -> None:
        spec = self._order
        for chunk in chunks_of(held, MAX_BATCH_FRAMES):
            pcm = [frame.pcm for frame in frames_of(chunk)]
            data = await self._run_codec(np.concatenate(pcm)) if pcm else b""
            spec.spoken_frames += len(pcm)
            aligned = self._tracker.advance(chunk, heard=bool(data))
            gap_s = spec.timeline.lap("chunk") if data else None
            if data or aligned:
                await _send_soon(outbox, Audio(spec.context_id, data, aligned, spec.turns_done))
            if data and spec.timeline.mark("first_chunk"):
                first_audio_s = spec.timeline.since("segmented", "first_chunk")
                self._metrics.ttfa_s.observe(first_audio_s or 0.0)
            elif gap_s is not None:
                self._metrics.chunk_gap_s.observe(gap_s)
            if isinstance(chunk[-1], TurnEnd):
                spec.turns_done += 1
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
    """Send an event, without giving way to other tasks where its receiver waits for it.

    The sender must have waited for something before; a cancelled one says nothing.
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
