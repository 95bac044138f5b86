"""The last stage of a context: frames in, chunks in its format out, and what is said in each.

It must not know where frames come from, nor who takes the chunks.
"""

from collections.abc import Sequence

import numpy as np
import trio
from numpy.typing import NDArray

from csm_trio.audio.encoders import make_encoder
from csm_trio.engine.utterance import BUNCH_FRAMES
from csm_trio.pipeline.spec import SpeechOrder
from csm_trio.pipeline.stream_items import (
    Narrator,
    Piece,
    Pieces,
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
        order: SpeechOrder,
        narrator: Narrator,
        metrics: Metrics,
        *,
        buffer_size: int,
        codec_limiter: trio.CapacityLimiter,
    ) -> None:
        self._order = order
        self._narrator = narrator
        self._metrics = metrics
        self._waiting_for = buffer_size
        self._codec_limiter = codec_limiter
        self._encoder = make_encoder(order.audio_format, speed=order.speed)

    async def run(
        self,
        pieces: trio.MemoryReceiveChannel[Pieces],
        outbox: trio.MemorySendChannel[OutEvent],
    ) -> None:
        """Turn frames into chunks, until the frames end.

        After the first, chunks take what there is: a bunch, or more where the client is slower
        than the engine.
        """
        order = self._order
        held: list[Piece] = []
        turn_begun = False
        with pieces, outbox:
            async for made in pieces:
                held += made
                while len(held) < BUNCH_FRAMES and (more := _at_hand(pieces)):
                    held += more
                turn_begun = not isinstance(held[-1], TurnEnd)
                if len(frames_of(held)) < self._waiting_for and not has_turn_end(held):
                    continue
                self._waiting_for = 0
                ready = self._narrator.ready(held)
                await self._send_chunks(held[:ready], outbox)
                held = held[ready:]
            await self._send_chunks(held, outbox)
            tail = await self._run_codec(None)
            aligned = self._narrator.narrate((), heard=True)
            if tail or aligned:
                await outbox.send(Audio(order.context_id, tail, aligned, order.turns_done))
            if order.dialogue and turn_begun:
                await outbox.send(TurnDone(order.context_id))

    async def _send_chunks(
        self, held: Sequence[Piece], outbox: trio.MemorySendChannel[OutEvent]
    ) -> None:
        order = self._order
        for chunk in chunks_of(held, BUNCH_FRAMES):
            pcm = [frame.pcm for frame in frames_of(chunk)]
            data = await self._run_codec(np.concatenate(pcm)) if pcm else b""
            order.spoken_frames += len(pcm)
            aligned = self._narrator.narrate(chunk, heard=bool(data))
            gap_s = order.timeline.lap("chunk") if data else None
            if data or aligned:
                await _send_soon(outbox, Audio(order.context_id, data, aligned, order.turns_done))
            if data and order.timeline.mark("first_chunk"):
                first_audio_s = order.timeline.since("segmented", "first_chunk")
                self._metrics.first_audio_s.observe(first_audio_s or 0.0)
            elif gap_s is not None:
                self._metrics.chunk_gap_s.observe(gap_s)
            if isinstance(chunk[-1], TurnEnd):
                order.turns_done += 1
                await outbox.send(TurnDone(order.context_id))

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


def _at_hand(pieces: trio.MemoryReceiveChannel[Pieces]) -> Pieces | None:
    try:
        return pieces.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        return None
