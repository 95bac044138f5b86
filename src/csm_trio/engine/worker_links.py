"""The sockets from the engine process to its workers, read and written by the device thread itself.

Between two steps it takes what workers have sent, and after a step it sends each worker one message
with all of its frames: no other thread wakes for a frame, or competes for the interpreter lock. A
worker that does not read keeps nothing from the others: its bytes wait here. Their number is
bounded, since rows stop at their credit. A worker's streams end with its socket.
"""

import queue
import selectors
import socket
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from csm_trio.engine.scheduler import Delivery
from csm_trio.engine.slot_queue import SlotQueue
from csm_trio.engine.step_loop import Command, Ping
from csm_trio.engine.utterance import Utterance
from csm_trio.engine.wire import (
    Kind,
    MessageReader,
    decode_acknowledged,
    decode_admit,
    decode_id,
    encode_failed,
    encode_frames,
    encode_id,
)
from csm_trio.errors import SpeechError

_READ_BYTES = 1 << 16


@dataclass(slots=True, eq=False)
class WorkerStream:
    """The reader of one utterance, in a worker, by its id there."""

    worker: "_WorkerLink"
    stream_id: int
    utterance: Utterance


@dataclass(slots=True, eq=False)
class _WorkerLink:
    """The socket to one worker, and its streams by id; `unsent` waits until the worker reads."""

    socket: socket.socket
    reader: MessageReader = field(default_factory=MessageReader)
    unsent: bytearray = field(default_factory=bytearray)
    streams: dict[int, WorkerStream] = field(default_factory=dict)


class WorkerLinks:
    """The step loop's inbox and output where its readers are workers.

    `put` and `add` may be called from any thread, everything else on the device thread only.
    """

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[Command[WorkerStream] | socket.socket] = queue.SimpleQueue()
        self._wake_send, self._wake_receive = socket.socketpair()
        self._wake_receive.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_receive, selectors.EVENT_READ)
        self._commands: deque[Command[WorkerStream]] = deque()
        self._queue: SlotQueue[WorkerStream]
        # Written by the device thread only; others read it as it is at that moment.
        self.n_workers = 0

    def begin(self, slots: int) -> None:
        """Set the number of slots, before the first worker is added."""
        self._queue = SlotQueue(
            slots,
            self._commands.append,
            on_grant=partial(self._notify, Kind.GRANTED),
            on_release=partial(self._notify, Kind.RELEASED),
        )

    def put(self, command: Command[WorkerStream]) -> None:
        """Give the step loop a command."""
        self._given.put(command)
        self._wake_send.send(b"\0")

    def add(self, connection: socket.socket) -> None:
        """Serve a worker through this socket, until it closes its end."""
        self._given.put(connection)
        self._wake_send.send(b"\0")

    def close(self) -> None:
        """Close all sockets, after the step loop has ended."""
        links = [key.data for key in self._selector.get_map().values() if key.data is not None]
        for link in links:
            link.socket.close()
        self._selector.close()
        self._wake_send.close()
        self._wake_receive.close()

    # The inbox.

    def get_nowait(self) -> Command[WorkerStream]:
        """Return the next command; raise queue.Empty where there is none."""
        if not self._commands:
            self._poll(0)
        if not self._commands:
            raise queue.Empty
        return self._commands.popleft()

    def get(self) -> Command[WorkerStream]:
        """Return the next command; wait for it."""
        while not self._commands:
            self._poll(None)
        return self._commands.popleft()

    # The output.

    def deliver(self, due: Sequence[tuple[WorkerStream, Delivery]]) -> None:
        """Send the deliveries of one step, one message to each worker."""
        by_worker: defaultdict[_WorkerLink, list[tuple[int, Delivery]]] = defaultdict(list)
        for stream, delivery in due:
            by_worker[stream.worker].append((stream.stream_id, delivery))
        for worker, deliveries in by_worker.items():
            self._send(worker, encode_frames(deliveries))

    def fail(self, stream: WorkerStream, error: SpeechError) -> None:
        """Send the error of an utterance that was rejected or failed."""
        self._send(stream.worker, encode_failed(stream.stream_id, error))

    def released(self, stream: WorkerStream) -> None:
        """Return the token of a stream without a slot, and say so to its worker."""
        self._queue.released(stream)

    # The sockets.

    def _poll(self, timeout_s: float | None) -> None:
        """Read from the sockets that have something, and write to those that can take it."""
        for key, events in self._selector.select(timeout_s):
            worker: _WorkerLink | None = key.data
            if worker is None:
                self._take_given()
                continue
            if events & selectors.EVENT_WRITE:
                self._send(worker, b"")
            if events & selectors.EVENT_READ:
                self._receive(worker)

    def _take_given(self) -> None:
        self._wake_receive.recv(_READ_BYTES)
        while not self._given.empty():
            given = self._given.get_nowait()
            if isinstance(given, socket.socket):
                given.setblocking(False)
                self._selector.register(given, selectors.EVENT_READ, _WorkerLink(given))
                self.n_workers += 1
            else:
                self._commands.append(given)

    def _receive(self, worker: _WorkerLink) -> None:
        try:
            data = worker.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(worker)
        for kind, payload in worker.reader.feed(data):
            self._handle(worker, kind, payload)

    def _handle(self, worker: _WorkerLink, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.ACKNOWLEDGE:
                for stream_id, frames in decode_acknowledged(payload):
                    if stream_id in worker.streams:
                        self._queue.acknowledge(worker.streams[stream_id], frames)
            case Kind.ADMIT:
                stream_id, session_id, utterance = decode_admit(payload)
                stream = WorkerStream(worker, stream_id, utterance)
                worker.streams[stream_id] = stream
                self._queue.admit(stream, session_id)
            case Kind.RELEASE:
                self._queue.release(worker.streams.pop(decode_id(payload)))
            case Kind.PING:
                pong = encode_id(Kind.PONG, decode_id(payload))
                self._commands.append(Ping(partial(self._send, worker, pong)))
            case _:
                raise AssertionError(f"the engine process got {kind.name}")

    def _close(self, worker: _WorkerLink) -> None:
        """Close a worker's socket and release its streams."""
        self.n_workers -= 1
        self._selector.unregister(worker.socket)
        worker.socket.close()
        for stream in worker.streams.values():
            self._queue.release(stream)
        worker.streams.clear()

    def _notify(self, kind: Kind, stream: WorkerStream) -> None:
        self._send(stream.worker, encode_id(kind, stream.stream_id))

    def _send(self, worker: _WorkerLink, data: bytes) -> None:
        """Send what the socket takes, and keep the rest until it takes more."""
        if worker.socket.fileno() < 0:
            return
        waited = bool(worker.unsent)
        if waited:
            worker.unsent += data
            data = bytes(worker.unsent)
        try:
            sent = worker.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(data)  # the worker is gone: the next read says so
        worker.unsent = bytearray(memoryview(data)[sent:])
        if waited != bool(worker.unsent):
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
            self._selector.modify(worker.socket, events, worker)
