"""A WebSocket on one connection (RFC 6455), as a call of the ASGI application.

Three tasks: `read` reads the client's frames all the time, so that a hang-up is noticed at once,
and writes nothing; `write` is the only writer; the application runs between them. A protocol error
of the client cancels the application and is answered with its close code. It must not know the
application.
"""

import base64
import binascii
import contextlib
from collections.abc import Callable
from typing import Any

import h11
import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveEvent,
    ASGISendEvent,
    HTTPScope,
    WebsocketScope,
)
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import generate_accept_token

from csm_trio.api.client_socket import ClientGone, ClientSocket
from csm_trio.api.http_answer import AnswerWriter, error_answer

_QUEUE_MESSAGES = 16
"""Messages that may wait for the application, which takes each at once unless it is ending."""

_KEY_BYTES = 16


def wants_websocket(request: h11.Request) -> bool:
    """Return whether a request asks for an upgrade to a WebSocket."""
    return (
        request.method == b"GET"
        and b"websocket" in _tokens(request, b"upgrade")
        and b"upgrade" in _tokens(request, b"connection")
    )


def handshake_error(request: h11.Request) -> int | None:
    """Return the status that refuses a wrong handshake (RFC 6455, 4.2.1); None for a right one."""
    fields = dict(request.headers)
    if fields.get(b"sec-websocket-version", b"13").strip() != b"13":
        return 426
    try:
        key = base64.b64decode(fields.get(b"sec-websocket-key", b"").strip(), validate=True)
    except binascii.Error:
        return 400
    right = len(key) == _KEY_BYTES and request.http_version == b"1.1"
    return None if right and b"sec-websocket-version" in fields else 400


class WebSocketConnection:
    """One client's WebSocket, from the upgrade request to its close.

    `close_code` is the code that it was closed with; `none` where it ended without a close frame.
    """

    def __init__(
        self,
        client: ClientSocket,
        connection: h11.Connection,
        request: h11.Request,
        error_body: Callable[[int], bytes],
    ) -> None:
        self._client = client
        self._h11 = connection
        self._request = request
        self._error_body = error_body
        self._writer = AnswerWriter(connection, request.method, lambda: True)
        self.close_code = "none"
        self._app_scope = trio.CancelScope()
        self._ws: Connection | None = None
        self._refused = False
        # The bytes that came before the upgrade was accepted: RFC 6455, 4.1 allows none.
        self._early = bool(connection.trailing_data[0])
        self._message: list[Any] = []
        self._message_bytes = 0
        self._failed = False
        self._peer_closed = trio.Event()
        # Control frames that follow what is being written now; after a close frame, nothing does.
        self._pong: bytes | None = None
        self._close: bytes | None = None
        self._to_app, self._events = trio.open_memory_channel[ASGIReceiveEvent](_QUEUE_MESSAGES)
        self._to_client, self._outgoing = trio.open_memory_channel[bytes](0)

    @property
    def accepted(self) -> bool:
        """Whether the upgrade has been accepted."""
        return self._ws is not None

    async def run(self, app: ASGIFramework, scope: HTTPScope) -> None:
        """Serve the socket until both sides have closed; raise ClientGone on a hang-up.

        `scope` is the ASGI scope of the upgrade request.
        """
        status = 400 if self._early else handshake_error(self._request)
        if status is not None:
            await self._client.send(self._error(status))
            return
        close_timeout_s = self._client.limits.close_timeout_s
        with self._to_app, self._events:
            self._to_app.send_nowait({"type": "websocket.connect"})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                async with trio.open_nursery() as writing:
                    writing.start_soon(self._write)
                    with self._to_client:
                        with self._app_scope:
                            await app(self._scope(scope), self._events.receive, self._send)
                        self._events.close()
                        writing.cancel_scope.deadline = trio.current_time() + close_timeout_s
                        await self._end()
                if self._ws is not None:
                    with trio.move_on_after(close_timeout_s):
                        await self._peer_closed.wait()
                nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        """Read until the hang-up; raise ClientGone then."""
        while True:
            data = await self._client.receive()
            if self._ws is None:
                self._early = True
                self._app_scope.cancel()
            elif not self._failed and not self._peer_closed.is_set():
                self._ws.receive_data(data)
                for event in self._ws.events():
                    await self._client.charge(events=1)
                    await self._handle(self._ws, event)
                    if self._failed:
                        break

    async def _handle(self, ws: Connection, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                await self._add(event)
            case Ping():
                if ws.state is ConnectionState.OPEN:
                    self._send_pong(ws.send(event.response()))
            case CloseConnection():
                if ws.state is ConnectionState.CLOSED:
                    self._peer_closed.set()
                elif ws.state is ConnectionState.REMOTE_CLOSING:
                    self._peer_closed.set()
                    self._fail(event.response())
                else:
                    # wsproto reports what it cannot parse as a close with the code to send.
                    self._fail(CloseConnection(event.code))
            case _:
                pass

    async def _add(self, event: TextMessage | BytesMessage) -> None:
        """Add a part of a message; pass the message on with its last part."""
        is_text = isinstance(event, TextMessage)
        data = event.data
        self._message_bytes += len(data.encode() if isinstance(data, str) else data)
        if self._message_bytes > self._client.limits.max_message_bytes:
            self._message = []
            self._fail(CloseConnection(CloseReason.MESSAGE_TOO_BIG))
            return
        if data:
            self._message.append(data)
        if not event.message_finished:
            return
        parts, self._message, self._message_bytes = self._message, [], 0
        text = "".join(parts) if is_text else None
        whole = None if is_text else b"".join(parts)
        await self._pass_on({"type": "websocket.receive", "text": text, "bytes": whole})

    async def _pass_on(self, event: ASGIReceiveEvent) -> None:
        """Give an event to the application; watch for a hang-up while its queue is full."""
        with contextlib.suppress(trio.BrokenResourceError):  # it has ended
            while True:
                try:
                    self._to_app.send_nowait(event)
                except trio.WouldBlock:
                    await self._client.pause()
                else:
                    return

    def _fail(self, reply: CloseConnection) -> None:
        """Cancel the application, and send the close frame `reply` as the last one."""
        assert self._ws is not None
        self._failed = True
        self._app_scope.cancel()
        if self._ws.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._close = self._render_close(self._ws, reply)
            self._wake_writer()

    def _send_pong(self, pong: bytes) -> None:
        """Send a pong; of several that wait, only the last one (RFC 6455, 5.5.3)."""
        self._pong = pong
        self._wake_writer()

    def _wake_writer(self) -> None:
        # Without a waiting writer there is one that writes, and looks at these frames after it.
        with contextlib.suppress(
            trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError
        ):
            self._to_client.send_nowait(b"")

    async def _write(self) -> None:
        """Write what there is until a close frame or the end; return if the client is gone."""
        with self._outgoing, contextlib.suppress(ClientGone):
            async for data in self._outgoing:
                if data:
                    await self._client.send(data)
                if self._pong is not None:
                    pong, self._pong = self._pong, None
                    await self._client.send(pong)
                if self._close is not None:
                    await self._client.send(self._close)
                    return

    async def _send(self, event: ASGISendEvent) -> None:
        """Send one event of the application."""
        data = self._render(event)
        if data:
            await self._put(data)
        else:
            await trio.lowlevel.checkpoint()

    async def _put(self, data: bytes) -> None:
        try:
            await self._to_client.send(data)
        except trio.BrokenResourceError:
            # The client is gone; `read` notices it, too.
            self._app_scope.cancel()
            await trio.lowlevel.checkpoint()

    def _render(self, event: ASGISendEvent) -> bytes:
        match event["type"]:
            case "websocket.accept":
                return self._accept(event.get("headers", ()))
            case "websocket.http.response.start":
                self._refused = True
                self._writer.start(event["status"], event["headers"])
            case "websocket.http.response.body":
                last = not event.get("more_body", False)
                return self._writer.body(bytes(event.get("body", b"")), last=last)
            case "websocket.send" if self._is_open():
                assert self._ws is not None
                text = event.get("text")
                if text is None:
                    return self._ws.send(BytesMessage(bytes(event.get("bytes") or b"")))
                return text_frame(text)
            case "websocket.close" if self._is_open():
                assert self._ws is not None
                code = event.get("code", CloseReason.NORMAL_CLOSURE)
                closing = CloseConnection(code, event.get("reason") or None)
                return self._render_close(self._ws, closing)
            case _:
                pass
        return b""

    def _render_close(self, ws: Connection, closing: CloseConnection) -> bytes:
        self.close_code = str(int(closing.code))
        return ws.send(closing)

    def _is_open(self) -> bool:
        return self._ws is not None and self._ws.state is ConnectionState.OPEN

    def _accept(self, headers: Any) -> bytes:
        """Return the answer that completes the handshake.

        No extension is accepted: deflating messages of base64 costs the event loop more than all
        other work on them, and saves no more than base64 had added (RFC 7692, 5.1).
        """
        key = dict(self._request.headers)[b"sec-websocket-key"].strip()
        answer = h11.InformationalResponse(
            status_code=101,
            headers=[
                (b"upgrade", b"websocket"),
                (b"connection", b"Upgrade"),
                (b"sec-websocket-accept", generate_accept_token(key)),
                *headers,
            ],
        )
        self._ws = Connection(ConnectionType.SERVER)
        return self._h11.send(answer) or b""

    async def _end(self) -> None:
        """Send what ends the socket, unless the application has sent it."""
        if self._ws is None:
            if not self._refused:
                await self._put(self._error(400 if self._early else 500))
        elif self._ws.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            closing = CloseConnection(CloseReason.INTERNAL_ERROR)
            await self._put(self._render_close(self._ws, closing))

    def _error(self, status: int) -> bytes:
        return error_answer(self._h11, status, self._error_body(status))

    def _scope(self, request: HTTPScope) -> WebsocketScope:
        return {
            "type": "websocket",
            "asgi": request["asgi"],
            "http_version": request["http_version"],
            "scheme": "wss" if self._client.secure else "ws",
            "path": request["path"],
            "raw_path": request["raw_path"],
            "query_string": request["query_string"],
            "root_path": request["root_path"],
            "headers": request["headers"],
            "client": request["client"],
            "server": request["server"],
            "subprotocols": [],
            "state": request["state"],
            "extensions": {"websocket.http.response": {}},
        }


def text_frame(text: str) -> bytes:
    """Return a text message in one frame, as a server sends it: not masked (RFC 6455, 5.2).

    wsproto takes three times as long, and every chunk of audio is such a message.
    """
    data = text.encode()
    if len(data) < 126:
        return bytes((0x81, len(data))) + data
    if len(data) < 1 << 16:
        return b"\x81\x7e" + len(data).to_bytes(2, "big") + data
    return b"\x81\x7f" + len(data).to_bytes(8, "big") + data


def _tokens(request: h11.Request, name: bytes) -> list[bytes]:
    """Return the members of a header that is a list, in lower case."""
    values = [value for field, value in request.headers if field == name]
    return [token.strip().lower() for value in values for token in value.split(b",")]
