"""Delivery of frames: singly below low water, in frame batches from there on."""

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

TARGETS = BufferTargets(low_s=0.5, high_s=3.0)
PCM = np.full(1_920, 5_000, np.int16)


def frame(index: int) -> Frame:
    return Frame(PCM, np.array([index % 30_000], np.int16))


def prefill_all(scheduler: Scheduler[str]) -> None:
    for slot, key in scheduler.next(0.0).open:
        scheduler.opened(key, 10_000)
        scheduler.prefilled(slot)


def opened(priority: RowPriority | None = None, *, credit: int = CREDIT_FRAMES) -> Scheduler[str]:
    scheduler = Scheduler[str](1, credit=credit, targets=TARGETS)
    scheduler.admit("a", priority or RowPriority())
    prefill_all(scheduler)
    return scheduler


def sizes(scheduler: Scheduler[str], frames: int, *, every_s: float = 0.0) -> list[int]:
    """Return how many frames are delivered after each one made; all are acknowledged at once."""
    found: list[int] = []
    for index in range(frames):
        delivery = scheduler.account("a", frame(index), index * every_s)
        found.append(len(delivery.frames) if delivery else 0)
        scheduler.acknowledge("a", found[-1])
    return found


def test_frame_batches_grow_with_the_playback_buffer() -> None:
    """One frame below low water (0.5 s), then three, and six from 1 s on."""
    assert sizes(opened(), 31) == [1] * 7 + [0, 0, 3] * 2 + [0, 0, 0, 0, 0, 6] * 3


def test_below_low_water_every_frame_is_delivered_at_once() -> None:
    assert sizes(opened(), 50, every_s=FRAME_S) == [1] * 50


def test_audio_that_still_plays_counts_for_the_first_frame() -> None:
    assert (
        sizes(opened(RowPriority(plays_at_s=0.9)), 12) == [0, 0, 3] + [0, 0, 0, 0, 0, 6] + [0] * 3
    )
    assert sizes(opened(RowPriority(plays_at_s=2.0)), 6) == [0, 0, 0, 0, 0, 6]


def test_held_frames_are_delivered_below_low_water() -> None:
    scheduler = opened(RowPriority(plays_at_s=1.0))
    assert scheduler.account("a", frame(0), 0.45) is None
    delivery = scheduler.account("a", frame(1), 0.55)
    assert delivery is not None
    assert len(delivery.frames) == 2


@pytest.mark.parametrize("held", range(MAX_BATCH_FRAMES))
def test_the_end_delivers_held_frames(held: int) -> None:
    scheduler = opened(RowPriority(plays_at_s=9.0))
    made = [frame(index) for index in range(held)]
    assert [scheduler.account("a", each, 0.0) for each in made] == [None] * held
    assert scheduler.account("a", None, 0.0) == Delivery(tuple(made), EndReason.SPOKEN)


def test_a_row_without_credit_holds_no_frames() -> None:
    scheduler = opened(RowPriority(plays_at_s=9.0), credit=2)
    assert scheduler.account("a", frame(0), 0.0) is None
    delivery = scheduler.account("a", frame(1), 0.0)
    assert delivery is not None
    assert len(delivery.frames) == 2
    assert scheduler.idle


def test_a_release_discards_held_frames() -> None:
    scheduler = opened(RowPriority(plays_at_s=9.0))
    assert scheduler.account("a", frame(0), 0.0) is None
    scheduler.release("a")
    scheduler.admit("a")
    prefill_all(scheduler)
    later = frame(1)
    assert scheduler.account("a", later, 0.0) == Delivery((later,))


@given(gaps_s=st.lists(st.floats(0.0, 0.4), min_size=1, max_size=80))
def test_held_frames_cause_no_underrun_at_any_pace_of_steps(
    gaps_s: list[float],
) -> None:
    """Every gap between steps is below low water."""
    scheduler, at_once, held_back = opened(), Player(), Player()
    order: list[int] = []
    now_s = 0.0
    for index, gap_s in enumerate(gaps_s):
        now_s += gap_s
        at_once.feed(FRAME_S, now_s)
        last = index == len(gaps_s) - 1
        delivery = scheduler.account("a", frame(index), now_s)
        if last and delivery is None:
            delivery = scheduler.account("a", None, now_s)
        if delivery is not None:
            held_back.feed(len(delivery.frames) * FRAME_S, now_s)
            scheduler.acknowledge("a", len(delivery.frames))
            order += [int(each.codes[0]) for each in delivery.frames]
    assert order == list(range(len(gaps_s)))
    assert held_back.underrun_s == pytest.approx(at_once.underrun_s)
    assert held_back.ends_at_s == pytest.approx(at_once.ends_at_s)


@dataclass(eq=False)
class SimulatedCall:
    """A load-test call: a player that gets one utterance after another."""

    rng: random.Random
    requested_s: float
    frames_left: int = 0
    player: Player = field(default_factory=Player)


@dataclass
class Simulation:
    """Calls on a device with an H100's times: `4.9 + 0.027 rows` ms a step, 2 ms a prefill."""

    calls: int
    scheduler: Scheduler[SimulatedCall] = field(init=False)
    now_s: float = 0.0
    made: "count[int]" = field(default_factory=count)
    first_audio_s: list[float] = field(default_factory=list)
    underruns_s: list[float] = field(default_factory=list)
    frame_batches: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.calls, max_prefills_per_step=8, targets=TARGETS)
        generators = (random.Random(index) for index in range(self.calls))
        # All calls begin within two seconds; pauses between utterances are 1 s on average.
        self.waiting = [SimulatedCall(rng, rng.uniform(0, 2)) for rng in generators]

    def run(self, for_s: float) -> None:
        while self.now_s < for_s:
            for call in [call for call in self.waiting if call.requested_s <= self.now_s]:
                self.waiting.remove(call)
                self.scheduler.admit(call)
            plan = self.scheduler.next(self.now_s)
            for slot, call in plan.open:
                call.frames_left = call.rng.randint(10, 90)
                self.scheduler.opened(call, 1_000)
                self.scheduler.prefilled(slot)
            running = [*plan.run, *plan.open]
            self.now_s += 0.002 * bool(plan.open) + 0.0049 + 0.000027 * len(running)
            for _, call in running:
                self.make_frame(call)

    def make_frame(self, call: SimulatedCall) -> None:
        call.frames_left -= 1
        made = frame(next(self.made)) if call.frames_left >= 0 else None
        delivery = self.scheduler.account(call, made, self.now_s)
        if delivery is None:
            return
        self.frame_batches[len(delivery.frames)] += 1
        if delivery.frames:
            if call.player.first_at_s is None:
                self.first_audio_s.append(self.now_s - call.requested_s)
            call.player.feed(len(delivery.frames) * FRAME_S, self.now_s)
            self.scheduler.acknowledge(call, len(delivery.frames))
        if delivery.end is not None:
            self.scheduler.release(call)
            self.underruns_s.append(call.player.worst_underrun_s)
            pause_s = call.rng.expovariate(1.0)
            self.waiting.append(SimulatedCall(call.rng, call.player.ends_at_s + pause_s))


@pytest.mark.parametrize("calls", [64, 256, 512])
def test_an_h100_keeps_up_with_paced_calls(calls: int) -> None:
    simulation = Simulation(calls)
    simulation.run(10.0)
    waits_s = sorted(simulation.first_audio_s)
    assert len(waits_s) > calls
    assert waits_s[len(waits_s) * 95 // 100] < 0.150
    assert max(simulation.underruns_s) <= 0.1
    frames = sum(size * frame_batches for size, frame_batches in simulation.frame_batches.items())
    assert frames / sum(simulation.frame_batches.values()) > 2.0
