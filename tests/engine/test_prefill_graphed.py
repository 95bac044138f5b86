"""The captured prefill against the eager one, without a CUDA device.

A double replaces the graphs: the captured function runs at every replay. So these test the chunks,
their staging and the computation of `_fill`, not CUDA.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from csm_trio.config import EngineConfig
from csm_trio.engine import prefill_graphed
from csm_trio.engine.load import LoadedModel, load_model
from csm_trio.engine.prefill_eager import EagerPrefill, Prefill
from csm_trio.engine.prefill_graphed import GraphedPrefill
from csm_trio.engine.prefill_plan import PendingPrefill
from csm_trio.engine.prompt import Prompt
from csm_trio.engine.slots import Opening, Slots
from csm_trio.model.attention import Prefix
from csm_trio.model.config import SamplingParams
from support.rerun_graphs import Rerun, rerun, rerun_graphs
from support.tiny_csm import CODEBOOK_SIZE, CODEBOOKS, write_tiny_checkpoint

MAX_POSITIONS = 1024
SLOTS = 6
READS = ("aten.item", "aten._local_scalar_dense", "aten.nonzero", "aten.scalar_tensor")
"""Operations that wait for the device or read a number on the host; they cannot be captured."""


class NoReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails at operations that cannot be captured."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert not str(func).startswith(READS), f"{func} cannot be captured"
        return func(*args, **(kwargs or {}))


def capture(work: Callable[[], object], *, beside: Rerun | None = None) -> Rerun:
    with NoReads():  # type: ignore[no-untyped-call]
        return rerun(work)


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with rerun_graphs(monkeypatch, prefill_graphed, capture=capture):
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(folder, max_positions=MAX_POSITIONS)
    return load_model(EngineConfig(weights_path=folder, device="cpu"))


def make_slots(loaded: LoadedModel) -> Slots:
    return Slots(
        loaded.config, SLOTS, loaded.codec, device=torch.device("cpu"), dtype=torch.float32
    )


def pending(slots: Slots, slot: int, positions: int, *, prefix: int = 0) -> PendingPrefill:
    """Make a random prompt for a slot, behind a random prefix, both seeded by the slot."""
    made = np.random.default_rng(slot)
    tokens = made.integers(0, CODEBOOK_SIZE, (positions, CODEBOOKS + 1))
    mask = made.random((positions, CODEBOOKS + 1)) < 0.7
    if prefix:
        shape = slots.kv.keys[:, slot, :, :prefix].shape
        keys, values = (torch.from_numpy(made.normal(size=shape)).float() for _ in range(2))
        slots.kv.copy_in(slot, Prefix(keys, values))
    sampling = (SamplingParams(0.5 + slot, 3 + slot), SamplingParams(0.7 + slot, 5 + slot))
    opening = Opening(
        slot=slot, position=prefix + positions - 1, sampling=sampling, seed=100 + slot,
        char_positions=[token + 0.5 for token in range(positions // 2)],
    )  # fmt: skip
    return PendingPrefill(opening, Prompt(tokens, mask), prefix)


def prefill_all(prefill: Prefill, waiting: Sequence[PendingPrefill]) -> int:
    """Compute all prompts; return the number of prefills."""
    prefills = 0
    while waiting:
        prefilled = prefill.advance(waiting)
        waiting = [one for one in waiting if one not in prefilled]
        prefills += 1
    return prefills


def assert_equal_slots(graphed: Slots, eager: Slots, prefilled: Sequence[PendingPrefill]) -> None:
    """Compare all that a step reads, except the last position's keys."""
    for opening in (one.opening for one in prefilled):
        slot, end = opening.slot, opening.position
        for made, expected in (
            (graphed.kv.keys, eager.kv.keys),
            (graphed.kv.values, eager.kv.values),
        ):
            torch.testing.assert_close(
                made[:, slot, :, :end], expected[:, slot, :, :end], atol=1e-4, rtol=1e-4
            )
        for name in (
            "inputs", "positions", "frames", "seeds", "temperature", "top_k", "text_ranges",
        ):  # fmt: skip
            made, expected = (getattr(slots.state, name)[slot] for slots in (graphed, eager))
            torch.testing.assert_close(made, expected, msg=f"{name} of slot {slot}")
        assert graphed.position(slot) == eager.position(slot) == end
        tokens = len(opening.char_positions)
        assert graphed.state.text_ranges[slot].tolist() == [end - tokens, tokens]
    assert graphed.state.text_ranges[graphed.dummy].tolist() == [0, 0]


@pytest.mark.parametrize("continued", [False, True], ids=["no clips", "clips"])
def test_slots_equal_those_of_the_eager_prefill(loaded: LoadedModel, continued: bool) -> None:
    graphed, eager = make_slots(loaded), make_slots(loaded)
    sizes = {0: (300, 0), 1: (33, 0), 2: (1, 0), 3: (96, 0)}
    if continued:  # slot 4 takes two chunks; beside the first, slot 5 is padded beyond its end
        sizes |= {4: (700, 50), 5: (31, 990)}
    prefill = GraphedPrefill(loaded.model, graphed)
    prefill.capture()
    made, expected = (
        [
            pending(slots, slot, positions, prefix=prefix)
            for slot, (positions, prefix) in sizes.items()
        ]
        for slots in (graphed, eager)
    )
    prefill_all(prefill, made[:1])
    prefills = prefill_all(prefill, made[1:])  # three that begin at zero, and padding
    prefill_all(EagerPrefill(loaded.model, eager), expected)
    assert prefills < len(made[1:]), "some prompts must share a prefill"
    assert_equal_slots(graphed, eager, made)


def test_a_reused_slot_equals_a_fresh_one(loaded: LoadedModel) -> None:
    graphed, eager = make_slots(loaded), make_slots(loaded)
    prefill = GraphedPrefill(loaded.model, graphed)
    prefill.capture()
    prefill_all(prefill, [pending(graphed, 1, 900), pending(graphed, 2, 400, prefix=100)])
    graphed.codec.contexts.fill_(1)
    graphed.codec.positions.fill_(9)
    graphed.state.frames.fill_(9)
    made, expected = (
        [pending(slots, 1, 40, prefix=30), pending(slots, 2, 50)] for slots in (graphed, eager)
    )
    prefill_all(prefill, made)
    prefill_all(EagerPrefill(loaded.model, eager), expected)
    assert_equal_slots(graphed, eager, made)
    for slot in (1, 2):
        assert graphed.codec.positions[slot] == 0
        assert not graphed.codec.contexts[slot].any()
    assert graphed.codec.positions[3] == 9, "this slot is not opened"
