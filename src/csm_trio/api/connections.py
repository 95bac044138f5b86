"""TCP connections: hypercorn speaks HTTP on each, and what breaks one leaves the others alone.

It must not know what is behind the application.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from csm_trio.errors import first_leaf

logger = logging.getLogger(__name__)


class _Connection(TCPServer):
    """One client's connection.

    hypercorn raises where it answers out of turn, and its own `serve` would end with that.
    """

    async def run(self) -> None:
        """Serve it until it is closed."""
        try:
            await super().run()
        except* Exception as group:
            # A door's broad except: the application's own errors do not come here.
            logger.info("connection broken off: %r", first_leaf(group))


async def serve_connections(
    app: ASGIFramework,
    settings: HypercornConfig,
    listening: socket.socket,
    until_told: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve who connects until `until_told` returns, then end those who are left.

    An idle connection ends at once, another may take `settings.graceful_timeout` seconds more.
    The socket is closed.
    """
    context = WorkerContext(max_requests=None)
    serve_one = partial(_Connection, ASGIWrapper(app), settings, context, ConnectionState({}))
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            await accepting.start(
                partial(trio.serve_listeners, serve_one, [listener], handler_nursery=connections)
            )
            task_status.started()
            await until_told()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + settings.graceful_timeout
