"""One socket: messages in, contexts in the middle, messages out.

A session is one nursery. `ingest` is the only reader of the socket and never blocks on anything
but reading, since a hang-up queues behind unread messages; `write` is its only writer. It must
not know HTTP, Quart or any vendor's JSON: a protocol translates.
"""

import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

import trio

from csm_trio.errors import InputTimeout, SpeechError, Unauthorized
from csm_trio.pipeline.context import Speaker, SpeechOrder, first_error
from csm_trio.protocol.events import (
    AddText,
    Authenticate,
    CloseContext,
    CloseSession,
    ContextFailed,
    Flush,
    InEvent,
    KeepAlive,
    OpenContext,
    OutEvent,
    SpeechSettings,
)
from csm_trio.telemetry import Metrics

Receive = Callable[[], Awaitable[str | bytes]]
Send = Callable[[str], Awaitable[None]]
_Deltas = trio.MemoryReceiveChannel[AddText | Flush]


class SocketProtocol(Protocol):
    """Translates between one vendor's messages and events; does no I/O."""

    def receive(self, message: str | bytes) -> list[InEvent]:
        """Return what a message means; raise SpeechError where it means nothing valid."""

    def send(self, event: OutEvent) -> str:
        """Return the message that tells the client of an event."""


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What the door settled when it let the client in.

    `open_order` makes the order of a new context; `authorize` judges a key that comes in a
    message, and is None where the client need not show one (any more).
    """

    open_order: Callable[[str, SpeechSettings], SpeechOrder]
    inactivity_timeout_s: float
    authorize: Callable[[str], bool] | None = None


@dataclass(slots=True)
class _OpenContext:
    order: SpeechOrder
    deltas: trio.MemorySendChannel[AddText | Flush]
    scope: trio.CancelScope


class Session:
    """One open socket and its tasks; single- and multi-context protocols alike."""

    def __init__(
        self, protocol: SocketProtocol, speaker: Speaker, terms: SessionTerms, metrics: Metrics
    ) -> None:
        self._protocol = protocol
        self._speaker = speaker
        self._terms = terms
        self._metrics = metrics
        self._authorized = terms.authorize is None
        self._contexts: dict[str, _OpenContext] = {}
        self._input_ended = False

    async def run(self, receive: Receive, send: Send) -> None:
        """Serve the socket until everything asked for has been said.

        Raises the SpeechError that ended the session early; nothing of it runs any more then,
        and nobody else writes to the socket, so the door may say goodbye.
        """
        failure: SpeechError | None = None
        try:
            async with trio.open_nursery() as nursery:
                to_client, outbox = trio.open_memory_channel[OutEvent](0)
                nursery.start_soon(self._ingest, receive, to_client, nursery)
                nursery.start_soon(self._write, outbox, send, nursery.cancel_scope)
        except* SpeechError as group:
            failure = first_error(group)
        if failure is not None:
            raise failure

    async def _ingest(
        self,
        receive: Receive,
        to_client: trio.MemorySendChannel[OutEvent],
        nursery: trio.Nursery,
    ) -> NoReturn:
        """Read messages and obey them; after the end of input, go on reading: a hang-up comes."""
        with to_client:
            while not self._input_ended:
                try:
                    message = await self._next_message(receive)
                    for event in self._protocol.receive(message):
                        self._obey(event, to_client, nursery)
                except SpeechError as error:
                    self._blame(error)
                    raise
        while True:
            await receive()

    async def _next_message(self, receive: Receive) -> str | bytes:
        timeout_s = self._terms.inactivity_timeout_s
        try:
            with trio.fail_after(timeout_s):
                return await receive()
        except trio.TooSlowError:
            raise InputTimeout(timeout_s) from None

    def _blame(self, error: SpeechError) -> None:
        """Say what the contexts that go down with the session are to be counted as."""
        reason = type(error).__name__
        for context in self._contexts.values():
            context.order.cancel_reason = lambda: reason

    def _obey(
        self, event: InEvent, to_client: trio.MemorySendChannel[OutEvent], nursery: trio.Nursery
    ) -> None:
        match event:
            case Authenticate(api_key=key):
                self._authorized = self._authorized or self._accepts(key)
            case OpenContext(context_id=context_id, settings=settings):
                if not self._authorized:
                    raise Unauthorized
                order = self._terms.open_order(context_id, settings)
                nursery.start_soon(self._speak, *self._open(order), to_client.clone())
            case AddText(text=text):
                self._metrics.characters.inc(len(text))
                self._pass_on(event, len(text))
            case Flush():
                self._pass_on(event, 0)
            case CloseContext(context_id=context_id, discard=discard):
                self._close(context_id, discard=discard)
            case CloseSession():
                for context_id in list(self._contexts):
                    self._close(context_id, discard=False)
                self._input_ended = True
            case KeepAlive():
                pass

    def _accepts(self, key: str) -> bool:
        return self._terms.authorize is not None and self._terms.authorize(key)

    def _open(self, order: SpeechOrder) -> tuple["_OpenContext", _Deltas]:
        # No bound: text is limited by quota, since a full channel would deafen the reader.
        to_context, deltas = trio.open_memory_channel[AddText | Flush](math.inf)
        context = _OpenContext(order, to_context, trio.CancelScope())
        self._contexts[order.context_id] = context
        return context, deltas

    async def _speak(
        self, context: "_OpenContext", deltas: _Deltas, outbox: trio.MemorySendChannel[OutEvent]
    ) -> None:
        with context.scope:
            await self._speaker.speak(context.order, deltas, outbox)

    def _pass_on(self, delta: AddText | Flush, chars: int) -> None:
        context = self._contexts.get(delta.context_id)
        if context is None:
            return
        context.order.backlog.add(chars)
        # Broken where it has failed, and is about to say so.
        with contextlib.suppress(trio.BrokenResourceError):
            context.deltas.send_nowait(delta)

    def _close(self, context_id: str, *, discard: bool) -> None:
        context = self._contexts.pop(context_id, None)
        if context is None:
            return
        context.deltas.close()
        if discard:
            context.order.cancel_reason = lambda: "closed"
            context.scope.cancel()

    async def _write(
        self,
        outbox: trio.MemoryReceiveChannel[OutEvent],
        send: Send,
        session_scope: trio.CancelScope,
    ) -> None:
        """Tell the client of every event; when there can be no more, end the session.

        The session is cancelled before the outbox breaks: its contexts are stopped, not broken.
        """
        with outbox:
            try:
                async for event in outbox:
                    if isinstance(event, ContextFailed):
                        raise event.error
                    await send(self._protocol.send(event))
            finally:
                session_scope.cancel()
