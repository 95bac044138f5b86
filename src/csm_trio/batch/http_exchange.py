"""One HTTP/1.1 request on a connection of its own, and its whole answer.

Knows nothing of speech. RFC 9112 by h11.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import trio

_CONNECT_TIMEOUT_S = 10.0
_RECEIVE_BYTES = 64 << 10
_MAX_BODY_BYTES = 1 << 30

_Wire = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class ServerUnreachable(Exception):
    """No connection to the server; the request was not sent."""


class AnswerLost(Exception):
    """The connection ended, or the time did, before the answer was whole."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def exchange(
    base_url: str,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout_s: float,
) -> HttpAnswer:
    """Send a request to a ws: or wss: base URL and return its answer.

    `target` is appended to the base URL's path. Raises `ServerUnreachable` or `AnswerLost`.
    """
    url = urlsplit(base_url)
    stream = await _connect(url.hostname or "", url.port, secure=url.scheme == "wss")
    fields = {
        "host": url.netloc,
        "connection": "close",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    request = h11.Request(method=method, target=f"{url.path}{target}", headers=list(fields.items()))
    try:
        with trio.fail_after(timeout_s):
            return await _converse(stream, request, body)
    except trio.TooSlowError:
        raise AnswerLost(f"no answer within {timeout_s:g} seconds") from None
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        raise AnswerLost("the connection broke before the answer was whole") from None
    finally:
        await trio.aclose_forcefully(stream)


async def _connect(host: str, port: int | None, *, secure: bool) -> _Wire:
    try:
        with trio.fail_after(_CONNECT_TIMEOUT_S):
            stream = await trio.open_tcp_stream(host, port or (443 if secure else 80))
            return await _secured(stream, host) if secure else stream
    except OSError as error:
        raise ServerUnreachable(error.strerror or str(error)) from None
    except trio.BrokenResourceError as error:
        raise ServerUnreachable(str(error.__cause__ or "TLS failed")) from None
    except trio.TooSlowError:
        raise ServerUnreachable(f"no connection within {_CONNECT_TIMEOUT_S:g} seconds") from None


async def _secured(stream: trio.SocketStream, host: str) -> _Wire:
    context = ssl.create_default_context()
    secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    done = False
    try:
        await secured.do_handshake()
        done = True
        return secured
    finally:
        if not done:
            await trio.aclose_forcefully(stream)


async def _converse(stream: _Wire, request: h11.Request, body: bytes) -> HttpAnswer:
    connection = h11.Connection(h11.CLIENT)
    await stream.send_all(connection.send(request) or b"")
    await stream.send_all(connection.send(h11.Data(data=body)) or b"")
    await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
    response: h11.Response | None = None
    received = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            received += event.data
            if len(received) > _MAX_BODY_BYTES:
                raise AnswerLost("the answer is larger than 1 GiB")
        elif isinstance(event, h11.EndOfMessage) and response is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
            return HttpAnswer(response.status_code, headers, bytes(received))
        elif not isinstance(event, h11.InformationalResponse):
            raise AnswerLost("the server closed the connection without an answer")
