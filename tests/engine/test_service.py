"""The engine on a real thread: what is heard, how slots come back, and how it all ends."""

import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csm_trio.engine.scheduler import CREDIT_FRAMES, Runner
from csm_trio.engine.service import Engine, FrameStream, open_engine
from csm_trio.engine.utterance import MAX_BATCH_FRAMES, EndReason, Frame, Utterance
from csm_trio.errors import EngineFailed, StartupError, TextTooLong
from csm_trio.telemetry import Metrics
from support.fakes import RunnerCall, SineRunner, StepGate, sine_frames

GUARD_S = 5


def utterance(text: str, *, speaker_id: int = 0, max_frames: int = 1_000) -> Utterance:
    return Utterance(text, speaker_id, max_frames)


def assert_heard(frames: list[Frame], expected: list[Frame]) -> None:
    assert len(frames) == len(expected)
    for frame, made in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.pcm, made.pcm)
        np.testing.assert_array_equal(frame.codes, made.codes)


def device_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "csm-device"]


@asynccontextmanager
async def engine_of(runner: Runner, metrics: Metrics | None = None) -> AsyncIterator[Engine]:
    """Open an engine on a runner; nothing may take longer than the guard, nor leave a thread."""
    with trio.fail_after(GUARD_S):
        async with open_engine(lambda: runner, metrics or Metrics()) as engine:
            yield engine
    assert device_threads() == []


async def speak(engine: Engine, said: Utterance) -> tuple[list[Frame], EndReason | None]:
    async with engine.generate(said) as stream:
        frames = [frame async for frame_batch in stream for frame in frame_batch]
    return frames, stream.end


async def listen_forever(
    engine: Engine,
    said: Utterance,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Start once there is a slot for it; stop when the scope that `start` returns is cancelled."""
    with trio.CancelScope() as scope:
        async with engine.generate(said) as stream:
            task_status.started(scope)
            async for _ in stream:
                pass


async def test_frames_arrive_in_order_and_as_they_were_made() -> None:
    said = utterance("Nine words make a good deal of frames here.", speaker_id=3)
    async with engine_of(SineRunner(1)) as engine:
        frames, end = await speak(engine, said)
    assert_heard(frames, sine_frames(said))
    assert end is EndReason.SPOKEN


@pytest.mark.parametrize("frames", [0, 1, CREDIT_FRAMES, CREDIT_FRAMES + 1, 200])
async def test_an_utterance_of_any_length_is_heard_whole(frames: int) -> None:
    said = utterance(f"FRAMES={frames}")
    async with engine_of(SineRunner(2)) as engine:
        heard, end = await speak(engine, said)
    assert_heard(heard, sine_frames(said))
    assert end is EndReason.SPOKEN


async def test_the_frame_budget_cuts_and_the_slot_is_as_new_after_it() -> None:
    cut, after = utterance("FRAMES=50", max_frames=7), utterance("And again.")
    async with engine_of(SineRunner(1)) as engine:
        frames, end = await speak(engine, cut)
        assert end is EndReason.CAPPED
        assert_heard(frames, sine_frames(cut))
        frames, end = await speak(engine, after)
        assert end is EndReason.SPOKEN
        assert_heard(frames, sine_frames(after))


async def test_more_utterances_than_slots_all_get_their_own_sound() -> None:
    said = [utterance(f"FRAMES={3 + 7 * n}", speaker_id=n) for n in range(9)]
    heard: dict[int, list[Frame]] = {}
    runner, metrics = SineRunner(2), Metrics()

    async def listen(engine: Engine, n: int) -> None:
        heard[n], _ = await speak(engine, said[n])

    async with engine_of(runner, metrics) as engine:
        async with trio.open_nursery() as nursery:
            for n in range(9):
                nursery.start_soon(listen, engine, n)
        assert engine.borrowed_slots == 0
        assert await engine.responds()
    for n in range(9):
        assert_heard(heard[n], sine_frames(said[n]))
    assert sorted(runner.opens) == sorted(runner.closes)
    assert len(runner.opens) == 9
    sample = metrics.registry.get_sample_value
    assert sample("csm_slots_used") == 0
    assert sample("csm_utterances_waiting") == 0
    assert sample("csm_frames_total") == sum(len(frames) for frames in heard.values())
    assert sample("csm_utterance_ends_total", {"reason": "spoken"}) == 9


async def test_pool_tokens_go_to_those_who_wait_in_order() -> None:
    gate = StepGate()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        for text in ("one", "two", "three", "four"):
            nursery.start_soon(speak, engine, utterance(text))
            await wait_all_tasks_blocked()
        gate.open()
    assert [said.text for said in runner.opened] == ["one", "two", "three", "four"]


async def test_a_cancel_frees_the_slot_before_the_token_and_costs_no_further_step() -> None:
    gate, metrics = StepGate(), Metrics()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner, metrics) as engine, trio.open_nursery() as nursery:
        scope = await nursery.start(listen_forever, engine, utterance("FRAMES=50"))
        await gate.held()
        gate.let_go()
        await gate.held()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert (engine.borrowed_slots, runner.closes) == (1, [])
        nursery.start_soon(speak, engine, utterance("Next in line."))
        await wait_all_tasks_blocked()
        gate.open()
    assert [call for call in runner.calls if call.name != "step"] == [
        RunnerCall(name, (0,)) for name in ("open", "prefill", "close") * 2
    ]
    steps_of_the_first = runner.calls.index(RunnerCall("close", (0,))) - 2
    assert steps_of_the_first == 2, "the step it was in, and the one before"
    assert engine.borrowed_slots == 0
    assert metrics.registry.get_sample_value("csm_slots_used") == 0


async def test_a_cancel_leaves_the_other_rows_alone() -> None:
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    said = utterance("FRAMES=40", speaker_id=1)
    heard: list[Frame] = []

    async def listen(engine: Engine) -> None:
        heard.extend((await speak(engine, said))[0])

    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        scope = await nursery.start(listen_forever, engine, utterance("FRAMES=50"))
        await gate.held()
        nursery.start_soon(listen, engine)
        await wait_all_tasks_blocked()
        gate.let_go(3)
        for _ in range(3):
            await gate.held()
        scope.cancel()
        await wait_all_tasks_blocked()
        gate.open()
    assert_heard(heard, sine_frames(said))
    assert runner.closes == [0, 1]


async def test_a_cancel_while_waiting_for_a_token_leaves_no_trace() -> None:
    gate, metrics = StepGate(), Metrics()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner, metrics) as engine, trio.open_nursery() as nursery:
        await nursery.start(listen_forever, engine, utterance("Holds the slot."))
        async with trio.open_nursery() as waiting:
            waiting.start_soon(speak, engine, utterance("Gives up."))
            await wait_all_tasks_blocked()
            assert metrics.registry.get_sample_value("csm_utterances_waiting") == 1
            waiting.cancel_scope.cancel()
        assert metrics.registry.get_sample_value("csm_utterances_waiting") == 0
        gate.open()
        await speak(engine, utterance("Comes later."))
    assert [said.text for said in runner.opened] == ["Holds the slot.", "Comes later."]
    assert engine.borrowed_slots == 0


async def test_a_cancel_between_token_and_slot_opens_nothing() -> None:
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(speak, engine, utterance("Speaks on."))
        await gate.held()
        scope = await nursery.start(listen_forever, engine, utterance("Too late."))
        scope.cancel()
        await wait_all_tasks_blocked()
        assert engine.borrowed_slots == 2
        gate.open()
    assert [said.text for said in runner.opened] == ["Speaks on."]
    assert engine.borrowed_slots == 0


async def nothing_more_happens(engine: Engine) -> None:
    """See two answers in a row: no step can have been held between them."""
    assert await engine.responds()
    assert await engine.responds()


async def test_a_listener_who_takes_nothing_costs_no_steps_past_the_credit() -> None:
    gate = StepGate()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner) as engine, engine.generate(utterance("FRAMES=90")) as stream:
        gate.let_go(CREDIT_FRAMES)
        for _ in range(CREDIT_FRAMES):
            await gate.held()
        await nothing_more_happens(engine)
        assert len(runner.steps) == CREDIT_FRAMES
        frames = list(await anext(stream))
        await gate.held()
        gate.let_go()
        await nothing_more_happens(engine)
        assert len(runner.steps) == CREDIT_FRAMES + 1
        gate.open()
        frames += [frame async for frame_batch in stream for frame in frame_batch]
        assert_heard(frames, sine_frames(stream.utterance))


async def test_a_deaf_listener_does_not_hold_up_the_others() -> None:
    runner = SineRunner(2)
    deaf, keen = utterance("FRAMES=90"), utterance("FRAMES=100")
    heard: list[Frame] = []

    async def listen(engine: Engine) -> None:
        heard.extend((await speak(engine, keen))[0])

    async with engine_of(runner) as engine, engine.generate(deaf):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, engine)
        assert_heard(heard, sine_frames(keen))
    deaf_slot = runner.opens[runner.opened.index(deaf)]
    assert sum(deaf_slot in step for step in runner.steps) <= CREDIT_FRAMES


async def test_a_refused_utterance_fails_alone() -> None:
    runner, metrics, said = SineRunner(2), Metrics(), utterance("FRAMES=60")
    refusals: list[TextTooLong] = []

    async def be_refused(engine: Engine) -> None:
        try:
            await speak(engine, utterance("REFUSE this."))
        except TextTooLong as error:
            refusals.append(error)

    async with engine_of(runner, metrics) as engine:
        async with engine.generate(said) as stream:
            frames = list(await anext(stream))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(be_refused, engine)
            frames += [frame async for frame_batch in stream for frame in frame_batch]
        assert engine.borrowed_slots == 0
    assert len(refusals) == 1
    assert_heard(frames, sine_frames(said))
    assert runner.opened == [said]
    assert metrics.registry.get_sample_value("csm_slots_used") == 0


async def test_refusals_never_use_up_the_slots() -> None:
    async with engine_of(SineRunner(2)) as engine:
        for _ in range(10):
            with pytest.raises(TextTooLong):
                await speak(engine, utterance("REFUSE"))
        frames, _ = await speak(engine, utterance("Still here."))
    assert_heard(frames, sine_frames(utterance("Still here.")))


async def test_a_broken_device_fails_every_stream_and_comes_out() -> None:
    gate = StepGate()
    endings: list[str] = []

    async def listen(engine: Engine, text: str) -> None:
        try:
            await speak(engine, utterance(text))
        except EngineFailed:
            endings.append(text)

    with (
        trio.fail_after(GUARD_S),
        pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="the device is gone")),
    ):
        async with (
            open_engine(lambda: SineRunner(2, step_gate=gate), Metrics()) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(listen, engine, "FRAMES=50")
            await gate.held()
            nursery.start_soon(listen, engine, "EXPLODE")
            await wait_all_tasks_blocked()
            gate.let_go()
            await gate.held()
            await wait_all_tasks_blocked()
            gate.open()
    assert sorted(endings) == ["EXPLODE", "FRAMES=50"]
    assert engine.borrowed_slots == 0
    assert device_threads() == []


async def test_nobody_waits_for_a_broken_device() -> None:
    """Those in line for a slot are told too, even if nothing cancels them."""
    gate = StepGate()
    told: list[int] = []

    async def wait_in_line(engine: Engine, n: int) -> None:
        with trio.CancelScope(shield=True):
            try:
                await speak(engine, utterance("Late."))
            except EngineFailed:
                told.append(n)

    with (
        trio.fail_after(GUARD_S),
        pytest.RaisesGroup(RuntimeError, EngineFailed, flatten_subgroups=True),
    ):
        async with (
            open_engine(lambda: SineRunner(1, step_gate=gate), Metrics()) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(speak, engine, utterance("EXPLODE"))
            await gate.held()
            for n in range(3):
                nursery.start_soon(wait_in_line, engine, n)
                await wait_all_tasks_blocked()
            gate.open()
    assert told == [0, 1, 2]
    assert engine.borrowed_slots == 0
    assert device_threads() == []


async def test_what_hinders_the_start_comes_out_before_the_body() -> None:
    def make_runner() -> Runner:
        raise StartupError("There is no such model.")

    with (
        trio.fail_after(GUARD_S),
        pytest.RaisesGroup(StartupError, flatten_subgroups=True),
    ):
        async with open_engine(make_runner, Metrics()):
            pytest.fail("the body was entered")
    assert device_threads() == []


async def test_the_runner_is_made_and_used_on_one_thread_that_is_not_trios() -> None:
    names: set[str] = set()

    class NamedRunner(SineRunner):
        def step(self, slots: object) -> list[Frame | None]:
            names.add(threading.current_thread().name)
            return list(super().step(slots))  # type: ignore[arg-type]

    def make_runner() -> Runner:
        names.add(threading.current_thread().name)
        return NamedRunner(1)

    with trio.fail_after(GUARD_S):
        async with open_engine(make_runner, Metrics()) as engine:
            assert engine.slots == 1
            await speak(engine, utterance("Where am I?"))
    assert names == {"csm-device"}


async def test_an_idle_engine_responds_and_takes_no_steps() -> None:
    runner = SineRunner(2)
    async with engine_of(runner) as engine:
        await nothing_more_happens(engine)
    assert runner.calls == []


async def test_a_stuck_device_does_not_respond() -> None:
    gate = StepGate()
    async with engine_of(SineRunner(1, step_gate=gate)) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(speak, engine, utterance("Hm."))
        await gate.held()
        assert not await engine.responds(within_s=0.0)
        gate.open()
    assert engine.borrowed_slots == 0


async def test_a_cancel_of_everything_ends_the_thread_and_returns_the_slots(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner, metrics = SineRunner(2), Metrics()
    with caplog.at_level(logging.WARNING), trio.CancelScope() as everything:
        async with engine_of(runner, metrics) as engine, trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(speak, engine, utterance("FRAMES=9999", speaker_id=n))
            await wait_all_tasks_blocked()
            everything.cancel()
    assert everything.cancelled_caught
    assert device_threads() == []
    assert engine.borrowed_slots == 0
    assert sorted(runner.opens) == sorted(runner.closes)
    assert metrics.registry.get_sample_value("csm_slots_used") == 0
    assert caplog.records == []


async def test_a_failure_leaves_those_alone_who_have_been_heard_out() -> None:
    """What was spoken to its end is not failed after the fact, though frames are still unread."""
    gate, go = StepGate(), trio.Event()
    runner, said = SineRunner(2, step_gate=gate), utterance("FRAMES=2")
    heard: list[Frame] = []

    async def listen_late(
        engine: Engine, task_status: trio.TaskStatus[FrameStream] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with engine.generate(said) as stream:
            task_status.started(stream)
            with trio.CancelScope(shield=True):
                await go.wait()
                heard.extend([frame async for frame_batch in stream for frame in frame_batch])

    with (
        trio.fail_after(GUARD_S),
        pytest.RaisesGroup(RuntimeError, EngineFailed, flatten_subgroups=True),
    ):
        async with (
            open_engine(lambda: runner, Metrics()) as engine,
            trio.open_nursery() as nursery,
        ):
            stream = await nursery.start(listen_late, engine)
            gate.open()
            while stream.end is None:
                assert await engine.responds()
            try:
                await speak(engine, utterance("EXPLODE"))
            finally:
                go.set()
    assert_heard(heard, sine_frames(said))
    assert stream.end is EndReason.SPOKEN


def outlives(seconds: float, run: Callable[[], None]) -> bool:
    """Tell whether a function still runs after so long; it is left behind if it does."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return thread.is_alive()


def test_a_cancel_while_loading_ends_the_thread_once_loaded() -> None:
    loading, go_on = threading.Event(), threading.Event()
    entered: list[Engine] = []

    def make_runner() -> Runner:
        loading.set()
        assert go_on.wait(GUARD_S)
        return SineRunner(1)

    async def serve() -> None:
        async with open_engine(make_runner, Metrics()) as engine:
            await trio.lowlevel.checkpoint()
            entered.append(engine)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.to_thread.run_sync(loading.wait)
            nursery.cancel_scope.cancel()
            go_on.set()

    assert not outlives(GUARD_S, lambda: trio.run(main)), "the device thread waits forever"
    assert entered == []


async def test_those_who_speak_go_on_between_the_pieces_of_a_long_prompt() -> None:
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    heard: list[list[Frame]] = []
    async with engine_of(runner) as engine, trio.open_nursery() as nursery:

        async def say(text: str) -> None:
            frames, _ = await speak(engine, utterance(text))
            heard.append(frames)

        nursery.start_soon(say, "one two three four")
        await gate.held()
        nursery.start_soon(say, "FILLS=3")
        await wait_all_tasks_blocked()
        gate.open()
    calls = [(call.name, call.slots) for call in runner.calls]
    arrived = calls.index(("open", (1,)))
    assert calls[arrived + 1 : arrived + 7] == [
        ("prefill", ()),
        ("step", (0,)),
        ("prefill", ()),
        ("step", (0,)),
        ("prefill", (1,)),
        ("step", (0, 1)),
    ]
    assert sorted(map(len, heard)) == [2, 8]


async def test_a_cancel_while_the_prompt_goes_in_frees_the_slot() -> None:
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await speak(engine, utterance("FILLS=1000"))

    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(speak, engine, utterance("one two three"))
        await gate.held()
        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        gate.let_go()
        await gate.held()
        scope.cancel()
        await wait_all_tasks_blocked()
        gate.open()
    assert runner.closes[0] == 1
    assert ("step", (0, 1)) not in [(call.name, call.slots) for call in runner.calls]


async def test_a_burst_is_opened_by_one_call_and_a_refusal_stops_no_other() -> None:
    gate = StepGate()
    runner = SineRunner(8, step_gate=gate, max_prefills_per_step=4)
    texts = ["one", "two words", "REFUSE", "three of them", "four words it has"]
    heard: dict[str, list[Frame]] = {}

    async def say(text: str) -> None:
        try:
            heard[text], _ = await speak(engine, utterance(text))
        except TextTooLong:
            heard[text] = []

    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(say, "the first")
        await gate.held()  # what arrives now waits for the step's end together
        for text in texts:
            nursery.start_soon(say, text)
            await wait_all_tasks_blocked()
        gate.open()
    names = [call.name for call in runner.calls]
    first_step = names.index("step")
    # Three of four in the first call (one is refused), the last after another step.
    assert names[first_step + 1 : first_step + 6] == ["open"] * 3 + ["prefill", "step"]
    for text in texts:
        expected = [] if text == "REFUSE" else sine_frames(utterance(text))
        assert_heard(heard[text], expected)


async def test_the_first_frame_comes_alone_and_later_ones_together() -> None:
    """A step that takes no time puts every listener ahead at once."""
    said = utterance("FRAMES=40")
    async with engine_of(SineRunner(1)) as engine, engine.generate(said) as stream:
        sizes = [len(frame_batch) async for frame_batch in stream]
    assert sizes[0] == 1
    assert max(sizes) == MAX_BATCH_FRAMES
    assert sum(sizes) == 40


async def test_a_cancel_drops_what_is_held_and_the_next_in_the_slot_hears_only_its_own() -> None:
    gate = StepGate()
    runner = SineRunner(1, step_gate=gate)
    ahead = replace(utterance("FRAMES=50"), plays_at_s=math.inf)
    after = utterance("And now something else.")
    async with engine_of(runner) as engine:
        async with engine.generate(ahead):
            gate.let_go(2)
            for _ in range(3):
                await gate.held()
            gate.open()
        frames, end = await speak(engine, after)
    assert_heard(frames, sine_frames(after))
    assert end is EndReason.SPOKEN
