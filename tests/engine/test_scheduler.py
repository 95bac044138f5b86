"""The scheduler's laws, in every order of admissions, frames, acknowledgements and releases."""

import copy
from collections import deque
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from csm_trio.engine.scheduler import CREDIT_FRAMES, Delivery, Scheduler, StepPlan
from csm_trio.engine.utterance import MAX_BATCH_FRAMES, EndReason, Frame

LONG = 10_000


def frame(index: int = 0) -> Frame:
    return Frame(np.full(1_920, 5_000, dtype=np.int16), np.array([index], dtype=np.int16))


def opened(scheduler: Scheduler[str], *keys: str) -> dict[str, int]:
    """Admit rows and plan until all of them are open; return their slots."""
    slots: dict[str, int] = {}
    for key in keys:
        scheduler.admit(key)
    while len(slots) < len(keys):
        for slot, key in scheduler.next(0.0).open:
            scheduler.opened(key, LONG)
            assert scheduler.prefilled(slot) == key
            slots[key] = slot
    return slots


def running(plan: StepPlan[str]) -> list[str]:
    return [key for _, key in plan.run]


def test_a_row_runs_once_its_prompt_is_complete() -> None:
    scheduler = Scheduler[str](2)
    scheduler.admit("a")
    assert scheduler.next(0.0) == StepPlan(open=((0, "a"),), run=())
    scheduler.opened("a", LONG)
    assert scheduler.prefilling
    assert not scheduler.idle
    assert scheduler.next(0.0) == StepPlan((), ())
    assert scheduler.prefilled(0) == "a"
    assert not scheduler.prefilling
    assert scheduler.next(0.0) == StepPlan((), ((0, "a"),))


def test_a_row_released_during_prefill_leaves_a_free_slot() -> None:
    scheduler = Scheduler[str](1)
    scheduler.admit("a")
    scheduler.next(0.0)
    scheduler.opened("a", LONG)
    assert scheduler.release("a") == 0
    assert not scheduler.prefilling
    assert scheduler.idle
    assert opened(scheduler, "b") == {"b": 0}


def test_an_idle_scheduler_plans_nothing() -> None:
    scheduler = Scheduler[str](2)
    assert scheduler.idle
    assert scheduler.next(0.0) == StepPlan((), ())


@pytest.mark.parametrize(("max_prefills_per_step", "plans"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_a_burst_opens_in_order_up_to_the_limit_per_step(
    max_prefills_per_step: int, plans: int
) -> None:
    scheduler = Scheduler[str](4, max_prefills_per_step=max_prefills_per_step)
    for key in "abcd":
        scheduler.admit(key)
    order: list[str] = []
    for _ in range(plans):
        found = scheduler.next(0.0).open
        assert 1 <= len(found) <= max_prefills_per_step
        order += [key for _, key in found]
    assert order == list("abcd")
    assert scheduler.next(0.0).open == ()


def test_a_burst_of_arrivals_does_not_stop_a_running_row() -> None:
    scheduler = Scheduler[str](8)
    opened(scheduler, "early")
    for key in "abcdefg":
        scheduler.admit(key)
    for plans in range(1, 8):
        plan = scheduler.next(0.0)
        assert len(plan.open) == 1
        assert "early" in running(plan)
        assert len(plan.run) == plans
        ((slot, key),) = plan.open
        scheduler.opened(key, LONG)
        scheduler.prefilled(slot)


def test_a_row_stops_at_its_credit_and_runs_again_after_an_acknowledgement() -> None:
    scheduler = Scheduler[str](1)
    opened(scheduler, "a")
    for index in range(CREDIT_FRAMES):
        assert running(scheduler.next(0.0)) == ["a"]
        scheduler.account("a", frame(index), 0.0)
    assert scheduler.idle
    assert running(scheduler.next(0.0)) == []
    scheduler.acknowledge("a", 1)
    assert not scheduler.idle
    assert running(scheduler.next(0.0)) == ["a"]
    scheduler.account("a", frame(CREDIT_FRAMES), 0.0)
    assert scheduler.idle


def test_a_row_without_credit_does_not_stop_other_rows() -> None:
    scheduler = Scheduler[str](2, credit=1)
    opened(scheduler, "stalled", "reading")
    scheduler.account("stalled", frame(), 0.0)
    for index in range(5):
        assert running(scheduler.next(0.0)) == ["reading"]
        scheduler.account("reading", frame(index), 0.0)
        scheduler.acknowledge("reading", 1)


def test_rows_run_in_the_order_of_their_slots() -> None:
    scheduler = Scheduler[str](3)
    slots = opened(scheduler, "a", "b", "c")
    scheduler.release("a")
    slots |= opened(scheduler, "d")
    plan = scheduler.next(0.0)
    assert [slot for slot, _ in plan.run] == [0, 1, 2]
    assert {key: slot for slot, key in plan.run} == {key: slots[key] for key in "bcd"}


def test_a_release_returns_the_freed_slot_once() -> None:
    scheduler = Scheduler[str](2)
    slots = opened(scheduler, "a", "b")
    assert scheduler.release("b") == slots["b"]
    assert scheduler.release("b") is None
    assert scheduler.busy_slots == 1


def test_a_row_released_while_waiting_never_opens() -> None:
    scheduler = Scheduler[str](2)
    for key in "ab":
        scheduler.admit(key)
    assert scheduler.release("a") is None
    assert scheduler.next(0.0).open == ((0, "b"),)
    assert scheduler.next(0.0).open == ()


def test_frames_of_a_released_row_may_be_acknowledged() -> None:
    scheduler = Scheduler[str](1)
    opened(scheduler, "a")
    scheduler.account("a", frame(), 0.0)
    scheduler.release("a")
    scheduler.acknowledge("a", 1)
    assert scheduler.idle


def test_an_utterance_ends_without_a_frame_or_at_its_maximum() -> None:
    scheduler = Scheduler[str](2)
    opened(scheduler, "a")
    scheduler.admit("b")
    ((slot, _),) = scheduler.next(0.0).open
    scheduler.opened("b", 2)
    scheduler.prefilled(slot)
    made = [frame(index) for index in range(3)]
    assert scheduler.account("a", made[0], 0.0) == Delivery((made[0],))
    assert scheduler.account("a", None, 0.0) == Delivery((), EndReason.SPOKEN)
    assert scheduler.account("b", made[1], 0.0) == Delivery((made[1],))
    assert scheduler.account("b", made[2], 0.0) == Delivery((made[2],), EndReason.CAPPED)


@dataclass
class Row:
    slot: int
    in_flight: int = 0
    frames: int = 0
    delivered: int = 0
    prefilling: bool = True

    @property
    def held(self) -> int:
        return self.frames - self.delivered


class SchedulerLaws(RuleBasedStateMachine):
    """A simple model of the scheduler beside the real one; at most `slots` keys are admitted."""

    @initialize(
        slots=st.integers(1, 5), credit=st.integers(1, 4), max_prefills_per_step=st.integers(1, 3)
    )
    def begin(self, slots: int, credit: int, max_prefills_per_step: int) -> None:
        self.scheduler = Scheduler[int](
            slots, credit=credit, max_prefills_per_step=max_prefills_per_step
        )
        self.slots, self.credit, self.max_prefills_per_step = slots, credit, max_prefills_per_step
        self.waiting: deque[int] = deque()
        self.rows: dict[int, Row] = {}
        self.released: list[int] = []
        self.admitted = 0
        self.now_s = 0.0

    @property
    def live(self) -> list[int]:
        return [*self.waiting, *self.rows]

    def release(self, key: int) -> None:
        """Release a row in both, and check that they agree on its slot."""
        row = self.rows.pop(key, None)
        if row is None and key in self.waiting:
            self.waiting.remove(key)
        assert self.scheduler.release(key) == (None if row is None else row.slot)
        self.released.append(key)

    @precondition(lambda self: len(self.live) < self.slots)
    @rule(burst=st.integers(1, 5))
    def admit(self, burst: int) -> None:
        for _ in range(min(burst, self.slots - len(self.live))):
            self.scheduler.admit(self.admitted)
            self.waiting.append(self.admitted)
            self.admitted += 1

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        self.now_s += data.draw(st.floats(0.0, 0.2), label="took")
        plan = self.scheduler.next(self.now_s)
        assert len(plan.open) <= self.max_prefills_per_step
        if self.waiting and len(self.rows) < self.slots:
            assert plan.open, "a slot is free and a row waits"
        for slot, key in plan.open:
            assert key == self.waiting.popleft(), "not in the order of arrival"
            assert key not in self.rows
            assert 0 <= slot < self.slots
            assert slot not in {row.slot for row in self.rows.values()}, "the slot is taken"
            self.rows[key] = Row(slot)
        may_run = {
            (row.slot, key)
            for key, row in self.rows.items()
            if row.in_flight < self.credit and not row.prefilling
        }
        assert set(plan.run) == may_run
        assert len(plan.run) == len(may_run)
        rejected = [key for _, key in plan.open if data.draw(st.booleans(), label="rejected")]
        for _, key in plan.open:
            if key not in rejected:
                self.scheduler.opened(key, LONG)
        for key in rejected:
            self.release(key)
        assert self.scheduler.prefilling == any(row.prefilling for row in self.rows.values())
        for _, key in [*plan.run, *self.prefill_all(data)]:
            if key not in rejected:
                self.run_row(key, ends=data.draw(st.integers(0, 9), label="ends at 0") == 0)

    def prefill_all(self, data: st.DataObject) -> list[tuple[int, int]]:
        """Complete some of the incomplete prompts."""
        prefilled = []
        for key, row in self.rows.items():
            if row.prefilling and data.draw(st.booleans(), label="prefilled"):
                assert self.scheduler.prefilled(row.slot) == key
                row.prefilling = False
                prefilled.append((row.slot, key))
        return prefilled

    def run_row(self, key: int, *, ends: bool) -> None:
        """Make a frame; a delivery has all held frames, in order."""
        row = self.rows[key]
        made = None if ends else frame(row.frames)
        row.frames += not ends
        row.in_flight += not ends
        delivery = self.scheduler.account(key, made, self.now_s)
        if delivery is not None:
            order = [int(each.codes[0]) for each in delivery.frames]
            assert order == list(range(row.delivered, row.frames))
            assert delivery.end is (EndReason.SPOKEN if ends else None)
            row.delivered = row.frames
        assert row.held < MAX_BATCH_FRAMES
        assert not row.held or row.in_flight < self.credit, (
            "frames are held in a row without credit"
        )
        if ends:
            assert not row.held, "held frames were lost at the end"
            self.release(key)

    @precondition(lambda self: any(row.in_flight > row.held for row in self.rows.values()))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        unacknowledged = [key for key, row in self.rows.items() if row.in_flight > row.held]
        key = data.draw(st.sampled_from(unacknowledged))
        row = self.rows[key]
        frames = data.draw(st.integers(1, row.in_flight - row.held), label="acknowledged")
        self.scheduler.acknowledge(key, frames)
        row.in_flight -= frames

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def acknowledge_and_release_a_released_row(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.released))
        self.scheduler.acknowledge(key, 1)
        assert self.scheduler.release(key) is None

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.release(data.draw(st.sampled_from(self.live)))

    @invariant()
    def busy_slots_are_those_with_a_row(self) -> None:
        assert self.scheduler.busy_slots == len(self.rows)

    @invariant()
    def idle_equals_an_empty_next_plan(self) -> None:
        plan = copy.deepcopy(self.scheduler).next(self.now_s)
        is_empty = plan == StepPlan((), ()) and not self.scheduler.prefilling
        assert self.scheduler.idle == is_empty

    def teardown(self) -> None:
        """Check that no slot is lost: each is taken or free."""
        if not hasattr(self, "scheduler"):
            return
        found = {row.slot for row in self.rows.values()}
        for key in list(self.waiting):
            self.release(key)
        for key in range(self.admitted, self.admitted + self.slots - len(self.rows)):
            self.scheduler.admit(key)
        while plan := self.scheduler.next(self.now_s).open:
            assert found.isdisjoint(slot for slot, _ in plan)
            found |= {slot for slot, _ in plan}
        assert found == set(range(self.slots))


TestSchedulerLaws = SchedulerLaws.TestCase
TestSchedulerLaws.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
