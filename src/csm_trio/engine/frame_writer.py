"""The writer thread of the engine process: encodes each step's frames and sends them to workers.

A worker that does not read keeps nothing from the others: its bytes wait here. Their number is
bounded, since rows stop at their credit.
"""

import queue
import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from csm_trio.engine.scheduler import Delivery
from csm_trio.engine.utterance import Utterance
from csm_trio.engine.wire import encode_frames

_RETRY_S = 0.005
"""Seconds between two attempts to send to a worker that does not read."""


@dataclass(slots=True, eq=False)
class WorkerLink:
    """The socket to one worker; only the writer thread uses it."""

    socket: socket.socket
    unsent: bytearray = field(default_factory=bytearray)


@dataclass(slots=True, eq=False)
class WorkerStream:
    """The reader of one utterance, in a worker, by its id there."""

    worker: WorkerLink
    stream_id: int
    utterance: Utterance


@dataclass(frozen=True, slots=True)
class _Message:
    worker: WorkerLink
    data: bytes


@dataclass(frozen=True, slots=True)
class _Close:
    worker: WorkerLink


Due = Sequence[tuple[WorkerStream, Delivery]]


class FrameWriter:
    """The thread's queue of messages, put in from any thread, written in their order."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Due | _Message | _Close | None] = queue.SimpleQueue()
        self._with_unsent: set[WorkerLink] = set()

    def put_frames(self, due: Due) -> None:
        """Send the deliveries of one step, one message to each worker."""
        self._items.put(due)

    def put(self, worker: WorkerLink, message: bytes) -> None:
        """Send one message to one worker."""
        self._items.put(_Message(worker, message))

    def close(self, worker: WorkerLink) -> None:
        """Close a worker's socket behind the messages before this."""
        self._items.put(_Close(worker))

    def stop(self) -> None:
        """End the thread behind the messages before this; bytes that wait are dropped."""
        self._items.put(None)

    def run(self) -> None:
        """Write until the stop."""
        while True:
            try:
                item = self._items.get(timeout=_RETRY_S if self._with_unsent else None)
            except queue.Empty:
                for worker in list(self._with_unsent):
                    self._write(worker, b"")
                continue
            match item:
                case None:
                    return
                case _Message(worker, data):
                    self._write(worker, data)
                case _Close(worker):
                    self._with_unsent.discard(worker)
                    worker.socket.close()
                case due:
                    self._write_frames(due)

    def _write_frames(self, due: Due) -> None:
        by_worker: defaultdict[WorkerLink, list[tuple[int, Delivery]]] = defaultdict(list)
        for stream, delivery in due:
            by_worker[stream.worker].append((stream.stream_id, delivery))
        for worker, deliveries in by_worker.items():
            self._write(worker, encode_frames(deliveries))

    def _write(self, worker: WorkerLink, data: bytes) -> None:
        """Send what the socket takes, and keep the rest."""
        if worker.unsent:
            worker.unsent += data
            data = bytes(worker.unsent)
            worker.unsent.clear()
        try:
            sent = worker.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(data)  # the worker is gone: the task that reads its socket closes this one
        worker.unsent += memoryview(data)[sent:]
        if worker.unsent:
            self._with_unsent.add(worker)
        else:
            self._with_unsent.discard(worker)
