"""Which prompts go in together: in order, within what is captured, all of each in the end."""

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

DRAW = SamplingParams(0.0, 1)


def pending(slot: int, positions: int, *, prefix: int = 0) -> PendingPrefill:
    rows = np.zeros((positions, 3))
    opening = Opening(slot, prefix + positions - 1, (DRAW, DRAW), seed=0)
    return PendingPrefill(opening, Prompt(rows.astype(np.int64), rows.astype(np.bool_)), prefix)


@pytest.mark.parametrize("max_positions", [64, 100, 256, 2048, 4096])
@pytest.mark.parametrize("continued", [False, True])
def test_shapes_stay_within_a_steps_time_and_one_prompt_always_has_one(
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
        assert longest == max_positions, "whoever begins at zero goes in by one piece"


def test_short_prompts_go_in_together_and_a_long_one_beside_few() -> None:
    known = shapes(2048)
    shape, pieces = plan_next_prefill([pending(slot, 50) for slot in range(20)], known)
    assert shape == Shape(8, 64)
    assert [piece.pending.opening.slot for piece in pieces] == list(range(8))
    waiting = [pending(0, 1000), *(pending(slot, 50) for slot in range(1, 9))]
    shape, pieces = plan_next_prefill(waiting, known)
    assert shape == Shape(2, 1024)
    assert [piece.pending.opening.slot for piece in pieces] == [0, 1]


def test_those_behind_a_prefix_wait_for_those_without_and_the_other_way_round() -> None:
    known = shapes(2048) + shapes(2048, continued=True)
    waiting = [pending(0, 40), pending(1, 40, prefix=100), pending(2, 40)]
    shape, pieces = plan_next_prefill(waiting, known)
    assert (shape.continued, [p.pending.opening.slot for p in pieces]) == (False, [0, 2])
    shape, pieces = plan_next_prefill(waiting[1:], known)
    assert (shape.continued, [p.pending.opening.slot for p in pieces]) == (True, [1])


@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 1024), st.sampled_from([0, 0, 7, 600])), min_size=1, max_size=30
    )
)
def test_every_prompt_goes_in_whole_and_the_oldest_is_always_among_those_served(
    prompts: list[tuple[int, int]],
) -> None:
    known = shapes(2048) + shapes(2048, continued=True)
    waiting = [
        pending(slot, positions, prefix=prefix) for slot, (positions, prefix) in enumerate(prompts)
    ]
    while waiting:
        shape, pieces = plan_next_prefill(waiting, known)
        assert pieces[0].pending is waiting[0]
        assert len(pieces) <= shape.prompts
        for piece in pieces:
            assert 0 < piece.rows <= shape.positions
            assert (piece.pending.start > 0) == shape.continued
            piece.pending.done += piece.rows
            assert piece.pending.done <= piece.pending.prompt.positions
        waiting = [one for one in waiting if one.done < one.prompt.positions]
