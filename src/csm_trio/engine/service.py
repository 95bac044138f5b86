"""The engine's interface to Trio: utterances in, streams of frames out.

One engine, two links to its device thread: `in_process` calls it in the same process, `remote`
through a socket to the engine process. Nothing above this module knows which.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from csm_trio.engine.scheduler import CREDIT_FRAMES
from csm_trio.engine.utterance import EndReason, FrameBatch, Utterance
from csm_trio.errors import EngineFailed, SpeechError
from csm_trio.telemetry import Metrics


class EngineLink(Protocol):
    """The way from streams to the device thread; no call blocks."""

    def admit(self, stream: "FrameStream", session_id: str) -> None:
        """Ask for a pool token, then generate; the stream is granted when it has its token.

        Without a `session_id` the stream is a session of its own.
        """

    def acknowledge(self, stream: "FrameStream", frames: int) -> None:
        """Record that the stream's reader has taken so many frames."""

    def release(self, stream: "FrameStream") -> None:
        """Release slot and token, or the place in the queue; the stream is released after it."""

    def ping(self, answered: Callable[[], None]) -> None:
        """Have `answered` called on the Trio thread once the step loop has come by."""


class FrameStream:
    """The frame batches of one utterance, in order; `end` is the reason for the end, once known.

    A frame batch is one frame until the playback buffer is at low water. Iteration raises the
    SpeechError that stopped the utterance, if one did.

    A link calls `grant`, `deliver`, `finish` and `close`, on the Trio thread.
    """

    def __init__(self, utterance: Utterance, link: EngineLink) -> None:
        self.utterance = utterance
        self.end: EndReason | None = None
        self.granted = trio.Event()
        self.released = trio.Event()
        self._link = link
        self._error: SpeechError | None = None
        # Credit bounds the frames in flight: `send_nowait` finds space for each.
        self._send, self._receive = trio.open_memory_channel[FrameBatch](CREDIT_FRAMES)

    def __aiter__(self) -> "FrameStream":
        return self

    async def __anext__(self) -> FrameBatch:
        try:
            frame_batch = await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None
        self._link.acknowledge(self, len(frame_batch))
        return frame_batch

    def grant(self) -> None:
        """Record that the stream has its pool token."""
        self.granted.set()

    def deliver(self, frame_batch: FrameBatch) -> None:
        """Pass a frame batch to the reader, unless the stream is released."""
        if not self.released.is_set():
            self._send.send_nowait(frame_batch)

    def finish(self, end: EndReason | None, error: SpeechError | None = None) -> None:
        """End the stream behind its last frame batch; only the first call counts."""
        if self.end is None and self._error is None:
            self.end, self._error = end, error
            self._send.close()

    def close(self) -> None:
        """Record that slot and token are released; frames that are still in it are dropped."""
        self.released.set()
        self._send.close()
        self._receive.close()


class Engine:
    """The slots as sessions use them; one per process that serves clients.

    `stopped` is set when the device thread has ended: nothing is generated any more.
    """

    def __init__(self, slots: int, link: EngineLink, metrics: Metrics) -> None:
        self.slots = slots
        self.stopped = trio.Event()
        self._link = link
        self._metrics = metrics
        self._streams: dict[FrameStream, None] = {}

    @property
    def borrowed_slots(self) -> int:
        """How many pool tokens the streams of this engine hold now."""
        return sum(stream.granted.is_set() for stream in self._streams)

    @asynccontextmanager
    async def generate(
        self, utterance: Utterance, session_id: str = ""
    ) -> AsyncIterator[FrameStream]:
        """Generate one utterance: wait for a slot, yield its frames, release the slot at exit.

        The pool token is the right to a slot, shared fairly between sessions; it never returns
        before its slot is free. Without a `session_id` the utterance is a session of its own.
        Raises EngineFailed if the device thread has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.stopped.is_set():
            raise EngineFailed
        stream = FrameStream(utterance, self._link)
        self._streams[stream] = None
        self._link.admit(stream, session_id)
        try:
            with self._metrics.utterances_waiting.track_inprogress():
                await stream.granted.wait()
            if self.stopped.is_set():
                raise EngineFailed
            yield stream
        finally:
            cancelled = stream.granted.is_set() and stream.end is None
            released_at_s = time.monotonic()
            self._link.release(stream)
            # The shield is bounded by one prefill chunk and one step of the device thread.
            with trio.CancelScope(shield=True):
                await stream.released.wait()
            del self._streams[stream]
            if cancelled:
                self._metrics.cancel_to_free_s.observe(time.monotonic() - released_at_s)

    async def responds(self, within_s: float = 5.0) -> bool:
        """Return whether the step loop answers a ping within so many seconds (`/healthz`)."""
        answered = trio.Event()
        self._link.ping(answered.set)
        with trio.move_on_after(within_s):
            await answered.wait()
        return answered.is_set()

    async def count_used_slots(self) -> int | None:
        """Return `borrowed_slots`; None where the step loop does not answer a ping."""
        return self.borrowed_slots if await self.responds() else None

    def stop(self) -> None:
        """Fail and release every stream: the device thread has ended and answers no command."""
        self.stopped.set()
        for stream in self._streams:
            stream.finish(None, EngineFailed())
            stream.grant()
            stream.released.set()
