"""Calls and notices between the supervisor and one child, over a Unix stream socket.

Each message is its length and a pickle: both ends are processes of one server.
"""

import contextlib
import itertools
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from csm_trio.errors import ServerLeaving, SpeechError
from csm_trio.socket_writer import SocketWriter

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16

Call = Callable[..., Awaitable[object]]
Notice = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _Request:
    """A call, or without an id a notice, of the other end."""

    call_id: int | None
    name: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Reply:
    call_id: int
    value: object
    error: SpeechError | None


@dataclass(slots=True)
class _Pending:
    """A call that waits for its reply."""

    replied: trio.Event = field(default_factory=trio.Event)
    reply: _Reply | None = None


class ControlChannel:
    """One end of a channel.

    calls: what the other end may call; each is called in the order of the messages, and what it
    returns is awaited in a task of its own. notices: functions without a reply, in order too.
    """

    def __init__(
        self, connection: socket.socket, calls: Mapping[str, Call], notices: Mapping[str, Notice]
    ) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._calls = calls
        self._notices = notices
        self._ids = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._writer = SocketWriter(self._stream)
        self._lost = False

    async def run(self) -> None:
        """Serve the channel until the other end closes; calls that still wait then fail."""
        try:
            async with self._stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._writer.run)
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._read(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._lost = True
            for pending in self._pending.values():
                pending.replied.set()

    async def call(self, name: str, *args: object) -> Any:
        """Call a function of the other end and return its result.

        Raises the SpeechError that it raised, and ServerLeaving where the other end is gone.
        """
        if self._lost:
            raise ServerLeaving
        call_id = next(self._ids)
        pending = self._pending[call_id] = _Pending()
        self._send(_Request(call_id, name, args))
        try:
            await pending.replied.wait()
        finally:
            del self._pending[call_id]
        if pending.reply is None:
            raise ServerLeaving
        if pending.reply.error is not None:
            raise pending.reply.error
        return pending.reply.value

    def notify(self, name: str, *args: object) -> None:
        """Call a notice of the other end, without waiting; nothing happens where it is gone."""
        if not self._lost:
            self._send(_Request(None, name, args))

    async def _read(self, nursery: trio.Nursery) -> None:
        received = bytearray()
        while data := await self._stream.receive_some(_READ_BYTES):
            received += data
            while len(received) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(received)
                end = _LENGTH.size + length
                if len(received) < end:
                    break
                message = pickle.loads(memoryview(received)[_LENGTH.size : end])
                del received[:end]
                self._handle(message, nursery)

    def _handle(self, message: _Request | _Reply, nursery: trio.Nursery) -> None:
        match message:
            case _Reply(call_id=call_id):
                pending = self._pending.get(call_id)  # None where the caller was cancelled
                if pending is not None:
                    pending.reply = message
                    pending.replied.set()
            case _Request(call_id=None, name=name, args=args):
                self._notices[name](*args)
            case _Request(call_id=call_id, name=name, args=args):
                assert call_id is not None
                nursery.start_soon(self._answer, call_id, self._calls[name](*args))

    async def _answer(self, call_id: int, result: Awaitable[object]) -> None:
        try:
            reply = _Reply(call_id, await result, None)
        except SpeechError as error:
            reply = _Reply(call_id, None, error)
        self._send(reply)

    def _send(self, message: _Request | _Reply) -> None:
        self._writer.put(framed(message))


def framed(message: object) -> bytes:
    """Return a message as it is sent."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def receive_first(connection: socket.socket) -> Any:
    """Return the first message of a blocking socket, before there is a channel on it.

    Raises EOFError where the other end is gone.
    """
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    return pickle.loads(_receive_exactly(connection, length))


def _receive_exactly(connection: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        part = connection.recv(n_bytes - len(data))
        if not part:
            raise EOFError
        data += part
    return data
