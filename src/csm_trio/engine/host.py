"""The engine process's side of the sockets to workers: commands in, one message a step out.

Each worker's streams end with its socket: a worker that is killed costs its own calls and releases
their slots.
"""

import queue
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from csm_trio.engine.device_thread import open_device_thread
from csm_trio.engine.frame_writer import FrameWriter, WorkerLink, WorkerStream
from csm_trio.engine.scheduler import BufferTargets, Delivery, Runner
from csm_trio.engine.slot_queue import SlotQueue
from csm_trio.engine.step_loop import Command
from csm_trio.engine.wire import (
    Kind,
    MessageReader,
    decode_acknowledged,
    decode_admit,
    decode_id,
    encode_failed,
    encode_id,
)
from csm_trio.errors import SpeechError
from csm_trio.telemetry import Metrics

_READ_BYTES = 1 << 16


@asynccontextmanager
async def open_engine_host(
    make_runner: Callable[[], Runner], metrics: Metrics, *, targets: BufferTargets | None = None
) -> AsyncIterator["EngineHost"]:
    """Load a runner on the device thread, and yield its host once it is warm.

    Raises the exception of `make_runner`, and later that of the device thread.
    """
    inbox: queue.SimpleQueue[Command[WorkerStream]] = queue.SimpleQueue()
    writer = FrameWriter()
    output = _Output(writer)
    async with trio.open_nursery() as nursery:
        limiter = trio.CapacityLimiter(1)
        nursery.start_soon(partial(trio.to_thread.run_sync, writer.run, limiter=limiter))
        try:
            async with open_device_thread(
                make_runner,
                inbox,
                output,
                metrics,
                targets=targets or BufferTargets(),
                on_end=lambda: None,
                failure_grace_s=0.0,
            ) as slots:
                host = EngineHost(slots, inbox, writer)
                output.on_released = host.released
                yield host
        finally:
            writer.stop()


class EngineHost:
    """The slots of one device, as workers use them."""

    def __init__(
        self,
        slots: int,
        inbox: "queue.SimpleQueue[Command[WorkerStream]]",
        writer: FrameWriter,
    ) -> None:
        self.slots = slots
        self._writer = writer
        self._queue: SlotQueue[WorkerStream] = SlotQueue(
            slots,
            inbox,
            on_grant=partial(self._notify, Kind.GRANTED),
            on_release=partial(self._notify, Kind.RELEASED),
        )
        self.released = self._queue.released

    async def serve(self, connection: socket.socket) -> None:
        """Take the commands of one worker until it closes; release all of its streams then."""
        worker = WorkerLink(connection.dup())
        streams: dict[int, WorkerStream] = {}
        try:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(connection)) as stream:
                reader = MessageReader()
                while data := await stream.receive_some(_READ_BYTES):
                    for kind, payload in reader.feed(data):
                        self._handle(worker, streams, kind, payload)
        except trio.BrokenResourceError:
            pass
        finally:
            for one in streams.values():
                self._queue.release(one)
            self._writer.close(worker)

    def _handle(
        self, worker: WorkerLink, streams: dict[int, WorkerStream], kind: Kind, payload: bytes
    ) -> None:
        match kind:
            case Kind.ACKNOWLEDGE:
                for stream_id, frames in decode_acknowledged(payload):
                    if stream_id in streams:
                        self._queue.acknowledge(streams[stream_id], frames)
            case Kind.ADMIT:
                stream_id, session_id, utterance = decode_admit(payload)
                streams[stream_id] = WorkerStream(worker, stream_id, utterance)
                self._queue.admit(streams[stream_id], session_id)
            case Kind.RELEASE:
                self._queue.release(streams.pop(decode_id(payload)))
            case Kind.PING:
                pong = encode_id(Kind.PONG, decode_id(payload))
                self._queue.ping(partial(self._writer.put, worker, pong))
            case _:
                raise AssertionError(f"the engine process got {kind.name}")

    def _notify(self, kind: Kind, stream: WorkerStream) -> None:
        self._writer.put(stream.worker, encode_id(kind, stream.stream_id))


class _Output:
    """The device thread's output; nothing here blocks it."""

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer
        self._token = trio.lowlevel.current_trio_token()
        self.on_released: Callable[[WorkerStream], None] = lambda stream: None

    def deliver(self, due: Sequence[tuple[WorkerStream, Delivery]]) -> None:
        self._writer.put_frames(due)

    def fail(self, stream: WorkerStream, error: SpeechError) -> None:
        self._writer.put(stream.worker, encode_failed(stream.stream_id, error))

    def released(self, stream: WorkerStream) -> None:
        self._token.run_sync_soon(self.on_released, stream)
