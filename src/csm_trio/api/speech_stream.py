"""The speech of one HTTP request: its chunks one by one, or all of them.

Knows neither routes nor the form of an answer.
"""

import contextlib
from collections.abc import Sequence
from typing import Self

import trio

from csm_trio.alignment.alignment import join
from csm_trio.api.admission import Admission, SessionCounts, SessionLease
from csm_trio.api.api_keys import ApiKey
from csm_trio.api.asgi import request_nursery
from csm_trio.audio.wav import with_true_lengths
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.spec import ContextProgress, ContextSpec
from csm_trio.protocol.events import AddText, Audio, ContextFailed, Flush, OutEvent, TurnDone

Outbox = trio.MemoryReceiveChannel[OutEvent]


class SpeechStream:
    """An async iterator of the chunks of one context, synthesized for the current request.

    The synthesis task lives in the request's nursery, so that a hang-up cancels it at any moment
    of the answer.
    """

    # A class and no async generator: the garbage collector would have to close the latter after
    # a hang-up.
    def __init__(
        self,
        spec: ContextSpec,
        progress: ContextProgress,
        first: OutEvent,
        outbox: Outbox,
        request_scope: trio.CancelScope,
        counts: SessionCounts,
    ) -> None:
        self.audio_format = spec.audio_format
        self.counts = counts
        self.progress = progress
        self._context_id = spec.context_id
        self._next_event: OutEvent | None = first
        self._outbox = outbox
        self._request_scope = request_scope

    @classmethod
    async def start(
        cls,
        synthesizer: Synthesizer,
        spec: ContextSpec,
        *,
        deltas: Sequence[AddText | Flush],
        admission: Admission,
        key: ApiKey | None = None,
    ) -> Self:
        """Admit the session and start its synthesis; return at its first event but turn ends.

        Raises what `Admission.admit` raises, or the SpeechError that came instead of audio.
        """
        progress = ContextProgress.begin(spec, lambda: admission.cancel_reason)
        for delta in deltas:
            progress.receive(len(delta.text) if isinstance(delta, AddText) else 0)
        to_context, waiting = trio.open_memory_channel[AddText | Flush](len(deltas))
        for delta in deltas:
            to_context.send_nowait(delta)
        to_context.close()
        to_client, outbox = trio.open_memory_channel[OutEvent](0)
        nursery = request_nursery()
        with waiting, to_client:
            lease = await admission.admit(key)
            nursery.start_soon(
                _synthesize,
                *(synthesizer, spec, progress, waiting.clone(), to_client.clone()),
                *(admission, lease),
            )
        # The status line precedes the body, so an error at the start must be raised before there
        # is a response. A turn without speech ends without audio.
        while isinstance(first := await outbox.receive(), TurnDone):
            pass
        if isinstance(first, ContextFailed):
            raise first.error
        return cls(spec, progress, first, outbox, nursery.cancel_scope, lease.counts)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Audio:
        """Return the next chunk; raise the SpeechError that ends the speech early."""
        event, self._next_event = self._next_event, None
        while event is None or isinstance(event, TurnDone):
            event = await self._outbox.receive()
        if isinstance(event, ContextFailed):
            raise event.error
        if not isinstance(event, Audio):
            raise StopAsyncIteration
        return event

    async def collect(self) -> Audio:
        """Return all chunks as one, after the last; raise the SpeechError that ends them early."""
        return self.join(await self.collect_chunks())

    async def collect_chunks(self) -> list[Audio]:
        """Return all chunks, after the last; raise the SpeechError that ends them early."""
        with self._outbox:
            return [chunk async for chunk in self]

    def join(self, chunks: Sequence[Audio]) -> Audio:
        """Return all chunks as one; a WAV header gets its true lengths."""
        data = b"".join(chunk.data for chunk in chunks)
        if self.audio_format.codec == "wav":
            data = with_true_lengths(data)
        aligned = join([chunk.aligned for chunk in chunks if chunk.aligned is not None])
        return Audio(self._context_id, data, aligned)

    def close(self) -> None:
        """Stop reading: the synthesis ends at its next chunk."""
        self._outbox.close()

    async def cancel_request(self) -> None:
        """Cancel the request, which breaks its answer off; raises Cancelled at once."""
        self._request_scope.cancel()
        await trio.lowlevel.checkpoint()


async def _synthesize(
    synthesizer: Synthesizer,
    spec: ContextSpec,
    progress: ContextProgress,
    deltas: trio.MemoryReceiveChannel[AddText | Flush],
    to_client: trio.MemorySendChannel[OutEvent],
    admission: Admission,
    lease: SessionLease,
) -> None:
    """Synthesize within the lease; where all sessions are aborted, fail with that error."""
    with lease, deltas, to_client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_abort, admission, nursery.cancel_scope)
            await synthesizer.synthesize(spec, progress, deltas.clone(), to_client.clone())
            nursery.cancel_scope.cancel()
        if admission.aborted.is_set():
            with contextlib.suppress(trio.BrokenResourceError):
                await to_client.send(ContextFailed(spec.context_id, admission.abort_error))


async def _cancel_at_abort(admission: Admission, scope: trio.CancelScope) -> None:
    await admission.aborted.wait()
    scope.cancel()
