"""One session: a WebSocket's messages in, its contexts, messages out.

A session is one nursery, cancelled by a hang-up. `ingest` is the only reader of the socket and
blocks on nothing but reading, since a hang-up queues behind unread messages; `write` is its only
writer. A barge-in is such a hang-up, or a ClearContext or discarding CloseContext, which cancel
their contexts alone; a cancelled context releases its slot. It must not know HTTP, Quart or any
vendor's JSON: a protocol translates.
"""

import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import trio

from csm_trio.errors import (
    InputTimeout,
    InvalidRequest,
    ServerLeaving,
    SpeechError,
    TextTooLong,
    TooManyContexts,
)
from csm_trio.pipeline.context import Synthesizer, first_error
from csm_trio.pipeline.spec import ContextProgress, ContextSpec
from csm_trio.protocol.events import (
    AddText,
    Audio,
    ClearContext,
    CloseContext,
    CloseSession,
    ContextCleared,
    ContextDone,
    ContextFailed,
    Flush,
    InEvent,
    OpenContext,
    OutEvent,
)
from csm_trio.telemetry import Metrics

Receive = Callable[[], Awaitable[str | bytes]]
Send = Callable[[str], Awaitable[None]]

MAX_CLOSING_CONTEXTS = 64
"""Limit of a session's contexts that are closed and not yet at their end.

ElevenLabs allows five open contexts. Without a limit, a client that closes what it opens and
reads nothing would create tasks without bound.
"""

CONTEXTS_PER_S = 20.0
CONTEXT_BURST = 100
"""Contexts that a session may open at once; beyond them and the rate, its messages wait.

A context costs the event loop as much as hundreds of messages.
"""

_Deltas = trio.MemoryReceiveChannel[AddText | Flush]


class SocketProtocol(Protocol):
    """Translates between one vendor's messages and events; does no I/O.

    `contexts_fail_alone` says whether a context's own failure leaves the others speaking, or is
    the whole socket's. After CloseSession nothing but ClearContext comes of a message.
    """

    contexts_fail_alone: bool

    def receive(self, message: str | bytes, now_s: float = 0.0) -> list[InEvent]:
        """Return what a message means that came at `now_s` on any clock.

        Raises SpeechError where it means nothing valid.
        """

    def send(self, event: OutEvent) -> str:
        """Return the message that tells the client of an event."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What the endpoint settled at the upgrade.

    open_spec: builds the spec of a new context. cancel_reason: the reason of a cancel from
    outside. From `drain_begun` on the session ends as soon as it has no context, at the latest
    after `drain_s`. Once `aborted` is set it ends at once, with the error of `abort_error`.
    """

    open_spec: Callable[[OpenContext], ContextSpec]
    cancel_reason: Callable[[], str]
    inactivity_timeout_s: float
    drain_begun: trio.Event = field(default_factory=trio.Event)
    drain_s: float = math.inf
    aborted: trio.Event = field(default_factory=trio.Event)
    abort_error: Callable[[], SpeechError] = ServerLeaving


@dataclass(slots=True, eq=False)
class _Context:
    """A context that is open, or closed and not yet at its end.

    previous_ended: the end of the context before it under the same id; they are synthesized one
    after the other. final_events: sent when this context is cancelled, after its last audio.
    """

    spec: ContextSpec
    progress: ContextProgress
    deltas: trio.MemorySendChannel[AddText | Flush]
    previous_ended: trio.Event | None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    final_events: tuple[OutEvent, ...] = ()
    emitted_before_flush: int = 0

    def note_flush(self) -> None:
        """Note that a flush has come, whose text is not yet segmented."""
        self.emitted_before_flush = self.progress.emitted

    @property
    def flush_is_heard(self) -> bool:
        """Whether audio of the text of the last flush has been sent."""
        return self.progress.begun > self.emitted_before_flush

    @property
    def context_id(self) -> str:
        return self.spec.context_id

    def cancel(self, reason: str, *final_events: OutEvent) -> None:
        """Cancel the context, unless it is cancelled already."""
        if not self.scope.cancel_called:
            self.final_events = final_events
            self.progress.cancel_reason = lambda: reason
            self.progress.timeline.mark("cancelled")
            self.scope.cancel()


class Session:
    """One open socket and its tasks; single- and multi-context protocols alike."""

    def __init__(
        self,
        protocol: SocketProtocol,
        synthesizer: Synthesizer,
        config: SessionConfig,
        metrics: Metrics,
    ) -> None:
        self._protocol = protocol
        self._synthesizer = synthesizer
        self._config = config
        self._metrics = metrics
        self._open: dict[str, _Context] = {}
        self._closing: list[_Context] = []
        self._input_ended = False
        # When the client has played all audio that it was sent.
        self._plays_until_s = -math.inf
        self._sending = False
        # When the next context would be due if contexts were opened at the sustained rate.
        self._open_due_s = -math.inf

    async def run(self, receive: Receive, send: Send, begun: Sequence[InEvent] = ()) -> None:
        """Serve the session until its input has ended and every context is done.

        `begun` are the events of messages that have been read before. Raises the SpeechError that
        ended the session early. All tasks have ended by then, so the caller may write the error
        and the close to the socket.
        """
        failure: SpeechError | None = None
        try:
            async with trio.open_nursery() as nursery:
                to_client, outbox = trio.open_memory_channel[OutEvent](0)
                nursery.start_soon(self._ingest, receive, begun, to_client, nursery)
                nursery.start_soon(self._write, outbox, send, nursery.cancel_scope)
                nursery.start_soon(self._drain, to_client)
                nursery.start_soon(self._abort)
        except* SpeechError as group:
            failure = first_error(group)
        if failure is not None:
            raise failure

    async def _ingest(
        self,
        receive: Receive,
        begun: Sequence[InEvent],
        to_client: trio.MemorySendChannel[OutEvent],
        nursery: trio.Nursery,
    ) -> NoReturn:
        """Read and apply messages; read on after the end of input, to notice a hang-up."""
        try:
            with to_client:
                await self._handle(begun, to_client, nursery)
                while not self._input_ended:
                    await self._receive(await self._next_message(receive), to_client, nursery)
            while True:
                await self._receive(await receive(), to_client, nursery)
        except SpeechError as error:
            self._set_cancel_reason(error)
            raise

    async def _receive(
        self,
        message: str | bytes,
        to_client: trio.MemorySendChannel[OutEvent],
        nursery: trio.Nursery,
    ) -> None:
        events = self._protocol.receive(message, trio.current_time())
        await self._handle(events, to_client, nursery)

    async def _drain(self, to_client: trio.MemorySendChannel[OutEvent]) -> NoReturn:
        """On shutdown, end the session once its contexts are done, or at the drain deadline."""
        await self._config.drain_begun.wait()
        with trio.move_on_after(self._config.drain_s):
            while contexts := [*self._open.values(), *self._closing]:
                await contexts[0].ended.wait()
            if not self._input_ended:
                # Sent through the writer, which may still be sending the last audio.
                with to_client.clone() as outbox:
                    await outbox.send(ContextFailed("", ServerLeaving()))
            await trio.sleep_forever()
        raise ServerLeaving

    async def _abort(self) -> NoReturn:
        """End the session when all sessions are ended at once."""
        await self._config.aborted.wait()
        raise self._config.abort_error()

    async def _next_message(self, receive: Receive) -> str | bytes:
        """Return the next message; raise InputTimeout where the session is idle for too long.

        It is not idle while it has something to say, or its client audio to play.
        """
        timeout_s = self._config.inactivity_timeout_s
        deadline_s = trio.current_time() + timeout_s
        while True:
            with trio.move_on_at(deadline_s):
                return await receive()
            now_s = trio.current_time()
            idle_since_s = now_s if self._has_speech else self._plays_until_s
            deadline_s = max(deadline_s, idle_since_s + timeout_s)
            if deadline_s <= now_s:
                raise InputTimeout(timeout_s)

    @property
    def _has_speech(self) -> bool:
        """Whether a context generates speech, or holds audio that the client does not take."""
        if self._sending or self._closing:
            return True
        return any(context.progress.speaks for context in self._open.values())

    def _note_audio(self, context_id: str) -> None:
        """Note until when the client plays the audio of a context."""
        contexts = [*self._closing_under(context_id)]
        if context_id in self._open:
            contexts.append(self._open[context_id])
        now_s, clock_s = trio.current_time(), time.monotonic()
        for context in contexts:
            empty_at_s = context.progress.buffer_empty_at_s
            if empty_at_s is not None:
                self._plays_until_s = max(self._plays_until_s, now_s + empty_at_s - clock_s)

    def _set_cancel_reason(self, error: SpeechError) -> None:
        """Set the reason under which the contexts that end with the session are counted."""
        reason = type(error).__name__
        for context in [*self._open.values(), *self._closing]:
            if not context.scope.cancel_called:
                context.progress.cancel_reason = lambda: reason
                context.progress.timeline.mark("cancelled")

    async def _handle(
        self,
        events: Sequence[InEvent],
        to_client: trio.MemorySendChannel[OutEvent],
        nursery: trio.Nursery,
    ) -> None:
        for event in events:
            if isinstance(event, OpenContext):
                await self._pace_opening()
                context, deltas = self._admit(event)
                nursery.start_soon(self._synthesize, context, deltas, to_client.clone())
            else:
                self._apply(event)

    async def _pace_opening(self) -> None:
        """Wait until another context may be opened."""
        now_s = trio.current_time()
        burst_s = CONTEXT_BURST / CONTEXTS_PER_S
        self._open_due_s = max(self._open_due_s, now_s - burst_s) + 1 / CONTEXTS_PER_S
        if self._open_due_s > now_s:
            await trio.sleep_until(self._open_due_s)

    def _apply(self, event: InEvent) -> None:
        match event:
            case AddText(text=text):
                self._metrics.characters.inc(len(text))
                self._forward(event, len(text))
            case Flush(context_id=context_id):
                if context_id in self._open:
                    self._open[context_id].note_flush()
                self._forward(event, 0)
            case CloseContext(context_id=context_id):
                discards = self._discards(event)
                self._close(context_id)
                if discards:
                    for context in self._closing_under(context_id):
                        context.cancel("closed", ContextDone(context_id))
            case ClearContext(context_id=context_id):
                self._clear(context_id)
            case CloseSession():
                for context_id in list(self._open):
                    self._close(context_id)
                self._input_ended = True
            case _:
                pass

    def _discards(self, close: CloseContext) -> bool:
        context = self._open.get(close.context_id)
        heard = close.unless_heard and context is not None and context.flush_is_heard
        return close.discard or heard

    def _admit(self, opened: OpenContext) -> tuple[_Context, _Deltas]:
        if len(self._closing) >= MAX_CLOSING_CONTEXTS:
            raise TooManyContexts(MAX_CLOSING_CONTEXTS)
        spec = self._config.open_spec(opened)
        # Unbounded: the backlog's quota limits text. A full channel would stop the reader, and
        # with it the detection of a hang-up.
        to_context, deltas = trio.open_memory_channel[AddText | Flush](math.inf)
        before = self._closing_under(opened.context_id)
        progress = ContextProgress.begin(spec, self._config.cancel_reason)
        context = _Context(spec, progress, to_context, before[-1].ended if before else None)
        self._open[opened.context_id] = context
        return context, deltas

    async def _synthesize(
        self, context: _Context, deltas: _Deltas, outbox: trio.MemorySendChannel[OutEvent]
    ) -> None:
        """Synthesize one context; if it is cancelled, send its final events.

        Its slot is free by then: `Synthesizer.synthesize` releases it before it returns.
        """
        with deltas, outbox:
            if context.previous_ended is not None:
                await context.previous_ended.wait()
            with context.scope:
                await self._synthesizer.synthesize(
                    context.spec, context.progress, deltas, outbox.clone()
                )
            if context.scope.cancelled_caught:
                for event in context.final_events:
                    await outbox.send(event)
            context.ended.set()
            self._close(context.context_id, only=context)
            self._closing.remove(context)

    def _forward(self, delta: AddText | Flush, chars: int) -> None:
        context = self._open.get(delta.context_id)
        if context is None:
            return
        try:
            context.progress.receive(chars)
        except TextTooLong as error:
            if not self._protocol.contexts_fail_alone:
                raise
            self._close(context.context_id)
            context.cancel(type(error).__name__, ContextFailed(context.context_id, error))
            return
        # The channel is broken where the context has failed and is about to report it.
        with contextlib.suppress(trio.BrokenResourceError):
            context.deltas.send_nowait(delta)

    def _close(self, context_id: str, *, only: _Context | None = None) -> None:
        """End the text of a context, if it is open (and is `only`, where given)."""
        context = self._open.get(context_id)
        if context is None or only not in (None, context):
            return
        del self._open[context_id]
        context.progress.timeline.mark("closed")
        context.deltas.close()
        self._closing.append(context)

    def _clear(self, context_id: str) -> None:
        """Cancel every context of this id; those already closed still report their end."""
        cleared = ContextCleared(context_id)
        for context in self._closing_under(context_id):
            context.cancel("cleared", cleared, ContextDone(context_id))
        open_context = self._open.get(context_id)
        if open_context is not None:
            self._close(context_id)
            open_context.cancel("cleared", cleared)

    def _closing_under(self, context_id: str) -> list[_Context]:
        return [context for context in self._closing if context.context_id == context_id]

    async def _write(
        self,
        outbox: trio.MemoryReceiveChannel[OutEvent],
        send: Send,
        session_scope: trio.CancelScope,
    ) -> None:
        """Send a message for every event; when there can be no more, end the session.

        The session is cancelled before the outbox breaks, so that its contexts are cancelled and
        not broken. A context that fails alone still gets its ContextDone.
        """
        with outbox:
            try:
                async for event in outbox:
                    if isinstance(event, ContextFailed) and not self._fails_alone(event.error):
                        raise event.error
                    self._sending = True
                    await send(self._protocol.send(event))
                    self._sending = False
                    if isinstance(event, Audio):
                        self._note_audio(event.context_id)
                    if isinstance(event, ContextFailed):
                        await send(self._protocol.send(ContextDone(event.context_id)))
            finally:
                session_scope.cancel()

    def _fails_alone(self, error: SpeechError) -> bool:
        """Return whether a failure concerns its context only, not the connection or the engine."""
        return self._protocol.contexts_fail_alone and isinstance(error, InvalidRequest)
