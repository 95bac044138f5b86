"""What a batch shows: a bar on a terminal, plain lines elsewhere, and the summary."""

import io
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from csm_trio.audio.formats import AudioFormat
from csm_trio.batch.item import Item
from csm_trio.batch.progress import Tally, clock, show_progress
from csm_trio.batch.report import Failure, exit_status, summary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tally(**counts: float) -> Tally:
    made = Tally(items=10, kept=2, chars=800, begun_s=0.0)
    for name, value in counts.items():
        setattr(made, name, value)
    return made


def test_the_line_has_items_pace_and_time_left() -> None:
    half = tally(done=3, failed=1, audio_s=60.0, chars_ended=400)
    assert half.line(30.0) == "6/10 items | 1 failed | 2.0 s of audio a second | 0:30 left"
    assert half.bar(30.0).startswith("[" + "#" * 18 + "-" * 12 + "] 6/10 items")
    assert tally().line(0.0) == "2/10 items | 0.0 s of audio a second"


async def shown_on(stream: io.StringIO, seconds: float) -> str:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(show_progress, tally(), lambda: "no answer", stream))
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return stream.getvalue()


async def test_a_terminal_has_one_line_that_is_cleared(autojump_clock: MockClock) -> None:
    shown = await shown_on(Terminal(), 1.1)
    assert "\n" not in shown
    assert shown.count("\r[") == 5
    assert shown.endswith("\r\x1b[K")


async def test_elsewhere_there_is_a_plain_line_every_five_seconds(
    autojump_clock: MockClock,
) -> None:
    lines = (await shown_on(io.StringIO(), 16)).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("2/10 items | ") for line in lines)
    assert all(line.endswith(" | no answer") for line in lines)


@pytest.mark.parametrize(("seconds", "shown"), [(9.6, "0:10"), (61, "1:01"), (3_661, "1:01:01")])
def test_durations_are_clock_times(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_the_status_is_0_for_all_1_for_some_2_for_none() -> None:
    assert exit_status(tally(done=8)) == 0
    assert exit_status(tally(done=7, failed=1)) == 1
    assert exit_status(tally(kept=0, failed=10)) == 2


def test_the_summary_has_counts_pace_and_failures_in_order() -> None:
    items = [
        Item(n, n, "Hi.", "default", AudioFormat.parse("pcm_8000"), f"{n}.pcm") for n in (1, 2)
    ]
    failures = [Failure(items[1], "No."), Failure(items[0], "Never.")]
    lines = summary(tally(done=5, failed=2, audio_s=100.0), failures, 25.0)
    assert lines == [
        "5 done, 2 kept, 2 failed, 1 left of 10 items | audio 100.0 s | real-time factor 0.250"
        " | 25.0 s",
        "failed: line 1 (1.pcm): Never.",
        "failed: line 2 (2.pcm): No.",
    ]
