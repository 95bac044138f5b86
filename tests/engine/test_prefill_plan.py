"""The plan of chunked prefill: in order, within the captured shapes, and complete."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.engine.prefill_plan import (
    MAX_POSITIONS,
    PendingPrefill,
    Shape,
    plan_next_prefill,
    shapes,
)
from csm_trio.engine.prompt import Prompt
from csm_trio.engine.slots import Opening
from csm_trio.model.config import SamplingParams

GREEDY = SamplingParams(0.0, 1)


def pending(slot: int, positions: int, *, prefix: int = 0) -> PendingPrefill:
    rows = np.zeros((positions, 3))
    opening = Opening(slot, prefix + positions - 1, (GREEDY, GREEDY), seed=0)
    return PendingPrefill(opening, Prompt(rows.astype(np.int64), rows.astype(np.bool_)), prefix)


@pytest.mark.parametrize("max_positions", [64, 100, 256, 2048, 4096])
@pytest.mark.parametrize("continued", [False, True])
def test_shapes_stay_within_a_steps_time_and_one_prompt_always_fits(
    max_positions: int, continued: bool
) -> None:
    found = shapes(max_positions, continued=continued)
    assert found == sorted(found, key=lambda shape: -shape.cost)
    assert len(set(found)) == len(found)
    assert all(shape.cost <= max(MAX_POSITIONS, max_positions) for shape in found)
    assert all(shape.positions <= max_positions for shape in found)
    assert {shape.continued for shape in found} == {continued}
    longest = max(shape.positions for shape in found if shape.prompts == 1)
    assert longest == (min(512, max_positions) if continued and max_positions != 100 else longest)
    if not continued:
        assert longest == max_positions, "a prompt that begins at zero is one chunk"


def test_short_prompts_share_a_prefill_and_a_long_one_is_beside_few() -> None:
    known = shapes(2048)
    shape, chunks = plan_next_prefill([pending(slot, 50) for slot in range(20)], known)
    assert shape == Shape(8, 64)
    assert [chunk.pending.opening.slot for chunk in chunks] == list(range(8))
    waiting = [pending(0, 1000), *(pending(slot, 50) for slot in range(1, 9))]
    shape, chunks = plan_next_prefill(waiting, known)
    assert shape == Shape(2, 1024)
    assert [chunk.pending.opening.slot for chunk in chunks] == [0, 1]


def test_prompts_with_and_without_a_prefix_never_share_a_prefill() -> None:
    known = shapes(2048) + shapes(2048, continued=True)
    waiting = [pending(0, 40), pending(1, 40, prefix=100), pending(2, 40)]
    shape, chunks = plan_next_prefill(waiting, known)
    assert (shape.continued, [p.pending.opening.slot for p in chunks]) == (False, [0, 2])
    shape, chunks = plan_next_prefill(waiting[1:], known)
    assert (shape.continued, [p.pending.opening.slot for p in chunks]) == (True, [1])


@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 1024), st.sampled_from([0, 0, 7, 600])), min_size=1, max_size=30
    )
)
def test_every_prompt_is_completed_and_the_oldest_is_always_in_the_prefill(
    prompts: list[tuple[int, int]],
) -> None:
    known = shapes(2048) + shapes(2048, continued=True)
    waiting = [
        pending(slot, positions, prefix=prefix) for slot, (positions, prefix) in enumerate(prompts)
    ]
    while waiting:
        shape, chunks = plan_next_prefill(waiting, known)
        assert chunks[0].pending is waiting[0]
        assert len(chunks) <= shape.prompts
        for chunk in chunks:
            assert 0 < chunk.rows <= shape.positions
            assert (chunk.pending.start > 0) == shape.continued
            chunk.pending.done += chunk.rows
            assert chunk.pending.done <= chunk.pending.prompt.positions
        waiting = [one for one in waiting if one.done < one.prompt.positions]
