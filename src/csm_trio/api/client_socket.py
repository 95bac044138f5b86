"""The byte stream of one client: reads at a bounded rate, and notices a hang-up at any time.

With TLS, the budget of bytes counts what comes over the wire, and each record is an event.
"""

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from csm_trio.api.connection_limits import ConnectionLimits, EmptyRecords, InputBudget

_READ_BYTES = 16 << 10
_PAUSE_S = 0.01
"""Seconds between two looks at the state of a connection that is not being read."""

# Values of tcpi_state, the first byte of Linux's struct tcp_info (include/net/tcp_states.h).
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8


class ClientGone(Exception):
    """The client has closed or reset its connection."""


class TlsFailed(ClientGone):
    """The client and this server found no common TLS, or the client speaks none."""


class ClientSocket:
    """One accepted TCP connection, with TLS where there is a context for it.

    One task reads and one task writes at a time. A client that shuts down its side counts as gone.
    The handshake is a part of the first read.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        limits: ConnectionLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.limits = limits
        self._transport = stream
        self._budget = InputBudget(limits)
        self._received = b""
        self._empty_records = EmptyRecords()
        self._stream: trio.SocketStream | trio.SSLStream[_Records] = stream
        self._handshaken = tls is None
        if tls is not None:
            self._records = _Records(stream, self._take_bytes)
            self._stream = trio.SSLStream(self._records, tls, server_side=True)

    @property
    def secure(self) -> bool:
        """Whether the connection has TLS."""
        return isinstance(self._stream, trio.SSLStream)

    @property
    def peer(self) -> tuple[str, int] | None:
        """The client's address and port; None once it is gone."""
        return _address(self._transport.socket.getpeername)

    @property
    def local(self) -> tuple[str, int] | None:
        """The server's address and port."""
        return _address(self._transport.socket.getsockname)

    async def receive(self) -> bytes:
        """Return the next bytes, at the pace of the input budget; raise ClientGone at their end.

        Bytes that were read when this is cancelled are returned by the next call.
        """
        if not self._handshaken:
            await self._shake_hands()
        if not self._received:
            try:
                self._received = bytes(await self._stream.receive_some(_READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ClientGone from None
            if not self._received:
                raise ClientGone
            # No checkpoint between the read and this: a cancel must not lose what was read.
            n_bytes = len(self._received)
            if self.secure:
                self._empty_records.add_content(n_bytes)
                n_bytes = 0
            self._budget.charge(trio.current_time(), events=1, n_bytes=n_bytes)
        await self._wait_for_budget()
        data, self._received = self._received, b""
        return data

    async def _shake_hands(self) -> None:
        """Complete the TLS handshake; raise TlsFailed where that is not possible.

        Where it is cancelled, the connection must end.
        """
        assert isinstance(self._stream, trio.SSLStream)
        try:
            await self._stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self._records.ended or not isinstance(error.__cause__, ssl.SSLError):
                raise ClientGone from None
            raise TlsFailed(error.__cause__.reason) from None
        self._handshaken = True

    async def _take_bytes(self, n_bytes: int) -> None:
        """Count encrypted input, and wait until the budget covers it."""
        events = self._empty_records.add_read(n_bytes)
        self._budget.charge(trio.current_time(), events=events, n_bytes=n_bytes)
        await self._wait_for_budget()

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

    async def end_output(self) -> None:
        """End our side of the connection within a bound, that of TLS first.

        Without close_notify a client cannot tell the end from a truncation (RFC 8446, 6.1).
        """
        with (
            trio.move_on_after(self.limits.close_timeout_s),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            if isinstance(self._stream, trio.SSLStream) and self._handshaken:
                await self._stream.aclose()  # sends close_notify, and leaves the socket open
            await self._transport.send_eof()

    async def linger(self) -> None:
        """End the stream and discard input until the client ends its side, within a bound.

        A socket that is closed with unread input is reset, and the client may lose the last answer
        (RFC 9112, 9.6).
        """
        with trio.move_on_after(self.limits.close_timeout_s), contextlib.suppress(ClientGone):
            await self.end_output()
            while True:
                await self._discard()

    async def _discard(self) -> None:
        """Read input that is not used; raise ClientGone at its end."""
        if not self.secure:
            await self.receive()
            return
        try:
            if not await self._records.receive_some():
                raise ClientGone
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientGone from None

    async def aclose(self) -> None:
        """Close the connection at once."""
        await trio.aclose_forcefully(self._transport)

    def _has_closed(self) -> bool:
        """Return whether the client has closed, though unread bytes may stand before its end."""
        if not hasattr(socket, "TCP_INFO"):
            return False
        try:
            state = self._transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:  # no TCP
            return False
        return state[0] in (_TCP_CLOSE, _TCP_CLOSE_WAIT)


class _Records(trio.abc.Stream):
    """The encrypted bytes below TLS, read at the client's pace; closing it leaves the socket open.

    `take` counts bytes, and returns when they may be read. A read that is cancelled loses nothing.
    """

    def __init__(
        self, transport: trio.SocketStream, take: Callable[[int], Awaitable[None]]
    ) -> None:
        self.ended = False
        self._transport = transport
        self._take = take
        self._received = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes; none at their end."""
        if not self._received:
            self._received = bytes(await self._transport.receive_some(_READ_BYTES))
            self.ended = not self._received
        await self._take(len(self._received))
        data, self._received = self._received, b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""
        await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes bytes."""
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Do nothing: the socket has its own end."""
        await trio.lowlevel.checkpoint()


def _address(read: Callable[[], Any]) -> tuple[str, int] | None:
    try:
        host, port = read()[:2]
    except OSError:
        return None
    return str(host), int(port)
