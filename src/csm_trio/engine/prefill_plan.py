"""Prompts on their way into slots, and which of them go in together. Decides; computes nothing.

In: who waits, in order, and what a device has captured graphs for. Out: the next graph to run, and
what of whose prompt it takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from csm_trio.engine.prompt import Prompt
from csm_trio.engine.slots import Opening

MAX_PROMPTS = 8
MAX_POSITIONS = 2048
"""Most positions of one prefill, padding included: about one step's time on an H100."""

_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_CONTINUED_LENGTHS = (32, 64, 128, 256, 512)
"""Fewer: who goes on behind a prefix attends over the whole of its slot, and comes in pieces."""


@dataclass(slots=True)
class PendingPrefill:
    """A slot whose prompt is on its way in, behind `prefix` positions that were copied.

    `done` counts the rows of the prompt that are in. The first step takes the last row as its
    input, and writes its keys (anew), so that every step is the same.
    """

    opening: Opening
    prompt: Prompt
    prefix: int = 0
    done: int = 0

    @property
    def start(self) -> int:
        """The position that the next piece begins at."""
        return self.prefix + self.done


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph is captured for: so many prompts, so many positions each.

    `continued` prompts go on behind what their slots hold already; the others begin at zero.
    """

    prompts: int
    positions: int
    continued: bool = False

    @property
    def cost(self) -> int:
        """How many positions it computes, padding included."""
        return self.prompts * self.positions


def shapes(max_positions: int, *, continued: bool = False) -> list[Shape]:
    """Return the shapes to capture, the largest first, for prompts of up to `max_positions`."""
    lengths = [length for length in _LENGTHS if length < max_positions] + [max_positions]
    if continued:
        lengths = [length for length in _CONTINUED_LENGTHS if length <= max_positions]
    sizes = [1 << power for power in range(MAX_PROMPTS.bit_length())]
    every = [Shape(size, length, continued) for size in sizes for length in lengths]
    fitting = [shape for shape in every if shape.prompts == 1 or shape.cost <= MAX_POSITIONS]
    return sorted(fitting, key=lambda shape: shape.cost, reverse=True)


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """The next `rows` of a prompt on its way in."""

    pending: PendingPrefill
    rows: int


def plan_next_prefill(
    waiting: Sequence[PendingPrefill], shapes: Sequence[Shape]
) -> tuple[Shape, list[PrefillChunk]]:
    """Choose what to compute next: the first of `waiting` and, in order, who fits beside it.

    All of them begin at zero, or all of them go on behind what their slots hold.
    """
    continued = waiting[0].start > 0
    alike = [shape for shape in shapes if shape.continued == continued]
    most = max(shape.positions for shape in alike)
    chosen: list[PrefillChunk] = []
    fitting = alike
    for pending in waiting:
        if (pending.start > 0) != continued:
            continue
        chunk = PrefillChunk(pending, min(most, pending.prompt.positions - pending.done))
        longest = max(one.rows for one in [*chosen, chunk])
        room = [
            shape
            for shape in fitting
            if shape.prompts > len(chosen) and shape.positions >= longest
        ]  # fmt: skip
        if room:
            chosen.append(chunk)
            fitting = room
    return min(fitting, key=lambda shape: shape.cost), chosen
