"""Bytes that wait to be written to a socket of another process of this server."""

import trio


class SocketWriter:
    """Takes bytes at once, and writes them from one task.

    What waits is bounded by its users: each answers what the other end asks for.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._waiting = bytearray()
        self._has_waiting = trio.Event()

    def put(self, data: bytes) -> None:
        """Write bytes behind those that wait."""
        self._waiting += data
        self._has_waiting.set()

    async def run(self) -> None:
        """Write until the other end is gone; the task that reads the socket notices it, too."""
        while True:
            await self._has_waiting.wait()
            self._has_waiting = trio.Event()
            data, self._waiting = self._waiting, bytearray()
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError:
                return
