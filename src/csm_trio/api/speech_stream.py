"""One context as an HTTP answer: whole, or chunked while it is being spoken.

The status line goes out before a body is entered, so whatever can fail at the start has to fail
before: the first event of the speech is awaited before there is a response.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import trio
from h11 import LocalProtocolError
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
)
from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

from csm_trio.alignment.alignment import join
from csm_trio.api.admission import Admission, SessionLease
from csm_trio.audio.wav import with_true_lengths
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.protocol.events import AddText, Audio, ContextFailed, Flush, OutEvent, TurnDone

logger = logging.getLogger(__name__)

_NURSERY = "csm_trio.request_nursery"
_BODY_ENDED = "csm_trio.body_ended"

Outbox = trio.MemoryReceiveChannel[OutEvent]


class SpeechConnection(TrioASGIHTTPConnection):
    """A connection whose request nursery can be reached: it ends when the client hangs up.

    It also notes when the whole of the request's body has come in, wanted or not.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        body_ended = trio.Event()

        async def receive_noting_the_end() -> ASGIReceiveEvent:
            event = await receive()
            if event["type"] == "http.request" and not event["more_body"]:
                body_ended.set()
            return event

        async def send_the_end_whole(event: ASGISendEvent) -> None:
            # With the last of an answer hypercorn may close the socket, and tells us of the
            # disconnect meanwhile: that must not cancel the closing. The kernel's user timeout
            # bounds the write.
            last = event["type"] == "http.response.body" and not event["more_body"]
            with trio.CancelScope(shield=last):
                await send(event)

        http_request = self._create_request_from_scope(send)
        async with trio.open_nursery() as nursery:
            self.scope[_NURSERY] = nursery  # type: ignore[literal-required]
            self.scope[_BODY_ENDED] = body_ended  # type: ignore[literal-required]
            nursery.start_soon(self.handle_messages, nursery, http_request, receive_noting_the_end)
            nursery.start_soon(self.handle_request, nursery, http_request, send_the_end_whole)


class SpeechSocketConnection(TrioASGIWebsocketConnection):
    """A socket whose messages are not compressed, whatever the client offers (RFC 7692, 5.1).

    Most clients offer it. To deflate a frame of base64 takes more of the event loop than all
    else that is done for it, and saves no more than base64 had cost.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one socket."""
        sender = getattr(send, "__self__", None)
        stream = sender if isinstance(sender, WSStream) else None
        if stream is not None:
            # hypercorn has no setting for it; what it agrees to is settled when the app accepts.
            stream.handshake.extensions = None
        too_early = trio.CancelScope()

        async def send_while_open(event: ASGISendEvent) -> None:
            if event["type"] == "websocket.http.response.start":
                event["headers"] = [*event["headers"], (b"connection", b"close")]
            # Where both sides close at once, hypercorn may be shutting the stream down as our
            # close frame goes out; it has told us of the disconnect by then.
            try:
                with contextlib.suppress(trio.BusyResourceError):
                    await send(event)
            except LocalProtocolError:
                too_early.cancel()
            if stream is not None and stream.closed and not stream.handshake.accepted:
                too_early.cancel()

        with too_early:
            await super().__call__(receive, send_while_open)
        if stream is not None and too_early.cancelled_caught:
            # A client spoke before it was let in: hypercorn answers 400, in the middle of our
            # own answer if need be, tells us nothing, and would leave the connection open.
            await stream.send(StreamClosed(stream.stream_id))


async def body_has_ended(*, within_s: float) -> bool:
    """Wait for the rest of the current request's body; tell whether it came in time."""
    body_ended: trio.Event = request.scope[_BODY_ENDED]  # type: ignore[literal-required]
    with trio.move_on_after(within_s):
        await body_ended.wait()
    return body_ended.is_set()


class SpeechStream(ResponseBody):
    """One text being spoken for the current request: its chunks, as a body or one by one.

    The speaking task lives in the request's nursery, so that a hang-up stops it wherever the
    answer is at that moment. A class of its own and no async generator: what is left of one
    after a hang-up would be for the garbage collector to close.
    """

    def __init__(
        self,
        spec: ContextSpec,
        first: OutEvent,
        outbox: Outbox,
        request_scope: trio.CancelScope,
    ) -> None:
        self._order = spec
        self._next_event: OutEvent | None = first
        self._outbox = outbox
        self._request_scope = request_scope
        self._answering = False
        self._ended = False
        self._serialize: Callable[[Audio], bytes] = _plain
        self._trailer: Callable[[], bytes] | None = None

    @classmethod
    async def begin(
        cls,
        synthesizer: Synthesizer,
        spec: ContextSpec,
        *,
        deltas: Sequence[AddText | Flush],
        admission: Admission,
    ) -> Self:
        """Admit the call and start speaking; return once there is audio, or nothing to say.

        Raises EngineBusy where the house is full, or the SpeechError that came instead of audio.
        """
        for delta in deltas:
            spec.backlog.add(len(delta.text) if isinstance(delta, AddText) else 0)
        to_context, waiting = trio.open_memory_channel[AddText | Flush](len(deltas))
        for delta in deltas:
            to_context.send_nowait(delta)
        to_context.close()
        to_client, outbox = trio.open_memory_channel[OutEvent](0)
        nursery: trio.Nursery = request.scope[_NURSERY]  # type: ignore[literal-required]
        nursery.start_soon(_synthesize, synthesizer, spec, waiting, to_client, admission.admit())
        while isinstance(first := await outbox.receive(), TurnDone):
            pass  # a line of which there was nothing to say
        if isinstance(first, ContextFailed):
            raise first.error
        return cls(spec, first, outbox, nursery.cancel_scope)

    def response(
        self,
        content_type: str | None = None,
        *,
        serialize: Callable[[Audio], bytes] | None = None,
        trailer: Callable[[], bytes] | None = None,
    ) -> Response:
        """Answer with the chunks as they are made, each as `dress` writes it, then `trailer`.

        Without a type and a dress they are the sound itself.
        """
        self._serialize = serialize or self._serialize
        self._trailer = trailer
        self._answering = True
        response = Response(
            self, content_type=content_type or self._order.audio_format.content_type
        )
        # Quart would cut the answer off after a minute, without a word.
        response.timeout = None
        return response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._outbox.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes of the answer."""
        audio = None if self._ended else await self._next_audio()
        if audio is not None:
            return self._serialize(audio)
        self._ended = True
        trailer, self._trailer = self._trailer, None
        if trailer is None:
            raise StopAsyncIteration
        return trailer()

    async def whole(self) -> Audio:
        """Return everything in one piece, once it has been said; raise what ends it early."""
        return self.joined(await self.pieces())

    async def pieces(self) -> list[Audio]:
        """Return everything as it was made, once it has been said; raise what ends it early."""
        pieces: list[Audio] = []
        async with self:
            while audio := await self._next_audio():
                pieces.append(audio)
        return pieces

    def joined(self, pieces: Sequence[Audio]) -> Audio:
        """Return all pieces as one."""
        data = b"".join(piece.data for piece in pieces)
        if self._order.audio_format.codec == "wav":
            data = with_true_lengths(data)
        aligned = join([piece.aligned for piece in pieces if piece.aligned is not None])
        return Audio(self._order.context_id, data, aligned)

    async def _next_audio(self) -> Audio | None:
        """Return the next piece, None after the last.

        What ends them early is raised, unless an answer has begun: that is cut off, so that the
        client sees it is not whole.
        """
        event, self._next_event = self._next_event, None
        while event is None or isinstance(event, TurnDone):
            event = await self._outbox.receive()
        match event:
            case Audio():
                return event
            case ContextFailed(error=error) if self._answering:
                logger.info("answer cut off: %s", error.message)
                self._request_scope.cancel()
                await trio.lowlevel.checkpoint()
            case ContextFailed(error=error):
                raise error
        return None


def _plain(audio: Audio) -> bytes:
    return audio.data


async def _synthesize(
    synthesizer: Synthesizer,
    spec: ContextSpec,
    deltas: trio.MemoryReceiveChannel[AddText | Flush],
    to_client: trio.MemorySendChannel[OutEvent],
    lease: SessionLease,
) -> None:
    with lease:
        await synthesizer.synthesize(spec, deltas, to_client)
