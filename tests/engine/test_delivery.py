"""When frames are handed over: one at a time to whoever is short, a few at a time to the rest."""

import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.bench.load.call import Player
from csm_trio.engine.scheduler import CREDIT_FRAMES, BufferTargets, Delivery, RowPriority, Scheduler
from csm_trio.engine.utterance import MAX_BATCH_FRAMES, EndReason, Frame
from csm_trio.timebase import FRAME_S

LEADS = BufferTargets(low_s=0.5, high_s=3.0)
SOUND = np.full(1_920, 5_000, np.int16)


def frame(index: int) -> Frame:
    return Frame(SOUND, np.array([index % 30_000], np.int16))


def prefill_all(scheduler: Scheduler[str]) -> None:
    for slot, key in scheduler.next(0.0).open:
        scheduler.opened(key, 10_000)
        scheduler.prefilled(slot)


def opened(priority: RowPriority | None = None, *, credit: int = CREDIT_FRAMES) -> Scheduler[str]:
    scheduler = Scheduler[str](1, credit=credit, targets=LEADS)
    scheduler.admit("a", priority or RowPriority())
    prefill_all(scheduler)
    return scheduler


def sizes(scheduler: Scheduler[str], frames: int, *, every_s: float = 0.0) -> list[int]:
    """Return how many frames were handed over after each one made; all are taken at once."""
    found: list[int] = []
    for index in range(frames):
        handed = scheduler.account("a", frame(index), index * every_s)
        found.append(len(handed.frames) if handed else 0)
        scheduler.acknowledge("a", found[-1])
    return found


def test_frames_go_one_by_one_until_the_listener_is_ahead_and_then_three_at_a_time() -> None:
    assert sizes(opened(), 16) == [1] * 7 + [0, 0, 3] * 3


def test_a_listener_who_is_never_ahead_gets_every_frame_at_once() -> None:
    assert sizes(opened(), 50, every_s=FRAME_S) == [1] * 50


def test_what_still_plays_counts_from_the_first_frame_on() -> None:
    assert sizes(opened(RowPriority(plays_at_s=2.0)), 6) == [0, 0, 3, 0, 0, 3]


def test_held_frames_go_as_soon_as_the_listener_is_short() -> None:
    scheduler = opened(RowPriority(plays_at_s=1.0))
    assert scheduler.account("a", frame(0), 0.45) is None
    handed = scheduler.account("a", frame(1), 0.55)
    assert handed is not None
    assert len(handed.frames) == 2


@pytest.mark.parametrize("held", range(MAX_BATCH_FRAMES))
def test_the_end_takes_what_is_held_along(held: int) -> None:
    scheduler = opened(RowPriority(plays_at_s=9.0))
    made = [frame(index) for index in range(held)]
    assert [scheduler.account("a", each, 0.0) for each in made] == [None] * held
    assert scheduler.account("a", None, 0.0) == Delivery(tuple(made), EndReason.SPOKEN)


def test_a_row_that_stops_for_want_of_credit_holds_nothing() -> None:
    scheduler = opened(RowPriority(plays_at_s=9.0), credit=2)
    assert scheduler.account("a", frame(0), 0.0) is None
    handed = scheduler.account("a", frame(1), 0.0)
    assert handed is not None
    assert len(handed.frames) == 2
    assert scheduler.idle


def test_a_release_drops_what_is_held() -> None:
    scheduler = opened(RowPriority(plays_at_s=9.0))
    assert scheduler.account("a", frame(0), 0.0) is None
    scheduler.release("a")
    scheduler.admit("a")
    prefill_all(scheduler)
    later = frame(1)
    assert scheduler.account("a", later, 0.0) == Delivery((later,))


@given(gaps_s=st.lists(st.floats(0.0, 0.4), min_size=1, max_size=80))
def test_no_pace_of_steps_makes_a_listener_wait_for_a_frame_that_is_held(
    gaps_s: list[float],
) -> None:
    """No step is later than the target lead: then holding frames back is never heard."""
    scheduler, at_once, held_back = opened(), Player(), Player()
    order: list[int] = []
    now_s = 0.0
    for index, gap_s in enumerate(gaps_s):
        now_s += gap_s
        at_once.feed(FRAME_S, now_s)
        last = index == len(gaps_s) - 1
        handed = scheduler.account("a", frame(index), now_s)
        if last and handed is None:
            handed = scheduler.account("a", None, now_s)
        if handed is not None:
            held_back.feed(len(handed.frames) * FRAME_S, now_s)
            scheduler.acknowledge("a", len(handed.frames))
            order += [int(each.codes[0]) for each in handed.frames]
    assert order == list(range(len(gaps_s)))
    assert held_back.underrun_s == pytest.approx(at_once.underrun_s)
    assert held_back.ends_at_s == pytest.approx(at_once.ends_at_s)


@dataclass(eq=False)
class Call:
    """A listener of one utterance after the other: how long it waited, and what it heard."""

    chance: random.Random
    asked_s: float
    frames_left: int = 0
    player: Player = field(default_factory=Player)


@dataclass
class Simulation:
    """Calls on a device whose step takes `4.9 + 0.027 rows` ms and a prefill 2: an H100's time."""

    calls: int
    scheduler: Scheduler[Call] = field(init=False)
    now_s: float = 0.0
    made: "count[int]" = field(default_factory=count)
    first_audio_s: list[float] = field(default_factory=list)
    underruns_s: list[float] = field(default_factory=list)
    frame_batches: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.calls, max_prefills_per_step=8, targets=LEADS)
        chances = (random.Random(index) for index in range(self.calls))
        # All within two seconds; then one turn after the other, a second's pause between them.
        self.silent = [Call(chance, chance.uniform(0, 2)) for chance in chances]

    def run(self, for_s: float) -> None:
        while self.now_s < for_s:
            for call in [call for call in self.silent if call.asked_s <= self.now_s]:
                self.silent.remove(call)
                self.scheduler.admit(call)
            plan = self.scheduler.next(self.now_s)
            for slot, call in plan.open:
                call.frames_left = call.chance.randint(10, 90)
                self.scheduler.opened(call, 1_000)
                self.scheduler.prefilled(slot)
            running = [*plan.run, *plan.open]
            self.now_s += 0.002 * bool(plan.open) + 0.0049 + 0.000027 * len(running)
            for _, call in running:
                self.make_frame(call)

    def make_frame(self, call: Call) -> None:
        call.frames_left -= 1
        made = frame(next(self.made)) if call.frames_left >= 0 else None
        handed = self.scheduler.account(call, made, self.now_s)
        if handed is None:
            return
        self.frame_batches[len(handed.frames)] += 1
        if handed.frames:
            if call.player.first_at_s is None:
                self.first_audio_s.append(self.now_s - call.asked_s)
            call.player.feed(len(handed.frames) * FRAME_S, self.now_s)
            self.scheduler.acknowledge(call, len(handed.frames))
        if handed.end is not None:
            self.scheduler.release(call)
            self.underruns_s.append(call.player.worst_underrun_s)
            pause_s = call.chance.expovariate(1.0)
            self.silent.append(Call(call.chance, call.player.ends_at_s + pause_s))


@pytest.mark.parametrize("calls", [64, 256, 512])
def test_an_h100_would_keep_up_with_paced_calls(calls: int) -> None:
    simulation = Simulation(calls)
    simulation.run(10.0)
    waits_s = sorted(simulation.first_audio_s)
    assert len(waits_s) > calls
    assert waits_s[len(waits_s) * 95 // 100] < 0.150
    assert max(simulation.underruns_s) <= 0.1
    frames = sum(size * frame_batches for size, frame_batches in simulation.frame_batches.items())
    assert frames / sum(simulation.frame_batches.values()) > 2.0
