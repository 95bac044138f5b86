"""The engine's interface to Trio: a pool of slots, an inbox of commands, streams of frames.

One resident device thread does all of torch, from loading to the last step, because inference
mode, the current stream and graph capture belong to a thread. It alone uses the scheduler and the
runner, so neither has a lock: admit, acknowledge and release are commands in one inbox. It never
waits for the event loop, and while idle it blocks on the inbox.
"""

import math
import queue
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import itemgetter

import trio

from csm_trio.engine.scheduler import (
    CREDIT_FRAMES,
    BufferTargets,
    Delivery,
    RowPriority,
    Runner,
    Scheduler,
)
from csm_trio.engine.slot_pool import SlotPool
from csm_trio.engine.utterance import EndReason, FrameBatch, Utterance
from csm_trio.errors import EngineFailed, SpeechError
from csm_trio.telemetry import Metrics

_Inbox = queue.SimpleQueue["_Command"]


class FrameStream:
    """The frame batches of one utterance, in order; `end` is the reason for the end, once known.

    A frame batch is one frame until the playback buffer is at low water. Iteration raises the
    SpeechError that stopped the utterance, if one did.
    """

    def __init__(self, utterance: Utterance, inbox: _Inbox) -> None:
        self.utterance = utterance
        self.end: EndReason | None = None
        self._inbox = inbox
        self._error: SpeechError | None = None
        self._released = trio.Event()
        # Credit bounds the frames in flight: `send_nowait` finds space for each.
        self._send, self._receive = trio.open_memory_channel[FrameBatch](CREDIT_FRAMES)

    def __aiter__(self) -> "FrameStream":
        return self

    async def __anext__(self) -> FrameBatch:
        try:
            frame_batch = await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None
        self._inbox.put(_Acknowledge(self, len(frame_batch)))
        return frame_batch

    def _deliver(self, frame_batch: FrameBatch) -> None:
        if not self._released.is_set():
            self._send.send_nowait(frame_batch)

    def _finish(self, end: EndReason | None, error: SpeechError | None) -> None:
        self.end, self._error = end, error
        self._send.close()

    def _close(self) -> None:
        self._released.set()
        self._send.close()
        self._receive.close()


@dataclass(frozen=True, slots=True)
class _Admit:
    stream: FrameStream


@dataclass(frozen=True, slots=True)
class _Acknowledge:
    stream: FrameStream
    frames: int


@dataclass(frozen=True, slots=True)
class _Release:
    stream: FrameStream


@dataclass(frozen=True, slots=True)
class _Ping:
    answered: trio.Event


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Command = _Admit | _Acknowledge | _Release | _Ping | _Stop


class _StepLoop:
    """The device thread's loop: take commands, open slots, prefill, step, deliver."""

    def __init__(
        self,
        runner: Runner,
        inbox: _Inbox,
        token: trio.lowlevel.TrioToken,
        metrics: Metrics,
        targets: BufferTargets,
    ) -> None:
        self._runner = runner
        self._inbox = inbox
        self._call_soon = token.run_sync_soon
        self._metrics = metrics
        self._scheduler: Scheduler[FrameStream] = Scheduler(
            runner.slots, max_prefills_per_step=runner.max_prefills_per_step, targets=targets
        )

    def run(self) -> None:
        """Step until the stop command."""
        while self._process_commands():
            plan = self._scheduler.next(time.monotonic())
            if plan.open:
                self._open(plan.open)
            prefilled = self._prefill() if self._scheduler.prefilling else []
            if plan.run or prefilled:
                self._step(sorted([*plan.run, *prefilled], key=itemgetter(0)))
            self._metrics.slots_used.set(self._scheduler.busy_slots)

    def _process_commands(self) -> bool:
        """Process all pending commands; block while idle. Return False on the stop command.

        Releases are processed before the next step: after it, a cancel would take two steps.
        """
        while True:
            try:
                command = self._inbox.get_nowait()
            except queue.Empty:
                if not self._scheduler.idle:
                    return True
                command = self._inbox.get()
            match command:
                case _Admit(stream):
                    utterance = stream.utterance
                    priority = RowPriority(utterance.plays_at_s, utterance.batch, utterance.frame_s)
                    self._scheduler.admit(stream, priority)
                case _Acknowledge(stream, frames):
                    self._scheduler.acknowledge(stream, frames)
                case _Release(stream):
                    self._release(stream)
                    self._metrics.slots_used.set(self._scheduler.busy_slots)
                    self._call_soon(stream._close)
                case _Ping(answered):
                    self._call_soon(answered.set)
                case _Stop():
                    return False

    def _open(self, opening: Sequence[tuple[int, FrameStream]]) -> None:
        """Open the planned slots; fail and release the utterances that the runner rejects."""
        frame_limits = self._runner.open([(slot, stream.utterance) for slot, stream in opening])
        for (_, stream), max_frames in zip(opening, frame_limits, strict=True):
            if isinstance(max_frames, SpeechError):
                self._scheduler.release(stream)
                self._call_soon(stream._finish, None, max_frames)
            else:
                self._scheduler.opened(stream, max_frames)

    def _prefill(self) -> list[tuple[int, FrameStream]]:
        """Run one prefill chunk; return the slots whose prompt is complete."""
        start_s = time.perf_counter()
        prefilled = [(slot, self._scheduler.prefilled(slot)) for slot in self._runner.prefill()]
        self._metrics.prefill_s.observe(time.perf_counter() - start_s)
        return prefilled

    def _step(self, running: Sequence[tuple[int, FrameStream]]) -> None:
        start_s = time.perf_counter()
        frames = self._runner.step([slot for slot, _ in running])
        self._metrics.step_s.observe(time.perf_counter() - start_s)
        made_at_s = time.monotonic()
        due: list[tuple[FrameStream, Delivery]] = []
        for (_, stream), frame in zip(running, frames, strict=True):
            delivery = self._scheduler.account(stream, frame, made_at_s)
            if delivery is None:
                continue
            due.append((stream, delivery))
            if delivery.end is not None:
                self._release(stream)
                self._metrics.utterance_ends.labels(delivery.end).inc()
        self._metrics.frames.inc(sum(frame is not None for frame in frames))
        if due:
            self._call_soon(_deliver_all, due)

    def _release(self, stream: FrameStream) -> None:
        slot = self._scheduler.release(stream)
        if slot is not None:
            self._runner.close(slot)


def _deliver_all(due: Sequence[tuple[FrameStream, Delivery]]) -> None:
    """Send frame batches and ends to their streams; runs on the Trio thread."""
    for stream, delivery in due:
        if delivery.frames:
            stream._deliver(delivery.frames)
        if delivery.end is not None:
            stream._finish(delivery.end, None)


class Engine:
    """The pool of slots and the way to the device thread; one per server."""

    def __init__(self, slots: int, inbox: _Inbox, metrics: Metrics) -> None:
        self._inbox = inbox
        self._metrics = metrics
        self._pool = SlotPool(slots)
        self.stopped = trio.Event()
        self._streams: set[FrameStream] = set()
        metrics.slots.set(slots)

    @property
    def slots(self) -> int:
        """How many utterances are generated at once."""
        return self._pool.slots

    @property
    def borrowed_slots(self) -> int:
        """How many pool tokens are borrowed now."""
        return self._pool.borrowed

    @asynccontextmanager
    async def generate(
        self, utterance: Utterance, session_id: str = ""
    ) -> AsyncIterator[FrameStream]:
        """Generate one utterance: wait for a slot, yield its frames, release the slot at exit.

        The pool token is the right to a slot, shared fairly between sessions; it never returns
        before its slot is free. Without a `session_id` the utterance is a session of its own.
        Raises EngineFailed if the device thread has ended.
        """
        session: Hashable = session_id or object()
        with self._metrics.utterances_waiting.track_inprogress():
            await self._pool.acquire(session)
        try:
            if self.stopped.is_set():
                raise EngineFailed
            stream = FrameStream(utterance, self._inbox)
            self._streams.add(stream)
            self._inbox.put(_Admit(stream))
            try:
                yield stream
            finally:
                cancelled, released_at_s = stream.end is None, time.monotonic()
                self._inbox.put(_Release(stream))
                # The shield is bounded by one prefill chunk and one step of the device thread.
                with trio.CancelScope(shield=True):
                    await stream._released.wait()
                self._streams.discard(stream)
                if cancelled:
                    self._metrics.cancel_to_free_s.observe(time.monotonic() - released_at_s)
        finally:
            self._pool.release(session)

    async def responds(self, within_s: float = 5.0) -> bool:
        """Return whether the step loop answers a ping within so many seconds (`/healthz`)."""
        answered = trio.Event()
        self._inbox.put(_Ping(answered))
        with trio.move_on_after(within_s):
            await answered.wait()
        return answered.is_set()

    def _stop(self) -> None:
        """Fail and release every stream: the device thread has ended and answers no command."""
        self.stopped.set()
        for stream in self._streams:
            if stream.end is None and stream._error is None:
                stream._finish(None, EngineFailed())
            stream._released.set()


@asynccontextmanager
async def open_engine(
    make_runner: Callable[[], Runner],
    metrics: Metrics,
    *,
    targets: BufferTargets | None = None,
    failure_grace_s: float = 0.0,
) -> AsyncIterator[Engine]:
    """Load a runner on the device thread, and yield the engine once it is warm.

    Raises the exception of `make_runner` before the body is entered (in an exception group). If
    the device thread fails later, `Engine.stopped` is set, and after `failure_grace_s` the body is
    cancelled and the cause is raised: nothing restarts that thread.
    """
    inbox: _Inbox = queue.SimpleQueue()
    async with trio.open_nursery() as nursery:
        try:
            engine: Engine = await nursery.start(
                _run_device_thread,
                make_runner,
                inbox,
                metrics,
                targets or BufferTargets(),
                failure_grace_s,
            )
            yield engine
        finally:
            inbox.put(_Stop())


async def _run_device_thread(
    make_runner: Callable[[], Runner],
    inbox: _Inbox,
    metrics: Metrics,
    targets: BufferTargets,
    failure_grace_s: float,
    task_status: trio.TaskStatus[Engine],
) -> None:
    token = trio.lowlevel.current_trio_token()
    started = trio.Event()

    def warmed(slots: int) -> Engine:
        engine = Engine(slots, inbox, metrics)
        started.set()
        task_status.started(engine)
        if trio.current_effective_deadline() == -math.inf:
            # Cancelled while the model loaded: `open_engine` does not send the stop command.
            inbox.put(_Stop())
        return engine

    def work() -> None:
        runner = make_runner()
        engine = trio.from_thread.run_sync(warmed, runner.slots)
        try:
            _StepLoop(runner, inbox, token, metrics, targets).run()
        finally:
            token.run_sync_soon(engine._stop)

    ended = False
    try:
        await trio.to_thread.run_sync(
            work, limiter=trio.CapacityLimiter(1), thread_name="csm-device"
        )
        ended = True
    finally:
        if started.is_set() and not ended:
            # Sessions tell their clients meanwhile. Bounded by the grace.
            with trio.CancelScope(shield=True):
                await trio.sleep(failure_grace_s)
