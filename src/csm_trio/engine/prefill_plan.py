"""Plan chunked prefill: which chunks of which waiting prompts run together in the next graph.

In: the waiting prompts, in order of arrival, and the shapes that graphs are captured for. Out: the
next shape and its chunks. It computes nothing on a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from csm_trio.engine.prompt import Prompt
from csm_trio.engine.slots import Opening

MAX_PROMPTS = 8
"""Maximum of prompts in one prefill."""
MAX_POSITIONS = 2048
"""Maximum of positions in one prefill, padding included: about one step's time on an H100."""

_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_CONTINUED_LENGTHS = (32, 64, 128, 256, 512)
"""Lengths of chunks behind a prefix; fewer, since each attends over the slot's whole length."""


@dataclass(slots=True)
class PendingPrefill:
    """A slot whose prompt is incomplete, behind `prefix` positions copied from the prefix cache.

    `done` counts the rows of the prompt that are computed. The first step takes the last row as
    its input and writes its keys (again), so that every step is the same. A prompt that does not
    begin its row is a prefix, behind which the rest of the row's prompt comes later.
    """

    opening: Opening
    prompt: Prompt
    prefix: int = 0
    done: int = 0
    begins_row: bool = True

    @property
    def start(self) -> int:
        """The position that the next chunk begins at."""
        return self.prefix + self.done


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a captured prefill: a number of prompts, and of positions in each.

    `continued` prompts start behind positions that their slots have already; others at zero.
    """

    prompts: int
    positions: int
    continued: bool = False

    @property
    def cost(self) -> int:
        """The number of positions that it computes, padding included."""
        return self.prompts * self.positions


def shapes(max_positions: int, *, continued: bool = False) -> list[Shape]:
    """Return the shapes to capture, the largest first, for prompts of up to `max_positions`."""
    lengths = [length for length in _LENGTHS if length < max_positions] + [max_positions]
    if continued:
        lengths = [length for length in _CONTINUED_LENGTHS if length <= max_positions]
    sizes = [1 << power for power in range(MAX_PROMPTS.bit_length())]
    candidates = [Shape(size, length, continued) for size in sizes for length in lengths]
    fitting = [shape for shape in candidates if shape.prompts == 1 or shape.cost <= MAX_POSITIONS]
    return sorted(fitting, key=lambda shape: shape.cost, reverse=True)


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """The next `rows` rows of an incomplete prompt."""

    pending: PendingPrefill
    rows: int


def plan_next_prefill(
    waiting: Sequence[PendingPrefill], shapes: Sequence[Shape]
) -> tuple[Shape, list[PrefillChunk]]:
    """Choose the next chunks: of the first of `waiting` and, in order, of those that fit beside it.

    Either all of them begin at zero, or all are continued.
    """
    continued = waiting[0].start > 0
    alike = [shape for shape in shapes if shape.continued == continued]
    longest_shape = max(shape.positions for shape in alike)
    chosen: list[PrefillChunk] = []
    fitting = alike
    for pending in waiting:
        if (pending.start > 0) != continued:
            continue
        chunk = PrefillChunk(pending, min(longest_shape, pending.prompt.positions - pending.done))
        longest = max(one.rows for one in [*chosen, chunk])
        larger = [
            shape
            for shape in fitting
            if shape.prompts > len(chosen) and shape.positions >= longest
        ]  # fmt: skip
        if larger:
            chosen.append(chunk)
            fitting = larger
    return min(fitting, key=lambda shape: shape.cost), chosen
