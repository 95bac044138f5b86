"""The engine in another process: the link of a worker to the engine process.

Ids of streams are never used twice, so that a late frame of a released one finds no reader.
"""

import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from csm_trio.engine.service import Engine, FrameStream
from csm_trio.engine.wire import (
    Kind,
    MessageReader,
    decode_failed,
    decode_frames,
    decode_id,
    encode_acknowledged,
    encode_admit,
    encode_id,
)
from csm_trio.socket_writer import SocketWriter
from csm_trio.telemetry import Metrics

_READ_BYTES = 1 << 20
_ACKNOWLEDGE_S = 0.04
"""Seconds for which acknowledged frames are collected: a message of its own for each would cost
the engine process more than the frame itself. The credit is 50 times as long."""


@asynccontextmanager
async def open_remote_engine(
    connection: socket.socket, slots: int, metrics: Metrics
) -> AsyncIterator[Engine]:
    """Yield an engine whose slots are in the process at the other end of `connection`.

    `Engine.stopped` is set when that end closes.
    """
    link = _RemoteLink(trio.SocketStream(trio.socket.from_stdlib_socket(connection)))
    engine = Engine(slots, link, metrics)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, engine)
        try:
            yield engine
        finally:
            nursery.cancel_scope.cancel()


class _RemoteLink:
    """Streams by their ids, and the messages about them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._ids = itertools.count(1)
        self._streams: dict[int, FrameStream] = {}
        self._id_of: dict[FrameStream, int] = {}
        self._pings: dict[int, Callable[[], None]] = {}
        self._acknowledged: dict[int, int] = {}
        self._frames_taken = trio.Event()
        self._writer = SocketWriter(self._stream)

    async def run(self, engine: Engine) -> None:
        """Exchange messages until the engine process closes; then stop `engine`."""
        async with self._stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._writer.run)
            nursery.start_soon(self._acknowledge_together)
            reader = MessageReader()
            try:
                while data := await self._stream.receive_some(_READ_BYTES):
                    for kind, payload in reader.feed(data):
                        self._handle(kind, payload)
            except trio.BrokenResourceError:
                pass
            finally:
                # Also when this is cancelled: streams wait, shielded, for an answer.
                engine.stop()
            nursery.cancel_scope.cancel()

    def admit(self, stream: FrameStream, session_id: str) -> None:
        """Send an utterance."""
        stream_id = next(self._ids)
        self._streams[stream_id] = stream
        self._id_of[stream] = stream_id
        self._send(encode_admit(stream_id, session_id, stream.utterance))

    def acknowledge(self, stream: FrameStream, frames: int) -> None:
        """Send, soon, that a reader has taken frames."""
        stream_id = self._id_of.get(stream)
        if stream_id is not None:
            self._acknowledged[stream_id] = self._acknowledged.get(stream_id, 0) + frames
            self._frames_taken.set()

    def release(self, stream: FrameStream) -> None:
        """Send a release; a stream that was granted nothing is released at once."""
        stream_id = self._id_of[stream]
        self._send(encode_id(Kind.RELEASE, stream_id))
        if not stream.granted.is_set():
            self._forget(stream_id)

    def ping(self, answered: Callable[[], None]) -> None:
        """Send a ping through to the step loop."""
        ping_id = next(self._ids)
        self._pings[ping_id] = answered
        self._send(encode_id(Kind.PING, ping_id))

    def _handle(self, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.FRAMES:
                for stream_id, frame_batch, end in decode_frames(payload):
                    stream = self._streams.get(stream_id)
                    if stream is None:  # released in the moment of the grant
                        continue
                    if frame_batch:
                        stream.deliver(frame_batch)
                    if end is not None:
                        stream.finish(end)
            case Kind.FAILED:
                stream_id, error = decode_failed(payload)
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.finish(None, error)
            case Kind.GRANTED:
                stream = self._streams.get(decode_id(payload))
                if stream is not None:
                    stream.grant()
            case Kind.RELEASED:
                self._forget(decode_id(payload))
            case Kind.PONG:
                self._pings.pop(decode_id(payload))()
            case _:
                raise AssertionError(f"a worker got {kind.name}")

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._acknowledged.pop(self._id_of.pop(stream), None)
            stream.close()

    def _send(self, message: bytes) -> None:
        self._writer.put(message)

    async def _acknowledge_together(self) -> None:
        while True:
            await self._frames_taken.wait()
            await trio.sleep(_ACKNOWLEDGE_S)
            self._frames_taken = trio.Event()
            if self._acknowledged:
                self._send(encode_acknowledged(self._acknowledged))
                self._acknowledged = {}
