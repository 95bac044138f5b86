"""HTTP/1.1 on one connection: its requests one after another, each a call of the ASGI application.

A connection is one scope: a hang-up of the client cancels the application at once, and nothing
of a request outlives it. h11 is driven here, since hypercorn's connection waits for the
application in the task that reads the socket: a reset is then not noticed, and the connection
never ends. It must not know the application.
"""

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import unquote

import h11
import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    HTTPScope,
)

from csm_trio.api.client_socket import ClientGone, ClientSocket
from csm_trio.api.connection_limits import REQUEST_EVENTS
from csm_trio.api.http_answer import AnswerWriter, error_answer
from csm_trio.api.websocket_connection import WebSocketConnection, wants_websocket

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{0,5}})?".encode()
)
"""A host and its port (RFC 9110, 7.2; RFC 1035, 2.3.4; underscores occur in container names)."""


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """What all connections of one server share.

    error_body: the JSON of an error of HTTP itself, from its status. body_limit: the most bytes of
    a body that are passed on, by the request's path. idle: registers a scope that
    may be cancelled at any time, because its connection waits for a request. stopping: set when
    connections end with the request that they serve. count_close: counts the end of a WebSocket,
    by its close code.
    """

    app: ASGIFramework
    error_body: Callable[[int], bytes]
    body_limit: Callable[[str], int]
    idle: Callable[[trio.CancelScope], AbstractContextManager[None]]
    stopping: trio.Event
    count_close: Callable[[str], None]


class BadRequest(Exception):
    """A request that is answered with an error of HTTP itself, and ends its connection."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HttpConnection:
    """One client's connection, from its first request to its last."""

    def __init__(self, client: ClientSocket, context: ConnectionContext) -> None:
        self._client = client
        self._context = context
        self._h11 = h11.Connection(
            h11.SERVER, max_incomplete_event_size=client.limits.max_head_bytes
        )

    async def run(self) -> None:
        """Serve requests until either side ends the connection; raise ClientGone on a hang-up."""
        timeout_s = self._client.limits.head_timeout_s
        try:
            while True:
                request = await self._next_request(timeout_s)
                if request is None:
                    await self._client.end_output()
                    return
                await self._client.charge(events=REQUEST_EVENTS)
                if wants_websocket(request):
                    await self._serve_websocket(request)
                    break
                await self._serve(request)
                if not self._start_next_cycle():
                    break
                timeout_s = self._client.limits.keep_alive_s
        except* BadRequest as group:
            error = group.exceptions[0]
            await self._refuse(error.status if isinstance(error, BadRequest) else 400)
        await self._client.linger()

    async def _next_request(self, timeout_s: float) -> h11.Request | None:
        """Return the next request; None where its head does not come in time.

        Raises BadRequest for a head that this server does not accept.
        """
        with trio.CancelScope() as scope, self._context.idle(scope):
            scope.deadline = trio.current_time() + timeout_s
            while (event := self._next_event()) is h11.NEED_DATA:
                data = await self._client.receive()
                head_deadline = trio.current_time() + self._client.limits.head_timeout_s
                scope.deadline = min(scope.deadline, head_deadline)
                self._h11.receive_data(data)
            if isinstance(event, h11.Request):
                _check(event)
                return event
        return None

    def _next_event(self) -> object:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(error.error_status_hint) from None

    async def _serve(self, request: h11.Request) -> None:
        """Call the application for one request; a hang-up or a broken body cancels it."""
        if self._h11.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._client.send(self._h11.send(go_on) or b"")
        body, events = trio.open_memory_channel[ASGIReceiveEvent](math.inf)
        with body, events:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_body, body, self._context.body_limit(_path(request)))
                writer = AnswerWriter(self._h11, request.method, self._context.stopping.is_set)
                answer = _Answer(self._client, writer)
                with answer.scope:
                    await self._context.app(self._scope(request), events.receive, answer.send)
                nursery.cancel_scope.cancel()

    async def _read_body(self, body: trio.MemorySendChannel[ASGIReceiveEvent], limit: int) -> None:
        """Pass the body on, then read on to notice a hang-up; raise ClientGone when it comes.

        Bytes over the limit are discarded. One byte more than the limit is passed on, by which the
        application sees that the body is too long.
        """
        limits, left = self._client.limits, limit + 1
        while True:
            event = self._next_event()
            if isinstance(event, h11.Data):
                await self._client.charge(events=1)
                data = bytes(event.data[:left])
                left -= len(data)
                if data:
                    body.send_nowait({"type": "http.request", "body": data, "more_body": True})
            elif isinstance(event, h11.EndOfMessage):
                body.send_nowait({"type": "http.request", "body": b"", "more_body": False})
            elif event is h11.PAUSED and len(self._h11.trailing_data[0]) > limits.max_unread_bytes:
                await self._client.pause()
            else:
                self._h11.receive_data(await self._client.receive())

    async def _serve_websocket(self, request: h11.Request) -> None:
        context = self._context
        websocket = WebSocketConnection(self._client, self._h11, request, context.error_body)
        try:
            await websocket.run(context.app, self._scope(request))
        finally:
            if websocket.accepted:
                context.count_close(websocket.close_code)

    def _start_next_cycle(self) -> bool:
        """Make ready for the next request; return False where the connection must end."""
        done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if not done or self._context.stopping.is_set():
            return False
        self._h11.start_next_cycle()
        return True

    async def _refuse(self, status: int) -> None:
        """Answer with an error of HTTP itself, unless an answer has begun."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            data = error_answer(self._h11, status, self._context.error_body(status))
            await self._client.send(data)

    def _scope(self, request: h11.Request) -> HTTPScope:
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "http_version": request.http_version.decode(),
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "method": request.method.decode("ascii"),
            "scheme": "https" if self._client.secure else "http",
            "path": _path(request),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._client.peer,
            "server": self._client.local,
            "state": ConnectionState({}),
            "extensions": {},
        }


class _Answer:
    """The answer to one request, written as the application sends it.

    `scope` is the application's; it is cancelled where the client is gone, and some time after the
    answer is complete.
    """

    def __init__(self, client: ClientSocket, writer: AnswerWriter) -> None:
        self.scope = trio.CancelScope()
        self._client = client
        self._writer = writer

    async def send(self, event: ASGISendEvent) -> None:
        """Write one event of the application; where the client is gone, cancel it."""
        if event["type"] == "http.response.start":
            self._writer.start(event["status"], event.get("headers", ()))
        elif event["type"] == "http.response.body":
            last = not event.get("more_body", False)
            data = self._writer.body(bytes(event.get("body", b"")), last=last)
            try:
                await self._client.send(data)
            except ClientGone:
                self.scope.cancel()
                await trio.lowlevel.checkpoint()
            if last:
                limits = self._client.limits
                self.scope.deadline = trio.current_time() + limits.close_timeout_s


def _path(request: h11.Request) -> str:
    return unquote(request.target.partition(b"?")[0].decode("ascii"))


def _check(request: h11.Request) -> None:
    """Raise BadRequest for a request line or host that nothing here can serve."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise BadRequest(505)
    if not request.target.startswith(b"/"):
        raise BadRequest(400)
    hosts = [value for name, value in request.headers if name == b"host"]
    if any(host and not _HOST.fullmatch(host) for host in hosts):
        raise BadRequest(400)
