"""TLS in front of a server without it: `tls_front.py CERTIFICATE_PEM UPSTREAM_PORT`.

Prints the port that it listens on, then carries bytes both ways until it is ended.
"""

import ssl
import sys
from functools import partial

import trio


async def carry(
    source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, both: trio.CancelScope
) -> None:
    """Carry bytes one way; at their end, end both ways."""
    async for chunk in source:
        await sink.send_all(chunk)
    both.cancel()


async def front(upstream_port: int, client: trio.SSLStream[trio.SocketStream]) -> None:
    """Carry one connection; whichever side ends, the other is ended too."""
    try:
        server = await trio.open_tcp_stream("127.0.0.1", upstream_port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, server, nursery.cancel_scope)
            nursery.start_soon(carry, server, client, nursery.cancel_scope)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # a hang-up


async def main(certificate: str, upstream_port: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    serve = partial(
        trio.serve_ssl_over_tcp, partial(front, int(upstream_port)), 0, context,
        host="127.0.0.1", https_compatible=True,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        print(listeners[0].transport_listener.socket.getsockname()[1], flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
