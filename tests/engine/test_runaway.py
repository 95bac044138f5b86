"""The runaway guard: which utterances it ends, and which it must not truncate."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.engine.runaway import MAX_PERIOD_FRAMES, SILENCE_FLOOR, RunawayGuard
from csm_trio.engine.utterance import (
    REPEAT_WINDOW_FRAMES,
    SILENCE_WINDOW_FRAMES,
    EndReason,
    Frame,
)

LONG = 10_000
LOUD = 5_000


def frame(*codes: int, peak: int = LOUD) -> Frame:
    pcm = np.zeros(1_920, dtype=np.int16)
    pcm[7] = peak
    return Frame(pcm, np.array(codes, dtype=np.int16))


def frames_until_end(guard: RunawayGuard, frames: Iterable[Frame]) -> tuple[int, EndReason | None]:
    """Return how many frames the guard took, and why it stopped there."""
    count = 0
    for count, made in enumerate(frames, start=1):
        end = guard.observe(made)
        if end is not None:
            return count, end
    return count, None


@pytest.mark.parametrize("period", [1, MAX_PERIOD_FRAMES])
def test_without_its_window_a_repeat_is_heard_once(period: int) -> None:
    varying = [frame(1_000 + index) for index in range(5)]
    frames = varying + [frame(index % period) for index in range(200)]
    count, end = frames_until_end(RunawayGuard(LONG), frames)
    assert end is not None
    assert count - end.window_frames == 5 + period


def test_without_its_window_a_silence_is_not_heard() -> None:
    frames = [frame(index) for index in range(5)] + [frame(index, peak=0) for index in range(99)]
    count, end = frames_until_end(RunawayGuard(LONG), frames)
    assert end is not None
    assert count - end.window_frames == 5


@pytest.mark.parametrize("end", [EndReason.SPOKEN, EndReason.CAPPED])
def test_other_ends_have_no_window(end: EndReason) -> None:
    assert end.window_frames == 0


@pytest.mark.parametrize("cap", [1, 2, 25, 31, 500])
def test_the_cap_is_exact(cap: int) -> None:
    frames = (frame(index, 1) for index in range(LONG))
    assert frames_until_end(RunawayGuard(cap), frames) == (cap, EndReason.CAPPED)


@pytest.mark.parametrize("varied", [0, 1, 5, 40])
@pytest.mark.parametrize("period", range(1, MAX_PERIOD_FRAMES + 1))
def test_a_repeat_ends_after_its_window_and_not_before(period: int, varied: int) -> None:
    varying = [frame(1_000 + index) for index in range(varied)]
    repeating = [frame(index % period) for index in range(200)]
    count, end = frames_until_end(RunawayGuard(LONG), varying + repeating)
    assert (count, end) == (varied + period + REPEAT_WINDOW_FRAMES, EndReason.REPEATING)


def test_a_period_above_the_maximum_is_speech() -> None:
    period = MAX_PERIOD_FRAMES + 1
    frames = [frame(index % period) for index in range(400)]
    assert frames_until_end(RunawayGuard(LONG), frames) == (400, None)


def test_frames_are_equal_only_in_all_codebooks() -> None:
    frames = [frame(7, 7, 7, index) for index in range(400)]
    assert frames_until_end(RunawayGuard(LONG), frames) == (400, None)


def test_one_different_frame_restarts_the_window() -> None:
    same = [frame(1)] * REPEAT_WINDOW_FRAMES
    frames = [*same, frame(2), *same, frame(3), *same]
    assert frames_until_end(RunawayGuard(LONG), frames) == (len(frames), None)


@pytest.mark.parametrize("frames", [1, 5, REPEAT_WINDOW_FRAMES])
def test_a_short_utterance_of_equal_frames_stays_complete(frames: int) -> None:
    assert frames_until_end(RunawayGuard(LONG), [frame(1)] * frames) == (frames, None)


@pytest.mark.parametrize("peak", [0, SILENCE_FLOOR - 1, 1 - SILENCE_FLOOR])
def test_a_long_silence_ends(peak: int) -> None:
    frames = (frame(index, peak=peak) for index in range(LONG))
    count = frames_until_end(RunawayGuard(LONG), frames)
    assert count == (SILENCE_WINDOW_FRAMES, EndReason.SILENT)


@pytest.mark.parametrize("peak", [SILENCE_FLOOR, -SILENCE_FLOOR, 32_767, -32_768])
def test_a_pause_shorter_than_the_window_does_not_end(peak: int) -> None:
    pause = [0] * (SILENCE_WINDOW_FRAMES - 1)
    peaks = [*pause, peak] * 10
    frames = [frame(index, peak=peak) for index, peak in enumerate(peaks)]
    assert frames_until_end(RunawayGuard(LONG), frames) == (len(peaks), None)


def test_the_cap_is_reported_before_the_other_reasons() -> None:
    guard = RunawayGuard(SILENCE_WINDOW_FRAMES)
    count = frames_until_end(guard, [frame(1, peak=0)] * LONG)
    assert count == (SILENCE_WINDOW_FRAMES, EndReason.CAPPED)


def test_a_new_guard_starts_without_counts() -> None:
    almost = [frame(1, peak=0)] * (SILENCE_WINDOW_FRAMES - 1)
    for _ in range(3):
        assert frames_until_end(RunawayGuard(LONG), almost) == (len(almost), None)


def repeats(codes: list[int]) -> bool:
    """Return whether a window of frames equals the one a short period before it."""
    return any(
        codes[at - period : at - period + REPEAT_WINDOW_FRAMES]
        == codes[at : at + REPEAT_WINDOW_FRAMES]
        for period in range(1, MAX_PERIOD_FRAMES + 1)
        for at in range(period, len(codes) - REPEAT_WINDOW_FRAMES + 1)
    )


@st.composite
def runs(draw: st.DrawFn) -> list[int]:
    """Draw codes that are likely to contain stretches of short periods."""
    codes: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        motif = draw(st.lists(st.integers(0, 2), min_size=1, max_size=9))
        times = draw(st.integers(1, 1 + 45 // len(motif)))
        codes += motif * times
    return codes


@given(runs())
def test_audible_frames_end_before_the_cap_only_where_a_window_repeats(codes: list[int]) -> None:
    count, end = frames_until_end(RunawayGuard(LONG), map(frame, codes))
    if end is None:
        assert not repeats(codes)
    else:
        assert end is EndReason.REPEATING
        assert repeats(codes[:count])
        assert not repeats(codes[: count - 1])


@given(runs(), st.integers(1, 300))
def test_no_utterance_passes_the_cap(codes: list[int], cap: int) -> None:
    count, end = frames_until_end(RunawayGuard(cap), map(frame, codes))
    assert count <= cap
    assert (end is None) <= (len(codes) < cap)
