"""How far a batch is: counts, and one changing line on a terminal or a plain line now and then."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

import trio

_TERMINAL_PERIOD_S = 0.2
_PLAIN_PERIOD_S = 5.0
_BAR_CHARS = 30


@dataclass(slots=True)
class Tally:
    """Counts of a run: items and characters to do, and what has ended so far."""

    items: int
    kept: int
    chars: int
    begun_s: float
    done: int = 0
    failed: int = 0
    audio_s: float = 0.0
    chars_ended: int = 0

    @property
    def ended(self) -> int:
        """How many items need nothing more."""
        return self.kept + self.done + self.failed

    def line(self, now_s: float) -> str:
        """Return items, audio seconds a second, and time left."""
        elapsed_s = max(1e-9, now_s - self.begun_s)
        fields = [f"{self.ended}/{self.items} items"]
        if self.failed:
            fields.append(f"{self.failed} failed")
        fields.append(f"{self.audio_s / elapsed_s:.1f} s of audio a second")
        if 0 < self.chars_ended < self.chars:
            left_s = elapsed_s * (self.chars - self.chars_ended) / self.chars_ended
            fields.append(f"{clock(left_s)} left")
        return " | ".join(fields)

    def bar(self, now_s: float) -> str:
        """Return the line after a bar of fixed width."""
        filled = _BAR_CHARS * self.ended // max(1, self.items)
        return f"[{'#' * filled}{'-' * (_BAR_CHARS - filled)}] {self.line(now_s)}"


async def show_progress(tally: Tally, problem: Callable[[], str], stderr: TextIO) -> None:
    """Show the tally, and the problem where there is one; a terminal's line is cleared at the end.

    Runs until cancelled.
    """
    on_terminal = stderr.isatty()
    try:
        while True:
            await trio.sleep(_TERMINAL_PERIOD_S if on_terminal else _PLAIN_PERIOD_S)
            now_s = trio.current_time()
            note = f" | {found}" if (found := problem()) else ""
            if on_terminal:
                print(f"\r{tally.bar(now_s)}{note}\x1b[K", end="", file=stderr, flush=True)
            else:
                print(f"{tally.line(now_s)}{note}", file=stderr, flush=True)
    finally:
        if on_terminal:
            print("\r\x1b[K", end="", file=stderr, flush=True)


def clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
