"""HTTP/1.1 answers as bytes, from the ASGI events of an application; sans I/O, on h11."""

from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus

import h11

Header = tuple[bytes, bytes]

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_CLOSE: Header = (b"connection", b"close")


class AnswerWriter:
    """Renders the answer to one request; h11 chooses its framing.

    `must_close` says, when the head is written, whether the connection ends with this answer.
    """

    def __init__(
        self, connection: h11.Connection, method: bytes, must_close: Callable[[], bool]
    ) -> None:
        self._h11 = connection
        self._without_body = method == b"HEAD"
        self._must_close = must_close
        self._head: h11.Response | None = None

    def start(self, status: int, headers: Iterable[Header]) -> None:
        """Take the head; it is written with the first bytes of the body, in one packet."""
        all_headers = [*headers, (b"date", formatdate(usegmt=True).encode())]
        if self._must_close():
            all_headers.append(_CLOSE)
        reason = _REASONS.get(status, "")
        self._head = h11.Response(status_code=status, headers=all_headers, reason=reason)
        self._without_body = self._without_body or status in (204, 304)

    def body(self, data: bytes, *, last: bool) -> bytes:
        """Return the bytes of one part of the body, with the head before the first."""
        events: list[h11.Response | h11.Data | h11.EndOfMessage] = []
        if self._head is not None:
            events.append(self._head)
            self._head = None
        if data and not self._without_body:
            events.append(h11.Data(data=data))
        if last:
            events.append(h11.EndOfMessage())
        return b"".join(self._h11.send(event) or b"" for event in events)


def error_answer(connection: h11.Connection, status: int, body: bytes) -> bytes:
    """Return the bytes of an answer in JSON that ends the connection."""
    writer = AnswerWriter(connection, b"GET", lambda: True)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    if status == 426:
        headers.append((b"sec-websocket-version", b"13"))
    writer.start(status, headers)
    return writer.body(body, last=True)
