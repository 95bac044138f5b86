"""The byte stream of one client: reads at a bounded rate, and notices a hang-up at any time."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import trio

from csm_trio.api.connection_limits import ConnectionLimits, InputBudget

_READ_BYTES = 16 << 10
_PAUSE_S = 0.01
"""Seconds between two looks at the state of a connection that is not being read."""

# Values of tcpi_state, the first byte of Linux's struct tcp_info (include/net/tcp_states.h).
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8


class ClientGone(Exception):
    """The client has closed or reset its connection."""


class ClientSocket:
    """One accepted TCP connection.

    One task reads and one task writes at a time. A client that shuts down its side counts as gone.
    """

    def __init__(self, stream: trio.SocketStream, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._stream = stream
        self._budget = InputBudget(limits)
        self._received = b""

    @property
    def peer(self) -> tuple[str, int] | None:
        """The client's address and port; None once it is gone."""
        return _address(self._stream.socket.getpeername)

    @property
    def local(self) -> tuple[str, int] | None:
        """The server's address and port."""
        return _address(self._stream.socket.getsockname)

    async def receive(self) -> bytes:
        """Return the next bytes, at the pace of the input budget; raise ClientGone at their end.

        Bytes that were read when this is cancelled are returned by the next call.
        """
        if not self._received:
            try:
                self._received = bytes(await self._stream.receive_some(_READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ClientGone from None
            if not self._received:
                raise ClientGone
            # No checkpoint between the read and this: a cancel must not lose what was read.
            self._budget.charge(trio.current_time(), events=1, n_bytes=len(self._received))
        await self._wait_for_budget()
        data, self._received = self._received, b""
        return data

    async def charge(self, *, events: float, n_bytes: int = 0) -> None:
        """Count input, and wait until the budget covers it; raise ClientGone on a hang-up."""
        self._budget.charge(trio.current_time(), events=events, n_bytes=n_bytes)
        await self._wait_for_budget()

    async def _wait_for_budget(self) -> None:
        # Other tasks run in between in any case: one read may hold thousands of frames.
        await trio.lowlevel.checkpoint()
        wait_s = self._budget.wait_s
        while wait_s > 0:
            await self.pause(min(wait_s, _PAUSE_S))
            wait_s -= _PAUSE_S

    async def pause(self, duration_s: float = _PAUSE_S) -> None:
        """Read nothing for a moment; raise ClientGone if the client is gone after it."""
        await trio.sleep(duration_s)
        if self._has_closed():
            raise ClientGone

    async def send(self, data: bytes) -> None:
        """Write all of `data`; raise ClientGone where the client is gone.

        The kernel's user timeout bounds the wait for a client that reads nothing.
        """
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientGone from None

    async def linger(self) -> None:
        """End the stream and discard input until the client ends its side, within a bound.

        A socket that is closed with unread input is reset, and the client may lose the last answer
        (RFC 9112, 9.6).
        """
        with trio.move_on_after(self.limits.close_timeout_s), contextlib.suppress(ClientGone):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()
            while True:
                await self.receive()

    async def aclose(self) -> None:
        """Close the connection at once."""
        await trio.aclose_forcefully(self._stream)

    def _has_closed(self) -> bool:
        """Return whether the client has closed, though unread bytes may stand before its end."""
        if not hasattr(socket, "TCP_INFO"):
            return False
        try:
            state = self._stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:  # no TCP
            return False
        return state[0] in (_TCP_CLOSE, _TCP_CLOSE_WAIT)


def _address(read: Callable[[], Any]) -> tuple[str, int] | None:
    try:
        host, port = read()[:2]
    except OSError:
        return None
    return str(host), int(port)
