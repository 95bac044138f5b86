"""The summary of a batch, and its exit status."""

from collections.abc import Sequence
from dataclasses import dataclass

from csm_trio.batch.item import Item
from csm_trio.batch.manifest import Entry
from csm_trio.batch.progress import Tally

EXIT_ALL, EXIT_SOME_FAILED, EXIT_NOTHING = 0, 1, 2

# Less is not heard.
_QUIETER_LU = 0.5
# The silence that codecs add.
_TOO_LONG_S = 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that could not be synthesized, and why."""

    item: Item
    reason: str


def exit_status(tally: Tally) -> int:
    """Return 0 where every item has its file, 1 where some have, 2 where none has."""
    if tally.kept + tally.done == tally.items:
        return EXIT_ALL
    return EXIT_SOME_FAILED if tally.kept + tally.done else EXIT_NOTHING


def summary(tally: Tally, failures: Sequence[Failure], elapsed_s: float) -> list[str]:
    """Return the lines of the summary: counts and speed, then each failure with its reason."""
    counts = [f"{tally.done} done", f"{tally.kept} kept", f"{tally.failed} failed"]
    if left := tally.items - tally.ended:
        counts.append(f"{left} left")
    line = f"{', '.join(counts)} of {tally.items} items | audio {tally.audio_s:.1f} s"
    if tally.audio_s:
        line += f" | real-time factor {elapsed_s / tally.audio_s:.3f}"
    reasons = [
        f"failed: line {one.item.line} ({one.item.file}): {one.reason}"
        for one in sorted(failures, key=lambda failure: failure.item.index)
    ]
    return [f"{line} | {elapsed_s:.1f} s", *reasons]


def remarks(item: Item, entry: Entry) -> list[str]:
    """Return what a finished item did not reach: its subtitle's time, or the loudness."""
    found = []
    if item.window_s is not None and entry.audio_s > item.window_s + _TOO_LONG_S:
        found.append(
            f"too long: line {item.line} ({item.file}) takes {entry.audio_s:.2f} s at speed "
            f"{entry.speed:g}, but the next subtitle starts after {item.window_s:.2f} s"
        )
    target, reached = item.loudness_lufs, entry.loudness_lufs
    if target is not None and reached is not None and reached < target - _QUIETER_LU:
        found.append(
            f"quieter: line {item.line} ({item.file}) has {reached:.1f} LUFS: "
            "its peaks allow no more"
        )
    return found
