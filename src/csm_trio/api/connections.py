"""TCP connections: hypercorn serves HTTP on each, and an error on one leaves the others alone.

Must not know the application behind them.
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

    hypercorn raises on a client's protocol error, which would end its own `serve`.
    """

    async def run(self) -> None:
        """Serve the connection until it is closed."""
        try:
            await super().run()
        except* Exception as group:
            # Broad: hypercorn's errors only, the application handles its own.
            logger.info("connection broken off: %r", first_leaf(group))


async def serve_connections(
    app: ASGIFramework,
    settings: HypercornConfig,
    listening: socket.socket,
    until_stopped: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept and serve connections until `until_stopped` returns, then end those that are open.

    An idle connection ends at once, a busy one after `settings.graceful_timeout` seconds at the
    latest. The listening socket is closed.
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
            await until_stopped()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + settings.graceful_timeout
