"""Open sockets handed from one process to another (SCM_RIGHTS, unix(7)).

Each goes with one byte, so that one read returns one socket.
"""

import errno
import socket

import trio


def hand_over(channel: socket.socket, descriptor: int) -> bool:
    """Send the socket of a descriptor through a non-blocking channel.

    Returns False where that is not possible now. The caller still has to close its own copy.
    """
    try:
        socket.send_fds(channel, [b"\0"], [descriptor])
    except OSError:  # full, too many sockets on the way, or the receiver is gone
        return False
    return True


class HandedOver(trio.abc.Listener[trio.SocketStream]):
    """The connections that come through a channel, as a listener."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel

    async def accept(self) -> trio.SocketStream:
        """Return the next connection.

        Waits forever where the sender is gone: its other channel says so. Raises OSError where a
        connection is lost because this process has no descriptor left.
        """
        connection = await self.accept_socket()
        return trio.SocketStream(trio.socket.from_stdlib_socket(connection))

    async def accept_socket(self) -> socket.socket:
        """Return the next socket, of any family."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._channel)
                continue
            except ConnectionResetError:
                data, descriptors = b"", []
            if not data:
                await trio.sleep_forever()
            if not descriptors:
                raise OSError(errno.EMFILE, "a connection was lost")
            await trio.lowlevel.cancel_shielded_checkpoint()
            return socket.socket(fileno=descriptors[0])

    async def aclose(self) -> None:
        """Close the channel; connections that are still in it are closed."""
        self._channel.close()
        await trio.lowlevel.checkpoint()
