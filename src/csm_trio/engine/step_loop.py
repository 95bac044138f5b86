"""The device thread's loop: take commands, open slots, prefill, step, deliver.

It alone uses the scheduler and the runner, so neither has a lock: admit, acknowledge and release
are commands in one inbox. It never waits for a reader, and while idle it blocks on the inbox. It
must not know Trio, torch or sockets.
"""

import queue
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from csm_trio.engine.scheduler import BufferTargets, Delivery, RowPriority, Runner, Scheduler
from csm_trio.engine.utterance import Frame, Utterance
from csm_trio.errors import SpeechError
from csm_trio.telemetry import Metrics


class UtteranceStream(Hashable, Protocol):
    """The reader of one utterance, by which commands and deliveries name it."""

    @property
    def utterance(self) -> Utterance:
        """What is generated for it."""


Stream = TypeVar("Stream", bound=UtteranceStream)
_Reader = TypeVar("_Reader", bound=UtteranceStream, contravariant=True)


@dataclass(frozen=True, slots=True)
class Admit(Generic[Stream]):
    """Generate the stream's utterance, as soon as a slot is free."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class Acknowledge(Generic[Stream]):
    """The stream's reader has taken so many frames."""

    stream: Stream
    frames: int


@dataclass(frozen=True, slots=True)
class Release(Generic[Stream]):
    """Release the stream's slot, or its place in the queue for one."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class Ping:
    """Call `answer` on the device thread."""

    answer: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop."""


Command = Admit[Stream] | Acknowledge[Stream] | Release[Stream] | Ping | Stop


class Inbox(Protocol[Stream]):
    """Where the loop's commands come from; a `queue.SimpleQueue` is one.

    `put` may be called from any thread, the others on the device thread.
    """

    def put(self, command: Command[Stream], /) -> None:
        """Give the loop a command."""

    def get_nowait(self) -> Command[Stream]:
        """Return the next command; raise queue.Empty where there is none."""

    def get(self) -> Command[Stream]:
        """Return the next command; wait for it."""


class Output(Protocol[_Reader]):
    """Where the loop's results go; called on the device thread, which it must never block."""

    def deliver(self, due: Sequence[tuple[_Reader, Delivery]]) -> None:
        """Pass on the frame batches and ends of one step."""

    def fail(self, stream: _Reader, error: SpeechError) -> None:
        """Report that the runner rejected an utterance, or that its row failed."""

    def released(self, stream: _Reader) -> None:
        """Report that a stream has no slot any more."""


class StepLoop(Generic[Stream]):
    """The loop over one runner."""

    def __init__(
        self,
        runner: Runner,
        inbox: Inbox[Stream],
        output: Output[Stream],
        metrics: Metrics,
        targets: BufferTargets,
    ) -> None:
        self._runner = runner
        self._inbox = inbox
        self._output = output
        self._metrics = metrics
        self._scheduler: Scheduler[Stream] = Scheduler(
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
                case Acknowledge(stream, frames):
                    self._scheduler.acknowledge(stream, frames)
                case Admit(stream):
                    utterance = stream.utterance
                    priority = RowPriority(utterance.plays_at_s, utterance.batch, utterance.frame_s)
                    self._scheduler.admit(stream, priority)
                case Release(stream):
                    self._release(stream)
                    self._metrics.slots_used.set(self._scheduler.busy_slots)
                    self._output.released(stream)
                case Ping(answer):
                    answer()
                case Stop():
                    return False

    def _open(self, opening: Sequence[tuple[int, Stream]]) -> None:
        """Open the planned slots; fail and release the utterances that the runner rejects."""
        frame_limits = self._runner.open([(slot, stream.utterance) for slot, stream in opening])
        for (_, stream), max_frames in zip(opening, frame_limits, strict=True):
            if isinstance(max_frames, SpeechError):
                self._scheduler.release(stream)
                self._output.fail(stream, max_frames)
            else:
                self._scheduler.opened(stream, max_frames)

    def _prefill(self) -> list[tuple[int, Stream]]:
        """Run one prefill chunk; return the slots whose prompt is complete."""
        start_s = time.perf_counter()
        prefilled = [(slot, self._scheduler.prefilled(slot)) for slot in self._runner.prefill()]
        self._metrics.prefill_s.observe(time.perf_counter() - start_s)
        return prefilled

    def _step(self, running: Sequence[tuple[int, Stream]]) -> None:
        start_s = time.perf_counter()
        frames = self._runner.step([slot for slot, _ in running])
        self._metrics.step_s.observe(time.perf_counter() - start_s)
        made_at_s = time.monotonic()
        due: list[tuple[Stream, Delivery]] = []
        for (_, stream), frame in zip(running, frames, strict=True):
            if isinstance(frame, SpeechError):
                self._fail(stream, frame)
                continue
            delivery = self._scheduler.account(stream, frame, made_at_s)
            if delivery is None:
                continue
            due.append((stream, delivery))
            if delivery.end is not None:
                self._release(stream)
                self._metrics.utterance_ends.labels(delivery.end).inc()
        self._metrics.frames.inc(sum(isinstance(frame, Frame) for frame in frames))
        if due:
            self._output.deliver(due)

    def _fail(self, stream: Stream, error: SpeechError) -> None:
        """End a row that failed during a step; its held frames are dropped."""
        self._release(stream)
        self._metrics.utterance_ends.labels("failed").inc()
        self._output.fail(stream, error)

    def _release(self, stream: Stream) -> None:
        slot = self._scheduler.release(stream)
        if slot is not None:
            self._runner.close(slot)
