"""Priority under load: who is short of lead runs, who is far ahead waits, nobody starves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.engine.scheduler import (
    MAX_STEPS_SKIPPED,
    BufferTargets,
    RowPriority,
    Scheduler,
)
from csm_trio.engine.utterance import Frame
from csm_trio.timebase import FRAME_S

LEADS = BufferTargets(low_s=0.5, high_s=3.0)
BATCH = RowPriority(batch=True)


def frame(index: int) -> Frame:
    return Frame(np.full(1920, 500, np.int16), np.array([index, 1, 2], np.int16))


def scheduler_of(slots: int = 8) -> Scheduler[str]:
    return Scheduler(slots, credit=10_000, max_prefills_per_step=slots, targets=LEADS)


def opened(scheduler: Scheduler[str], *, now_s: float, **claims: RowPriority) -> None:
    for key, priority in claims.items():
        scheduler.admit(key, priority)
    for slot, key in scheduler.next(now_s).open:
        scheduler.opened(key, 100_000)
        scheduler.prefilled(slot)


def run(scheduler: Scheduler[str], now_s: float) -> set[str]:
    return {key for _, key in scheduler.next(now_s).run}


def speak(scheduler: Scheduler[str], key: str, frames: int, now_s: float) -> None:
    for index in range(frames):
        scheduler.account(key, frame(index), now_s)


def test_when_nobody_is_short_everybody_runs() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, near=RowPriority(), far=RowPriority(), work=BATCH)
    speak(scheduler, "near", 10, now_s=0)  # 0.8 s ahead
    speak(scheduler, "far", 60, now_s=0)
    assert run(scheduler, 0.0) == {"near", "far", "work"}


def test_while_a_call_is_short_those_far_ahead_and_batch_work_sit_out() -> None:
    scheduler = scheduler_of()
    opened(
        scheduler,
        now_s=0,
        short=RowPriority(),
        middling=RowPriority(),
        far=RowPriority(),
        work=BATCH,
    )
    speak(scheduler, "short", 5, now_s=0)  # 0.4 s
    speak(scheduler, "middling", 30, now_s=0)  # 2.4 s
    speak(scheduler, "far", 60, now_s=0)  # 4.8 s
    assert run(scheduler, 0.0) == {"short", "middling"}


def test_a_lead_melts_with_time() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, only=RowPriority(), far=RowPriority())
    speak(scheduler, "only", 10, now_s=0)
    speak(scheduler, "far", 80, now_s=0)
    assert run(scheduler, 0.2) == {"only", "far"}
    assert run(scheduler, 0.4) == {"only"}  # 0.4 s are left of 0.8


def test_a_call_without_its_first_frame_is_the_shortest_of_all() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, new=RowPriority(), far=RowPriority())
    speak(scheduler, "far", 60, now_s=0)
    assert run(scheduler, 0.0) == {"new"}


def test_a_sentence_after_others_inherits_what_is_still_playing() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=10, later=RowPriority(plays_at_s=14.0), far=RowPriority())
    speak(scheduler, "far", 60, now_s=10)
    assert run(scheduler, 10.0) == {"later", "far"}


def test_a_player_that_ran_dry_goes_on_from_the_next_frame() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, late=RowPriority(), far=RowPriority())
    speak(scheduler, "late", 1, now_s=0)
    speak(scheduler, "late", 12, now_s=100)  # 0.96 s from now, not 100 s behind
    speak(scheduler, "far", 60, now_s=100)
    assert run(scheduler, 100.0) == {"late", "far"}


def test_a_lead_is_counted_as_it_is_played() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, fast=RowPriority(frame_s=FRAME_S / 2), far=RowPriority())
    speak(scheduler, "fast", 10, now_s=0)  # 0.4 s: short; at its own pace it would not be
    speak(scheduler, "far", 60, now_s=0)
    assert run(scheduler, 0.0) == {"fast"}


def test_batch_work_alone_runs_and_makes_nobody_wait() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, one=BATCH, two=BATCH)
    assert run(scheduler, 0.0) == {"one", "two"}
    opened(scheduler, now_s=0, far=RowPriority())
    speak(scheduler, "far", 60, now_s=0)
    assert run(scheduler, 0.0) == {"one", "two", "far"}


def test_batch_work_does_not_starve_behind_an_endless_shortage() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, short=RowPriority(), work=BATCH)
    took_part = ["work" in run(scheduler, float(step)) for step in range(3 * MAX_STEPS_SKIPPED + 3)]
    assert took_part.count(True) == 3
    assert took_part.index(True) <= MAX_STEPS_SKIPPED


@given(
    targets=st.lists(st.integers(0, 80), min_size=1, max_size=8),
    batch=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_whoever_is_short_always_runs(targets: list[int], batch: list[bool]) -> None:
    scheduler = scheduler_of()
    claims = {f"row{i}": RowPriority(batch=batch[i]) for i in range(len(targets))}
    opened(scheduler, now_s=0, **claims)
    for key, frames in zip(claims, targets, strict=True):
        speak(scheduler, key, frames, now_s=0)
    running = run(scheduler, 0.0)
    assert running
    for key, frames in zip(claims, targets, strict=True):
        if not claims[key].batch and frames * FRAME_S <= LEADS.high_s:
            assert key in running
