"""Continuous batching: which slots open, which rows run the next step, when frames are delivered.

Pure: no clock, no thread, no torch, no Trio.

The owner chooses a key for each row. Only the device thread uses a scheduler, so it has no lock.
The owner keeps at most `slots` keys admitted and not yet released.

A row's playback buffer is the audio that its client has and has not played: the audio made less
the time since playback began, in seconds. It decides only under load: a step is faster with fewer
rows, so while a live row's buffer is below low water, rows above high water and batch work skip
steps.

A row whose buffer is above low water delivers several frames as one frame batch: the event loop's
cost is per delivery, not per frame.
"""

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from csm_trio.engine.runaway import RunawayGuard
from csm_trio.engine.utterance import (
    MAX_BATCH_FRAMES,
    SMALL_BATCH_FRAMES,
    EndReason,
    Frame,
    FrameBatch,
    StepResult,
    Utterance,
    buffer_empty_after,
)
from csm_trio.errors import SpeechError
from csm_trio.timebase import FRAME_S

CREDIT_FRAMES = 25
"""Maximum of a row's frames that its reader has not acknowledged: 2 s of audio."""

Key = TypeVar("Key", bound=Hashable)


class Runner(Protocol):
    """The source of frames: the torch runner, or a test's double."""

    @property
    def slots(self) -> int:
        """How many utterances it can generate at once."""

    @property
    def max_prefills_per_step(self) -> int:
        """How many utterances may begin between two steps."""

    def open(self, batch: Sequence[tuple[int, Utterance]]) -> Sequence[int | SpeechError]:
        """Open free slots for utterances; return each one's `max_frames`, or its error.

        The slot of a rejected utterance stays free. The prompts of the rest wait for `prefill`.
        """

    def prefill(self) -> Sequence[int]:
        """Run one prefill chunk, which takes about as long as one step.

        Return the slots whose prompt is complete now: only those may be stepped.
        """

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        """Make one frame for each of the open slots; None at the end of speech.

        A row that fails gets its error, and affects no other; its slot is to be closed.
        """

    def close(self, slot: int) -> None:
        """Release the slot and its state."""


@dataclass(frozen=True, slots=True)
class StepPlan(Generic[Key]):
    """The slots to open, and then the slots to run one step of.

    An opened slot runs once its prompt is complete (`Scheduler.prefilled`).
    """

    open: tuple[tuple[int, Key], ...]
    run: tuple[tuple[int, Key], ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A frame batch to send to a row's reader now; with `end`, it is the last."""

    frames: FrameBatch
    end: EndReason | None = None


@dataclass(frozen=True, slots=True)
class BufferTargets:
    """Low and high water of a playback buffer, in seconds of audio."""

    low_s: float = 0.5
    high_s: float = 3.0


@dataclass(frozen=True, slots=True)
class RowPriority:
    """How urgent a row is.

    `plays_at_s` is when its first frame is due, on the owner's clock, where earlier audio is
    still playing; None where playback begins with it. `batch` work has no deadline. `frame_s` is
    how long a frame plays.
    """

    plays_at_s: float | None = None
    batch: bool = False
    frame_s: float = FRAME_S


LIVE_PRIORITY = RowPriority()
FAR_AHEAD_S = 1.0
"""Playback buffer from which on the largest frame batches are delivered."""
MAX_STEPS_SKIPPED = 8
"""Maximum of consecutive steps that a runnable row skips: no row starves."""


@dataclass(slots=True)
class _Row:
    """A row's slot and playback buffer.

    `buffer_empty_at_s` is when the player has played all delivered frames, None before the first;
    `held` frames are made and not yet delivered.
    """

    slot: int
    batch: bool
    buffer_empty_at_s: float | None
    frame_s: float
    prefilling: bool = True
    guard: RunawayGuard | None = None
    held: list[Frame] = field(default_factory=list)
    in_flight: int = 0
    steps_skipped: int = 0

    def delivered_buffer_s(self, now_s: float) -> float:
        """Return the buffer level of the delivered frames; minus infinity before the first.

        So a row's first frame is the most urgent (TTFA).
        """
        return -math.inf if self.buffer_empty_at_s is None else self.buffer_empty_at_s - now_s

    def buffer_s(self, now_s: float) -> float:
        """Return the buffer level including frames held back but not yet delivered."""
        return self.delivered_buffer_s(now_s) + len(self.held) * self.frame_s

    def deliver(self, now_s: float, end: EndReason | None) -> Delivery:
        """Return all held frames as a delivery, and count them as played from now on."""
        frames = tuple(self.held)
        self.held.clear()
        if frames:
            self.buffer_empty_at_s = buffer_empty_after(
                self.buffer_empty_at_s, now_s, len(frames) * self.frame_s
            )
        return Delivery(frames, end)


class Scheduler(Generic[Key]):
    """The slots, their rows, and each row's playback buffer."""

    def __init__(
        self,
        slots: int,
        *,
        credit: int = CREDIT_FRAMES,
        max_prefills_per_step: int = 1,
        targets: BufferTargets | None = None,
    ) -> None:
        self._free = deque(range(slots))
        self._waiting: dict[Key, RowPriority] = {}
        self._targets = targets or BufferTargets()
        self._rows: dict[Key, _Row] = {}
        self._credit = credit
        self._max_prefills_per_step = max_prefills_per_step
        self._prefilling: dict[int, Key] = {}

    @property
    def busy_slots(self) -> int:
        """How many slots hold an utterance."""
        return len(self._rows)

    @property
    def prefilling(self) -> bool:
        """Whether a slot's prompt is incomplete."""
        return bool(self._prefilling)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do before the next command."""
        if self._waiting or self._prefilling:
            return False
        return not any(self._may_run(row) for row in self._rows.values())

    def admit(self, key: Key, priority: RowPriority = LIVE_PRIORITY) -> None:
        """Queue an utterance; it gets a slot in the order of arrival."""
        assert key not in self._rows, "a row was admitted twice"
        self._waiting[key] = priority

    def acknowledge(self, key: Key, frames: int) -> None:
        """Record that the reader took so many frames of this row."""
        row = self._rows.get(key)
        if row is not None:
            row.in_flight -= frames

    def release(self, key: Key) -> int | None:
        """Release a row, waiting or running, and its held frames; return the freed slot, if any."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._prefilling.pop(row.slot, None)
            self._free.append(row.slot)
            return row.slot
        self._waiting.pop(key, None)
        return None

    def next(self, now_s: float) -> StepPlan[Key]:
        """Plan the next step, at `now_s` of the owner's clock.

        At most `max_prefills_per_step` slots open between two steps, so that a burst of arrivals
        delays running rows by one prefill chunk. A row without credit costs no step. While a live
        row is below low water or in prefill, rows above high water and batch work skip steps;
        otherwise every row runs.
        """
        opening: list[tuple[int, Key]] = []
        while self._waiting and self._free and len(opening) < self._max_prefills_per_step:
            key = next(iter(self._waiting))
            priority, slot = self._waiting.pop(key), self._free.popleft()
            self._rows[key] = _Row(slot, priority.batch, priority.plays_at_s, priority.frame_s)
            self._prefilling[slot] = key
            opening.append((slot, key))
        runnable = [(key, row) for key, row in self._rows.items() if self._may_run(row)]
        urgent = [row for _, row in runnable] + [
            self._rows[key] for key in self._prefilling.values()
        ]
        low = any(not row.batch and row.buffer_s(now_s) < self._targets.low_s for row in urgent)
        running = [
            (row.slot, key) for key, row in runnable if not low or self._runs_while_low(row, now_s)
        ]
        running.sort(key=itemgetter(0))
        return StepPlan(tuple(opening), tuple(running))

    def _runs_while_low(self, row: _Row, now_s: float) -> bool:
        """Return whether a row runs this step, while some live row is below low water."""
        may_skip = row.batch or row.buffer_s(now_s) > self._targets.high_s
        row.steps_skipped = row.steps_skipped + 1 if may_skip else 0
        if row.steps_skipped <= MAX_STEPS_SKIPPED:
            return not may_skip
        row.steps_skipped = 0
        return True

    def opened(self, key: Key, max_frames: int) -> None:
        """Record that a planned slot is open, and its utterance's maximum of frames."""
        self._rows[key].guard = RunawayGuard(max_frames)

    def prefilled(self, slot: int) -> Key:
        """Record that a slot's prompt is complete: it runs from now on. Return its key."""
        key = self._prefilling.pop(slot)
        self._rows[key].prefilling = False
        return key

    def account(self, key: Key, frame: Frame | None, now_s: float) -> Delivery | None:
        """Record a row's new frame, or its end of speech; return what to deliver now, if anything.

        A frame is held back while the delivered buffer is at low water or above and the frame
        batch is not full. A row that stops here, at its end or without credit, holds nothing.
        """
        row = self._rows[key]
        if frame is None:
            return row.deliver(now_s, EndReason.SPOKEN)
        row.in_flight += 1
        row.held.append(frame)
        assert row.guard is not None, "a row ran before it was opened"
        end = row.guard.observe(frame)
        if end is None and self._may_hold(row, now_s):
            return None
        return row.deliver(now_s, end)

    def _may_hold(self, row: _Row, now_s: float) -> bool:
        buffer_s = row.delivered_buffer_s(now_s)
        limit = MAX_BATCH_FRAMES if buffer_s >= FAR_AHEAD_S else SMALL_BATCH_FRAMES
        return len(row.held) < limit and buffer_s >= self._targets.low_s and self._may_run(row)

    def _may_run(self, row: _Row) -> bool:
        return not row.prefilling and row.in_flight < self._credit
