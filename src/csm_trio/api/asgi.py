"""ASGI connections: request nurseries that speech lives in, and hypercorn's hazards."""

import contextlib

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
from quart import request
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

_NURSERY = "csm_trio.request_nursery"
_BODY_ENDED = "csm_trio.body_ended"


class SpeechConnection(TrioASGIHTTPConnection):
    """An HTTP request with a nursery for its speech, which a hang-up of the client cancels.

    Records when the request's body has been received to its end.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        body_ended = trio.Event()

        async def receive_until_end() -> ASGIReceiveEvent:
            event = await receive()
            if event["type"] == "http.request" and not event["more_body"]:
                body_ended.set()
            return event

        async def send_with_shielded_end(event: ASGISendEvent) -> None:
            # hypercorn may close the socket with the last part of an answer, and reports the
            # disconnect meanwhile: that must not cancel the closing. The kernel's user timeout
            # bounds the write.
            last = event["type"] == "http.response.body" and not event["more_body"]
            with trio.CancelScope(shield=last):
                await send(event)

        http_request = self._create_request_from_scope(send)
        async with trio.open_nursery() as nursery:
            self.scope[_NURSERY] = nursery  # type: ignore[literal-required]
            self.scope[_BODY_ENDED] = body_ended  # type: ignore[literal-required]
            nursery.start_soon(self.handle_messages, nursery, http_request, receive_until_end)
            nursery.start_soon(self.handle_request, nursery, http_request, send_with_shielded_end)


class SpeechSocketConnection(TrioASGIWebsocketConnection):
    """A socket whose messages are not compressed, whatever the client offers (RFC 7692, 5.1).

    Most clients offer compression. Deflating a message of base64 costs the event loop more than
    all other work on it, and saves no more than base64 had added.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one socket."""
        sender = getattr(send, "__self__", None)
        stream = sender if isinstance(sender, WSStream) else None
        if stream is not None:
            # hypercorn has no setting for it; it negotiates extensions when the app accepts.
            stream.handshake.extensions = None
        too_early = trio.CancelScope()

        async def send_while_open(event: ASGISendEvent) -> None:
            if event["type"] == "websocket.http.response.start":
                event["headers"] = [*event["headers"], (b"connection", b"close")]
            # Where both sides close at once, hypercorn may be shutting the stream down while our
            # close frame is sent; it has reported the disconnect by then.
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
            # The client sent data before the upgrade was accepted: hypercorn answers 400, possibly
            # within our own answer, reports nothing, and would leave the connection open.
            await stream.send(StreamClosed(stream.stream_id))


def request_nursery() -> trio.Nursery:
    """Return the nursery of the current HTTP request; a hang-up cancels it."""
    nursery: trio.Nursery = request.scope[_NURSERY]  # type: ignore[literal-required]
    return nursery


async def body_has_ended(*, within_s: float) -> bool:
    """Wait for the rest of the current request's body; return whether it came in time."""
    body_ended: trio.Event = request.scope[_BODY_ENDED]  # type: ignore[literal-required]
    with trio.move_on_after(within_s):
        await body_ended.wait()
    return body_ended.is_set()
