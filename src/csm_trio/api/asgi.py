"""The ASGI connection of an HTTP request: a nursery that its speech lives in."""

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable
from quart import request
from quart_trio.asgi import TrioASGIHTTPConnection

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

        http_request = self._create_request_from_scope(send)
        async with trio.open_nursery() as nursery:
            self.scope[_NURSERY] = nursery  # type: ignore[literal-required]
            self.scope[_BODY_ENDED] = body_ended  # type: ignore[literal-required]
            nursery.start_soon(self.handle_messages, nursery, http_request, receive_until_end)
            nursery.start_soon(self.handle_request, nursery, http_request, send)


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
