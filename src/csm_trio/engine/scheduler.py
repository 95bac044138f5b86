"""Which slots open, which run the next step, and when frames are handed over.

Pure: no clock, no thread, no torch, no trio.

A row is known by a key of its owner's choosing. Only the device loop calls this, so it has no
lock. The owner's promise: at most `slots` keys are admitted and not yet released.

A row's lead is the time until its listener's player runs dry: the audio made less the time since
playback began. It matters only under load, when somebody is short of it: a step is faster the
fewer rows it has, so those who are far ahead, and those nobody waits for, sit it out.

A row whose listener is not short hands its frames over a few at a time, since what an event loop
does for a frame it does for a bunch at the same price.
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
    EndReason,
    Frame,
    FrameBatch,
    Utterance,
    buffer_empty_after,
)
from csm_trio.errors import SpeechError
from csm_trio.timebase import FRAME_S

CREDIT_FRAMES = 25
"""How far a row may run ahead of its listener: 2 s of audio."""

Key = TypeVar("Key", bound=Hashable)


class Runner(Protocol):
    """What makes the frames: the torch runner, or a test's double."""

    @property
    def slots(self) -> int:
        """How many utterances it can speak at once."""

    @property
    def max_prefills_per_step(self) -> int:
        """How many utterances may begin between two steps."""

    def open(self, batch: Sequence[tuple[int, Utterance]]) -> Sequence[int | SpeechError]:
        """Begin utterances in free slots; return how many frames there is room for in each.

        An utterance that cannot be said gets its error instead; its slot then stays free. The
        others' prompts wait for `prefill`.
        """

    def prefill(self) -> Sequence[int]:
        """Work on the prompts of open slots, for about the time of one step.

        Return the slots whose prompts are in by now: only those may be stepped.
        """

    def step(self, slots: Sequence[int]) -> Sequence[Frame | None]:
        """Make one frame for each of the open slots; None where the speech has ended."""

    def close(self, slot: int) -> None:
        """Forget what the slot held."""


@dataclass(frozen=True, slots=True)
class StepPlan(Generic[Key]):
    """What to do next: open these slots, then run one step of those.

    A slot that is opened runs once its prompt is in (`Scheduler.filled`).
    """

    open: tuple[tuple[int, Key], ...]
    run: tuple[tuple[int, Key], ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a row's listener is to be given now; with `end`, nothing comes after it."""

    frames: FrameBatch
    end: EndReason | None = None


@dataclass(frozen=True, slots=True)
class BufferTargets:
    """When a row is short (`low_s`), and when it is far enough ahead to wait (`high_s`)."""

    low_s: float = 0.5
    high_s: float = 3.0


@dataclass(frozen=True, slots=True)
class RowPriority:
    """What a row's owner says of its urgency.

    `plays_at_s` is when its first frame is due, on the owner's clock, where earlier audio is
    still playing; None where playback begins with it. `batch` work has no listener who waits.
    `frame_s` is how long a frame plays.
    """

    plays_at_s: float | None = None
    batch: bool = False
    frame_s: float = FRAME_S


LIVE_PRIORITY = RowPriority()
MAX_STEPS_SKIPPED = 8
"""Steps in a row that a runnable row may be passed over: nobody starves."""


@dataclass(slots=True)
class _Row:
    """`due_s` is when the player runs dry of what was handed over; `held` comes on top of it."""

    slot: int
    batch: bool
    due_s: float | None
    frame_s: float
    prefilling: bool = True
    guard: RunawayGuard | None = None
    held: list[Frame] = field(default_factory=list)
    in_flight: int = 0
    steps_skipped: int = 0

    def delivered_buffer_s(self, now_s: float) -> float:
        """Tell how long the listener's player will not run dry; less than nothing before it began.

        First frames come first.
        """
        return -math.inf if self.due_s is None else self.due_s - now_s

    def buffer_s(self, now_s: float) -> float:
        """Tell the same for when it has been given what is held, too."""
        return self.delivered_buffer_s(now_s) + len(self.held) * self.frame_s

    def deliver(self, now_s: float, end: EndReason | None) -> Delivery:
        """Let go of what is held."""
        frames = tuple(self.held)
        self.held.clear()
        if frames:
            self.due_s = buffer_empty_after(self.due_s, now_s, len(frames) * self.frame_s)
        return Delivery(frames, end)


class Scheduler(Generic[Key]):
    """Slots, whose they are, and how far each is ahead of its listener."""

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
        """Whether a prompt is on its way into a slot."""
        return bool(self._prefilling)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until someone sends a command."""
        if self._waiting or self._prefilling:
            return False
        return not any(self._may_run(row) for row in self._rows.values())

    def admit(self, key: Key, priority: RowPriority = LIVE_PRIORITY) -> None:
        """Queue an utterance; it gets a slot in the order of arrival."""
        assert key not in self._rows, "a row was admitted twice"
        self._waiting[key] = priority

    def acknowledge(self, key: Key, frames: int) -> None:
        """Note that the listener took so many frames of this row."""
        row = self._rows.get(key)
        if row is not None:
            row.in_flight -= frames

    def release(self, key: Key) -> int | None:
        """Let a row go, wherever it is, and what it holds; return the slot it frees, if any."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._prefilling.pop(row.slot, None)
            self._free.append(row.slot)
            return row.slot
        self._waiting.pop(key, None)
        return None

    def next(self, now_s: float) -> StepPlan[Key]:
        """Plan the next step, at `now_s` of the owner's clock.

        Few slots open between two steps, so that a burst of arrivals delays those who speak by
        one prefill at most; a row without credit costs no step. While a live row is short of
        lead or has its prompt on the way, rows far ahead and batch work sit out; when nobody is
        short, everybody runs.
        """
        opening: list[tuple[int, Key]] = []
        while self._waiting and self._free and len(opening) < self._max_prefills_per_step:
            key = next(iter(self._waiting))
            priority, slot = self._waiting.pop(key), self._free.popleft()
            self._rows[key] = _Row(slot, priority.batch, priority.plays_at_s, priority.frame_s)
            self._prefilling[slot] = key
            opening.append((slot, key))
        able = [(key, row) for key, row in self._rows.items() if self._may_run(row)]
        urgent = [row for _, row in able] + [self._rows[key] for key in self._prefilling.values()]
        short = any(not row.batch and row.buffer_s(now_s) < self._targets.low_s for row in urgent)
        running = [
            (row.slot, key) for key, row in able if not short or self._runs_while_low(row, now_s)
        ]
        running.sort(key=itemgetter(0))
        return StepPlan(tuple(opening), tuple(running))

    def _runs_while_low(self, row: _Row, now_s: float) -> bool:
        """Decide on one row while somebody is short."""
        ahead = row.batch or row.buffer_s(now_s) > self._targets.high_s
        row.steps_skipped = row.steps_skipped + 1 if ahead else 0
        if row.steps_skipped <= MAX_STEPS_SKIPPED:
            return not ahead
        row.steps_skipped = 0
        return True

    def opened(self, key: Key, max_frames: int) -> None:
        """Note that a planned slot is open, with room for so many frames."""
        self._rows[key].guard = RunawayGuard(max_frames)

    def prefilled(self, slot: int) -> Key:
        """Note that a slot's prompt is in: it runs from now on. Return whose it is."""
        key = self._prefilling.pop(slot)
        self._rows[key].prefilling = False
        return key

    def account(self, key: Key, frame: Frame | None, now_s: float) -> Delivery | None:
        """Take note of a row's new frame; say what to hand over now, or None to go on.

        A frame is held back while its listener has `low_s` of audio without it and the bunch
        is not full; never in a row that stops here, by its end or for want of credit.
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
        return (
            len(row.held) < MAX_BATCH_FRAMES
            and row.delivered_buffer_s(now_s) >= self._targets.low_s
            and self._may_run(row)
        )

    def _may_run(self, row: _Row) -> bool:
        return not row.prefilling and row.in_flight < self._credit
