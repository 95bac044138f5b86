"""Priority under load: rows below low water run, rows above high water wait, no row starves."""

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

TARGETS = BufferTargets(low_s=0.5, high_s=3.0)
BATCH = RowPriority(batch=True)


def frame(index: int) -> Frame:
    return Frame(np.full(1920, 500, np.int16), np.array([index, 1, 2], np.int16))


def scheduler_of(slots: int = 8) -> Scheduler[str]:
    return Scheduler(slots, credit=10_000, max_prefills_per_step=slots, targets=TARGETS)


def opened(scheduler: Scheduler[str], *, now_s: float, **priorities: RowPriority) -> None:
    for key, priority in priorities.items():
        scheduler.admit(key, priority)
    for slot, key in scheduler.next(now_s).open:
        scheduler.opened(key, 100_000)
        scheduler.prefilled(slot)


def running(scheduler: Scheduler[str], now_s: float) -> set[str]:
    return {key for _, key in scheduler.next(now_s).run}


def make_frames(scheduler: Scheduler[str], key: str, frames: int, now_s: float) -> None:
    for index in range(frames):
        scheduler.account(key, frame(index), now_s)


def test_without_a_row_below_low_water_every_row_runs() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, near=RowPriority(), high=RowPriority(), work=BATCH)
    make_frames(scheduler, "near", 10, now_s=0)  # 0.8 s of buffer
    make_frames(scheduler, "high", 60, now_s=0)
    assert running(scheduler, 0.0) == {"near", "high", "work"}


def test_below_low_water_rows_above_high_water_and_batch_work_wait() -> None:
    scheduler = scheduler_of()
    opened(
        scheduler,
        now_s=0,
        low=RowPriority(),
        middle=RowPriority(),
        high=RowPriority(),
        work=BATCH,
    )
    make_frames(scheduler, "low", 5, now_s=0)  # 0.4 s
    make_frames(scheduler, "middle", 30, now_s=0)  # 2.4 s
    make_frames(scheduler, "high", 60, now_s=0)  # 4.8 s
    assert running(scheduler, 0.0) == {"low", "middle"}


def test_a_playback_buffer_shrinks_with_time() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, only=RowPriority(), high=RowPriority())
    make_frames(scheduler, "only", 10, now_s=0)
    make_frames(scheduler, "high", 80, now_s=0)
    assert running(scheduler, 0.2) == {"only", "high"}
    assert running(scheduler, 0.4) == {"only"}  # 0.4 s are left of 0.8


def test_a_row_without_its_first_frame_is_below_low_water() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, new=RowPriority(), high=RowPriority())
    make_frames(scheduler, "high", 60, now_s=0)
    assert running(scheduler, 0.0) == {"new"}


def test_audio_that_still_plays_counts_for_the_next_sentence() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=10, later=RowPriority(plays_at_s=14.0), high=RowPriority())
    make_frames(scheduler, "high", 60, now_s=10)
    assert running(scheduler, 10.0) == {"later", "high"}


def test_an_empty_playback_buffer_restarts_at_the_next_frame() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, late=RowPriority(), high=RowPriority())
    make_frames(scheduler, "late", 1, now_s=0)
    make_frames(scheduler, "late", 12, now_s=100)  # 0.96 s from now, not 100 s late
    make_frames(scheduler, "high", 60, now_s=100)
    assert running(scheduler, 100.0) == {"late", "high"}


def test_a_playback_buffer_counts_frames_at_their_tempo() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, fast=RowPriority(frame_s=FRAME_S / 2), high=RowPriority())
    make_frames(scheduler, "fast", 10, now_s=0)  # 0.4 s; 0.8 s without the tempo
    make_frames(scheduler, "high", 60, now_s=0)
    assert running(scheduler, 0.0) == {"fast"}


def test_batch_work_runs_alone_and_beside_rows_with_a_full_buffer() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, one=BATCH, two=BATCH)
    assert running(scheduler, 0.0) == {"one", "two"}
    opened(scheduler, now_s=0, high=RowPriority())
    make_frames(scheduler, "high", 60, now_s=0)
    assert running(scheduler, 0.0) == {"one", "two", "high"}


def test_batch_work_does_not_starve_behind_a_row_below_low_water() -> None:
    scheduler = scheduler_of()
    opened(scheduler, now_s=0, low=RowPriority(), work=BATCH)
    ran = ["work" in running(scheduler, float(step)) for step in range(3 * MAX_STEPS_SKIPPED + 3)]
    assert ran.count(True) == 3
    assert ran.index(True) <= MAX_STEPS_SKIPPED


@given(
    targets=st.lists(st.integers(0, 80), min_size=1, max_size=8),
    batch=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_rows_up_to_high_water_always_run(targets: list[int], batch: list[bool]) -> None:
    scheduler = scheduler_of()
    priorities = {f"row{i}": RowPriority(batch=batch[i]) for i in range(len(targets))}
    opened(scheduler, now_s=0, **priorities)
    for key, frames in zip(priorities, targets, strict=True):
        make_frames(scheduler, key, frames, now_s=0)
    keys = running(scheduler, 0.0)
    assert keys
    for key, frames in zip(priorities, targets, strict=True):
        if not priorities[key].batch and frames * FRAME_S <= TARGETS.high_s:
            assert key in keys
