"""TCP connections of the server: accepts them, limits their number, and ends them at the stop.

An error on one connection leaves the others alone.
"""

import errno
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import h11
import trio
from hypercorn.typing import ASGIFramework

from csm_trio.api.client_socket import ClientGone, ClientSocket, TlsFailed
from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.api.http_answer import error_answer
from csm_trio.api.http_connection import ConnectionContext, HttpConnection
from csm_trio.errors import first_leaf
from csm_trio.telemetry import Metrics

logger = logging.getLogger(__name__)

_ACCEPT_PAUSE_S = 0.1
"""Seconds between two attempts to accept where the system has no descriptor or memory left."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors of an accept that pass when descriptors or memory are free again."""


async def accept_next(
    listener: trio.abc.Listener[trio.SocketStream], note_exhausted: Callable[[], None]
) -> trio.SocketStream:
    """Return the next connection; wait and try again where descriptors or memory are used up."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
        note_exhausted()
        await trio.sleep(_ACCEPT_PAUSE_S)


class Connections:
    """The open connections of one process.

    `tls` returns the context of a new connection. `on_close` is called when one has ended.
    """

    def __init__(
        self,
        app: ASGIFramework,
        limits: ConnectionLimits,
        metrics: Metrics,
        *,
        error_body: Callable[[int], bytes],
        body_limit: Callable[[str], int],
        limit: int,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._tls = tls
        self._metrics = metrics
        self._limit = limit
        self._on_close = on_close
        self._open = 0
        # In the order in which they became idle: the first is the first to go.
        self._idle: dict[trio.CancelScope, None] = {}
        self._stopping = trio.Event()
        self._context = ConnectionContext(
            app,
            error_body,
            body_limit,
            self._while_idle,
            self._stopping,
            lambda code: metrics.socket_closes.labels(code).inc(),
        )

    async def serve(
        self,
        listener: trio.abc.Listener[trio.SocketStream],
        until_stopped: Callable[[], Awaitable[None]],
        *,
        cleanup_s: float,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve connections until `until_stopped` returns, then end those that are open.

        An idle connection ends at once, a busy one after `cleanup_s` at the latest. The listener
        is closed.
        """
        async with trio.open_nursery() as connections:
            async with listener, trio.open_nursery() as accepting:
                accepting.start_soon(self._accept, listener, connections)
                task_status.started()
                await until_stopped()
                accepting.cancel_scope.cancel()
            self._stopping.set()
            for scope in list(self._idle):
                scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + cleanup_s

    async def _accept(
        self, listener: trio.abc.Listener[trio.SocketStream], connections: trio.Nursery
    ) -> None:
        def note_exhausted() -> None:
            # Connections inside keep the descriptors that they have.
            self._metrics.accept_errors.inc()
            self._end_oldest_idle()

        while True:
            stream = await accept_next(listener, note_exhausted)
            has_space = self._open < self._limit or self._end_oldest_idle()
            connections.start_soon(self._serve_one, stream, has_space)

    async def _serve_one(self, stream: trio.SocketStream, has_space: bool) -> None:
        """Serve one connection, or refuse it; whatever ends it, it is closed."""
        client = ClientSocket(stream, self._limits, self._tls())
        self._open += 1
        self._metrics.connections.set(self._open)
        try:
            if has_space:
                await HttpConnection(client, self._context).run()
            else:
                await self._refuse(client)
        except* TlsFailed as group:
            self._metrics.refusals.labels("TlsFailed").inc()
            logger.debug("no TLS with a client: %s", first_leaf(group))
        except* ClientGone:
            pass
        except* Exception as group:
            # Broad: the application answers its own errors; what comes here ends one connection.
            cause = type(first_leaf(group)).__name__
            logger.error("connection broken off: %s", cause, exc_info=group)
        finally:
            self._open -= 1
            self._metrics.connections.set(self._open)
            await client.aclose()
            self._on_close()

    async def _refuse(self, client: ClientSocket) -> None:
        """Tell a client that there is no space for it; the handshake of TLS would take some."""
        self._metrics.refusals.labels("TooManyConnections").inc()
        if not client.secure:
            answer = error_answer(h11.Connection(h11.SERVER), 503, self._context.error_body(503))
            await client.send(answer)

    @contextmanager
    def _while_idle(self, scope: trio.CancelScope) -> Iterator[None]:
        """Count a connection as idle: it may be ended at any time through `scope`."""
        if self._stopping.is_set():
            scope.cancel()
        self._idle[scope] = None
        try:
            yield
        finally:
            del self._idle[scope]

    def _end_oldest_idle(self) -> bool:
        """End the connection that has waited longest for a request; return whether there is one."""
        oldest = next((scope for scope in self._idle if not scope.cancel_called), None)
        if oldest is None:
            return False
        oldest.cancel()
        return True
