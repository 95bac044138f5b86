"""The engine on a real device thread: frames, the release of slots, failures and shutdown."""

import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csm_trio.engine.in_process import open_engine
from csm_trio.engine.scheduler import CREDIT_FRAMES, Runner
from csm_trio.engine.service import Engine, FrameStream
from csm_trio.engine.utterance import MAX_BATCH_FRAMES, EndReason, Frame, Utterance
from csm_trio.errors import EngineFailed, NotFinite, StartupError, TextTooLong
from csm_trio.telemetry import Metrics
from support.engines import open_engine_behind_sockets
from support.fakes import RunnerCall, SineRunner, StepGate, sine_frames

GUARD_S = 5


def utterance(text: str, *, speaker_id: int = 0, max_frames: int = 1_000) -> Utterance:
    return Utterance(text, speaker_id, max_frames)


def assert_equal_frames(frames: list[Frame], expected: list[Frame]) -> None:
    assert len(frames) == len(expected)
    for frame, made in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.pcm, made.pcm)
        np.testing.assert_array_equal(frame.codes, made.codes)


def device_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "csm-device"]


EngineOf = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture(params=["in process", "behind sockets"])
def engine_of(request: pytest.FixtureRequest) -> EngineOf:
    """Open an engine on a runner; fail if it takes longer than the guard or leaves a thread."""
    opened = open_engine if request.param == "in process" else open_engine_behind_sockets

    @asynccontextmanager
    async def opening(runner: Runner, metrics: Metrics | None = None) -> AsyncIterator[Engine]:
        with trio.fail_after(GUARD_S):
            async with opened(lambda: runner, metrics or Metrics()) as engine:
                yield engine
        assert device_threads() == []

    return opening


async def generate(engine: Engine, subject: Utterance) -> tuple[list[Frame], EndReason | None]:
    async with engine.generate(subject) as stream:
        frames = [frame async for frame_batch in stream for frame in frame_batch]
    return frames, stream.end


async def read_until_cancelled(
    engine: Engine,
    subject: Utterance,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read a stream until the scope that `nursery.start` returns is cancelled."""
    with trio.CancelScope() as scope:
        async with engine.generate(subject) as stream:
            task_status.started(scope)
            async for _ in stream:
                pass


async def test_frames_arrive_unchanged_and_in_order(engine_of: EngineOf) -> None:
    subject = utterance("Nine words make a good deal of frames here.", speaker_id=3)
    async with engine_of(SineRunner(1)) as engine:
        frames, end = await generate(engine, subject)
    assert_equal_frames(frames, sine_frames(subject))
    assert end is EndReason.SPOKEN


@pytest.mark.parametrize("frames", [0, 1, CREDIT_FRAMES, CREDIT_FRAMES + 1, 200])
async def test_an_utterance_of_any_length_arrives_complete(
    engine_of: EngineOf, frames: int
) -> None:
    subject = utterance(f"FRAMES={frames}")
    async with engine_of(SineRunner(2)) as engine:
        received, end = await generate(engine, subject)
    assert_equal_frames(received, sine_frames(subject))
    assert end is EndReason.SPOKEN


async def test_the_maximum_of_frames_ends_an_utterance_and_the_slot_is_clean_after_it(
    engine_of: EngineOf,
) -> None:
    capped, after = utterance("FRAMES=50", max_frames=7), utterance("And again.")
    async with engine_of(SineRunner(1)) as engine:
        frames, end = await generate(engine, capped)
        assert end is EndReason.CAPPED
        assert_equal_frames(frames, sine_frames(capped))
        frames, end = await generate(engine, after)
        assert end is EndReason.SPOKEN
        assert_equal_frames(frames, sine_frames(after))


async def test_more_utterances_than_slots_all_get_their_own_frames(engine_of: EngineOf) -> None:
    subject = [utterance(f"FRAMES={3 + 7 * n}", speaker_id=n) for n in range(9)]
    received: dict[int, list[Frame]] = {}
    runner, metrics = SineRunner(2), Metrics()

    async def read(engine: Engine, n: int) -> None:
        received[n], _ = await generate(engine, subject[n])

    async with engine_of(runner, metrics) as engine:
        async with trio.open_nursery() as nursery:
            for n in range(9):
                nursery.start_soon(read, engine, n)
        assert engine.borrowed_slots == 0
        assert await engine.responds()
    for n in range(9):
        assert_equal_frames(received[n], sine_frames(subject[n]))
    assert sorted(runner.opens) == sorted(runner.closes)
    assert len(runner.opens) == 9
    sample = metrics.registry.get_sample_value
    assert sample("csm_slots_used") == 0
    assert sample("csm_utterances_waiting") == 0
    assert sample("csm_frames_total") == sum(len(frames) for frames in received.values())
    assert sample("csm_utterance_ends_total", {"reason": "spoken"}) == 9


async def test_pool_tokens_are_granted_in_order_of_arrival(engine_of: EngineOf) -> None:
    gate = StepGate()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        for text in ("one", "two", "three", "four"):
            nursery.start_soon(generate, engine, utterance(text))
            await wait_all_tasks_blocked()
        gate.open()
    assert [opened.text for opened in runner.opened] == ["one", "two", "three", "four"]


async def test_a_cancel_releases_the_slot_before_the_token_and_without_another_step(
    engine_of: EngineOf,
) -> None:
    gate, metrics = StepGate(), Metrics()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner, metrics) as engine, trio.open_nursery() as nursery:
        scope = await nursery.start(read_until_cancelled, engine, utterance("FRAMES=50"))
        await gate.held()
        gate.release()
        await gate.held()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert (engine.borrowed_slots, runner.closes) == (1, [])
        nursery.start_soon(generate, engine, utterance("Next in line."))
        await wait_all_tasks_blocked()
        gate.open()
    assert [call for call in runner.calls if call.name != "step"] == [
        RunnerCall(name, (0,)) for name in ("open", "prefill", "close") * 2
    ]
    steps_of_the_first = runner.calls.index(RunnerCall("close", (0,))) - 2
    assert steps_of_the_first == 2, "the running step, and the one before"
    assert engine.borrowed_slots == 0
    assert metrics.registry.get_sample_value("csm_slots_used") == 0


async def test_a_cancel_does_not_affect_other_rows(engine_of: EngineOf) -> None:
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    subject = utterance("FRAMES=40", speaker_id=1)
    received: list[Frame] = []

    async def read(engine: Engine) -> None:
        received.extend((await generate(engine, subject))[0])

    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        scope = await nursery.start(read_until_cancelled, engine, utterance("FRAMES=50"))
        await gate.held()
        nursery.start_soon(read, engine)
        await wait_all_tasks_blocked()
        gate.release(3)
        for _ in range(3):
            await gate.held()
        scope.cancel()
        await wait_all_tasks_blocked()
        gate.open()
    assert_equal_frames(received, sine_frames(subject))
    assert runner.closes == [0, 1]


async def test_a_cancel_while_waiting_for_a_token_opens_nothing(engine_of: EngineOf) -> None:
    gate, metrics = StepGate(), Metrics()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner, metrics) as engine, trio.open_nursery() as nursery:
        await nursery.start(read_until_cancelled, engine, utterance("Holds the slot."))
        async with trio.open_nursery() as waiting:
            waiting.start_soon(generate, engine, utterance("Gives up."))
            await wait_all_tasks_blocked()
            assert metrics.registry.get_sample_value("csm_utterances_waiting") == 1
            waiting.cancel_scope.cancel()
        assert metrics.registry.get_sample_value("csm_utterances_waiting") == 0
        gate.open()
        await generate(engine, utterance("Comes later."))
    assert [opened.text for opened in runner.opened] == ["Holds the slot.", "Comes later."]
    assert engine.borrowed_slots == 0


async def test_a_cancel_between_token_and_slot_opens_nothing() -> None:
    """In one process; an engine process gives token and slot in the same moment."""
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    async with (
        open_engine(lambda: runner, Metrics()) as engine,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(generate, engine, utterance("Speaks on."))
        await gate.held()
        scope = await nursery.start(read_until_cancelled, engine, utterance("Too late."))
        scope.cancel()
        await wait_all_tasks_blocked()
        assert engine.borrowed_slots == 2
        gate.open()
    assert [opened.text for opened in runner.opened] == ["Speaks on."]
    assert engine.borrowed_slots == 0


async def step_loop_is_idle(engine: Engine) -> None:
    """Check that the step loop answers twice in a row: no step is held between the answers."""
    assert await engine.responds()
    assert await engine.responds()


async def test_an_unread_stream_runs_no_step_past_its_credit(engine_of: EngineOf) -> None:
    gate = StepGate()
    runner = SineRunner(1, step_gate=gate)
    async with engine_of(runner) as engine, engine.generate(utterance("FRAMES=90")) as stream:
        gate.release(CREDIT_FRAMES)
        for _ in range(CREDIT_FRAMES):
            await gate.held()
        await step_loop_is_idle(engine)
        assert len(runner.steps) == CREDIT_FRAMES
        frames = list(await anext(stream))
        await gate.held()
        gate.release()
        await step_loop_is_idle(engine)
        assert len(runner.steps) == CREDIT_FRAMES + 1
        gate.open()
        frames += [frame async for frame_batch in stream for frame in frame_batch]
        assert_equal_frames(frames, sine_frames(stream.utterance))


async def test_an_unread_stream_does_not_delay_other_rows(engine_of: EngineOf) -> None:
    runner = SineRunner(2)
    unread, subject = utterance("FRAMES=90"), utterance("FRAMES=100")
    received: list[Frame] = []

    async def read(engine: Engine) -> None:
        received.extend((await generate(engine, subject))[0])

    async with engine_of(runner) as engine, engine.generate(unread):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, engine)
        assert_equal_frames(received, sine_frames(subject))
    unread_slot = runner.opens[runner.opened.index(unread)]
    assert sum(unread_slot in step for step in runner.steps) <= CREDIT_FRAMES


async def test_a_rejected_utterance_does_not_affect_others(engine_of: EngineOf) -> None:
    runner, metrics, subject = SineRunner(2), Metrics(), utterance("FRAMES=60")
    errors: list[TextTooLong] = []

    async def generate_rejected(engine: Engine) -> None:
        try:
            await generate(engine, utterance("REFUSE this."))
        except TextTooLong as error:
            errors.append(error)

    async with engine_of(runner, metrics) as engine:
        async with engine.generate(subject) as stream:
            frames = list(await anext(stream))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(generate_rejected, engine)
            frames += [frame async for frame_batch in stream for frame in frame_batch]
        assert engine.borrowed_slots == 0
    assert len(errors) == 1
    assert_equal_frames(frames, sine_frames(subject))
    assert runner.opened == [subject]
    assert metrics.registry.get_sample_value("csm_slots_used") == 0


async def test_a_row_that_fails_in_a_step_affects_no_other(engine_of: EngineOf) -> None:
    runner, metrics, subject = SineRunner(2), Metrics(), utterance("FRAMES=60")

    async def generate_failing(engine: Engine) -> None:
        for frames in (0, 1, 7):
            with pytest.raises(NotFinite, match="The model computed NaN or infinity"):
                await generate(engine, utterance(f"OVERFLOW FRAMES={frames}"))

    async with engine_of(runner, metrics) as engine:
        async with engine.generate(subject) as stream:
            frames = list(await anext(stream))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(generate_failing, engine)
            frames += [frame async for frame_batch in stream for frame in frame_batch]
        assert engine.borrowed_slots == 0
    assert_equal_frames(frames, sine_frames(subject))
    assert stream.end is EndReason.SPOKEN
    assert sorted(runner.closes) == sorted(runner.opens)
    value = metrics.registry.get_sample_value
    assert value("csm_utterance_ends_total", {"reason": "failed"}) == 3
    assert value("csm_frames_total") == 60 + 0 + 1 + 7
    assert value("csm_slots_used") == 0


async def test_rejected_utterances_release_their_slots(engine_of: EngineOf) -> None:
    async with engine_of(SineRunner(2)) as engine:
        for _ in range(10):
            with pytest.raises(TextTooLong):
                await generate(engine, utterance("REFUSE"))
        frames, _ = await generate(engine, utterance("Still here."))
    assert_equal_frames(frames, sine_frames(utterance("Still here.")))


async def test_a_device_failure_fails_every_stream_and_is_raised() -> None:
    gate = StepGate()
    endings: list[str] = []

    async def read(engine: Engine, text: str) -> None:
        try:
            await generate(engine, utterance(text))
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
            nursery.start_soon(read, engine, "FRAMES=50")
            await gate.held()
            nursery.start_soon(read, engine, "EXPLODE")
            await wait_all_tasks_blocked()
            gate.release()
            await gate.held()
            await wait_all_tasks_blocked()
            gate.open()
    assert sorted(endings) == ["EXPLODE", "FRAMES=50"]
    assert engine.borrowed_slots == 0
    assert device_threads() == []


async def test_a_device_failure_fails_waiting_utterances() -> None:
    """Utterances that wait for a slot fail too, even if nothing cancels them."""
    gate = StepGate()
    failed: list[int] = []

    async def generate_shielded(engine: Engine, n: int) -> None:
        with trio.CancelScope(shield=True):
            try:
                await generate(engine, utterance("Late."))
            except EngineFailed:
                failed.append(n)

    with (
        trio.fail_after(GUARD_S),
        pytest.RaisesGroup(RuntimeError, EngineFailed, flatten_subgroups=True),
    ):
        async with (
            open_engine(lambda: SineRunner(1, step_gate=gate), Metrics()) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(generate, engine, utterance("EXPLODE"))
            await gate.held()
            for n in range(3):
                nursery.start_soon(generate_shielded, engine, n)
                await wait_all_tasks_blocked()
            gate.open()
    assert sorted(failed) == [0, 1, 2]
    assert engine.borrowed_slots == 0
    assert device_threads() == []


async def test_a_startup_error_is_raised_before_the_body() -> None:
    def make_runner() -> Runner:
        raise StartupError("There is no such model.")

    with (
        trio.fail_after(GUARD_S),
        pytest.RaisesGroup(StartupError, flatten_subgroups=True),
    ):
        async with open_engine(make_runner, Metrics()):
            pytest.fail("the body was entered")
    assert device_threads() == []


async def test_the_runner_is_made_and_used_on_the_device_thread() -> None:
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
            await generate(engine, utterance("Where am I?"))
    assert names == {"csm-device"}


async def test_an_idle_engine_responds_and_takes_no_steps(engine_of: EngineOf) -> None:
    runner = SineRunner(2)
    async with engine_of(runner) as engine:
        await step_loop_is_idle(engine)
    assert runner.calls == []


async def test_a_stuck_device_does_not_respond(engine_of: EngineOf) -> None:
    gate = StepGate()
    async with engine_of(SineRunner(1, step_gate=gate)) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(generate, engine, utterance("Hm."))
        await gate.held()
        assert not await engine.responds(within_s=0.0)
        gate.open()
    assert engine.borrowed_slots == 0


async def test_a_cancel_of_the_engine_ends_the_thread_and_releases_the_slots(
    engine_of: EngineOf, caplog: pytest.LogCaptureFixture
) -> None:
    runner, metrics = SineRunner(2), Metrics()
    with caplog.at_level(logging.WARNING), trio.CancelScope() as everything:
        async with engine_of(runner, metrics) as engine, trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(generate, engine, utterance("FRAMES=9999", speaker_id=n))
            await wait_all_tasks_blocked()
            everything.cancel()
    assert everything.cancelled_caught
    assert device_threads() == []
    assert engine.borrowed_slots == 0
    assert sorted(runner.opens) == sorted(runner.closes)
    assert metrics.registry.get_sample_value("csm_slots_used") == 0
    assert caplog.records == []


async def test_a_device_failure_does_not_fail_finished_utterances() -> None:
    """A finished utterance does not fail, even if its frames are unread."""
    gate, go = StepGate(), trio.Event()
    runner, subject = SineRunner(2, step_gate=gate), utterance("FRAMES=2")
    received: list[Frame] = []

    async def read_late(
        engine: Engine, task_status: trio.TaskStatus[FrameStream] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with engine.generate(subject) as stream:
            task_status.started(stream)
            with trio.CancelScope(shield=True):
                await go.wait()
                received.extend([frame async for frame_batch in stream for frame in frame_batch])

    with (
        trio.fail_after(GUARD_S),
        pytest.RaisesGroup(RuntimeError, EngineFailed, flatten_subgroups=True),
    ):
        async with (
            open_engine(lambda: runner, Metrics()) as engine,
            trio.open_nursery() as nursery,
        ):
            stream = await nursery.start(read_late, engine)
            gate.open()
            while stream.end is None:
                assert await engine.responds()
            try:
                await generate(engine, utterance("EXPLODE"))
            finally:
                go.set()
    assert_equal_frames(received, sine_frames(subject))
    assert stream.end is EndReason.SPOKEN


def outlives(seconds: float, run: Callable[[], None]) -> bool:
    """Return whether a function still runs on its daemon thread after so many seconds."""
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


async def test_running_rows_step_between_the_chunks_of_a_long_prompt(engine_of: EngineOf) -> None:
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    received: list[list[Frame]] = []
    async with engine_of(runner) as engine, trio.open_nursery() as nursery:

        async def collect(text: str) -> None:
            frames, _ = await generate(engine, utterance(text))
            received.append(frames)

        nursery.start_soon(collect, "one two three four")
        await gate.held()
        nursery.start_soon(collect, "PREFILLS=3")
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
    assert sorted(map(len, received)) == [2, 8]


async def test_a_cancel_during_prefill_releases_the_slot(engine_of: EngineOf) -> None:
    gate = StepGate()
    runner = SineRunner(2, step_gate=gate)
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await generate(engine, utterance("PREFILLS=1000"))

    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(generate, engine, utterance("one two three"))
        await gate.held()
        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        gate.release()
        await gate.held()
        scope.cancel()
        await wait_all_tasks_blocked()
        gate.open()
    assert runner.closes[0] == 1
    assert ("step", (0, 1)) not in [(call.name, call.slots) for call in runner.calls]


async def test_a_burst_is_opened_in_one_call_and_a_rejection_affects_no_other(
    engine_of: EngineOf,
) -> None:
    gate = StepGate()
    runner = SineRunner(8, step_gate=gate, max_prefills_per_step=4)
    texts = ["one", "two words", "REFUSE", "three of them", "four words it has"]
    received: dict[str, list[Frame]] = {}

    async def collect(text: str) -> None:
        try:
            received[text], _ = await generate(engine, utterance(text))
        except TextTooLong:
            received[text] = []

    async with engine_of(runner) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(collect, "the first")
        await gate.held()  # utterances that arrive now wait for the step's end
        for text in texts:
            nursery.start_soon(collect, text)
            await wait_all_tasks_blocked()
        gate.open()
    names = [call.name for call in runner.calls]
    first_step = names.index("step")
    # The first call opens three of four (one is rejected); the last opens after a step.
    assert names[first_step + 1 : first_step + 6] == ["open"] * 3 + ["prefill", "step"]
    for text in texts:
        expected = [] if text == "REFUSE" else sine_frames(utterance(text))
        assert_equal_frames(received[text], expected)


async def test_the_first_frame_is_delivered_alone_and_later_ones_in_batches(
    engine_of: EngineOf,
) -> None:
    """With steps that take no time the playback buffer is full at once."""
    subject = utterance("FRAMES=40")
    async with engine_of(SineRunner(1)) as engine, engine.generate(subject) as stream:
        sizes = [len(frame_batch) async for frame_batch in stream]
    assert sizes[0] == 1
    assert max(sizes) == MAX_BATCH_FRAMES
    assert sum(sizes) == 40


async def test_a_cancel_discards_held_frames_and_the_next_utterance_gets_only_its_own(
    engine_of: EngineOf,
) -> None:
    gate = StepGate()
    runner = SineRunner(1, step_gate=gate)
    ahead = replace(utterance("FRAMES=50"), plays_at_s=math.inf)
    after = utterance("And now something else.")
    async with engine_of(runner) as engine:
        async with engine.generate(ahead):
            gate.release(2)
            for _ in range(3):
                await gate.held()
            gate.open()
        frames, end = await generate(engine, after)
    assert_equal_frames(frames, sine_frames(after))
    assert end is EndReason.SPOKEN
