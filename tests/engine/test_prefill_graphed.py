"""The prefill that CUDA graphs capture, run again and again without a device, against the eager.

A double takes the graphs' place: what is captured runs anew at every replay. So the pieces, their
staging and what `_fill` computes are put to the test, not CUDA.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
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
from support.tiny_csm import CODEBOOK_SIZE, CODEBOOKS, write_tiny_checkpoint

MAX_POSITIONS = 1024
SLOTS = 6
READS = ("aten.item", "aten._local_scalar_dense", "aten.nonzero", "aten.scalar_tensor")
"""What would wait for the device, or bring a number from the host: capture refuses it."""


class NoReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fail where captured work would."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert not str(func).startswith(READS), f"{func} cannot be captured"
        return func(*args, **(kwargs or {}))


class Unpinned(TorchFunctionMode):
    """Make ordinary memory where pinned is asked for, which needs a device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kept = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}
        return func(*args, **kept)


@dataclass(frozen=True)
class Rerun:
    """A graph that does its work anew."""

    replay: Callable[[], object]


def rerun(work: Callable[[], object], *, beside: Rerun | None = None) -> Rerun:
    with NoReads():  # type: ignore[no-untyped-call]
        work()
    return Rerun(work)


class Stream:
    def synchronize(self) -> None:
        pass


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(prefill_graphed, "capture_graph", rerun)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    with Unpinned():
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
    """Make a prompt of noise for a slot, behind a prefix of noise; the same for the same slot."""
    made = np.random.default_rng(slot)
    tokens = made.integers(0, CODEBOOK_SIZE, (positions, CODEBOOKS + 1))
    mask = made.random((positions, CODEBOOKS + 1)) < 0.7
    if prefix:
        shape = slots.kv.keys[:, slot, :, :prefix].shape
        keys, values = (torch.from_numpy(made.normal(size=shape)).float() for _ in range(2))
        slots.kv.copy_in(slot, Prefix(keys, values))
    sampling = (SamplingParams(0.5 + slot, 3 + slot), SamplingParams(0.7 + slot, 5 + slot))
    opening = Opening(
        slot=slot, position=prefix + positions - 1, sampling=sampling, seed=100 + slot
    )
    return PendingPrefill(opening, Prompt(tokens, mask), prefix)


def prefill_all(prefill: Prefill, waiting: Sequence[PendingPrefill]) -> int:
    """Put all prompts in; return how many pieces it took."""
    pieces = 0
    while waiting:
        prefilled = prefill.advance(waiting)
        waiting = [one for one in waiting if one not in prefilled]
        pieces += 1
    return pieces


def assert_alike(graphed: Slots, eager: Slots, fillings: Sequence[PendingPrefill]) -> None:
    """See that rows can speak alike: all that a step reads but the last position's keys."""
    for opening in (one.opening for one in fillings):
        slot, end = opening.slot, opening.position
        for ours, theirs in (
            (graphed.kv.keys, eager.kv.keys),
            (graphed.kv.values, eager.kv.values),
        ):
            torch.testing.assert_close(
                ours[:, slot, :, :end], theirs[:, slot, :, :end], atol=1e-4, rtol=1e-4
            )
        for name in ("inputs", "positions", "frames", "seeds", "temperature", "top_k"):
            ours, theirs = (getattr(slots.state, name)[slot] for slots in (graphed, eager))
            torch.testing.assert_close(ours, theirs, msg=f"{name} of slot {slot}")
        assert graphed.position(slot) == eager.position(slot) == end


@pytest.mark.parametrize("continued", [False, True], ids=["no clips", "clips"])
def test_slots_are_filled_as_the_eager_prefill_fills_them(
    loaded: LoadedModel, continued: bool
) -> None:
    graphed, eager = make_slots(loaded), make_slots(loaded)
    sizes = {0: (300, 0), 1: (33, 0), 2: (1, 0), 3: (96, 0)}
    if continued:  # slot 4 takes two pieces; beside the first, slot 5 is padded beyond its end
        sizes |= {4: (700, 50), 5: (31, 990)}
    prefill = GraphedPrefill(loaded.model, graphed, continued=continued)
    prefill.capture()
    ours, theirs = (
        [
            pending(slots, slot, positions, prefix=prefix)
            for slot, (positions, prefix) in sizes.items()
        ]
        for slots in (graphed, eager)
    )
    prefill_all(prefill, ours[:1])
    pieces = prefill_all(prefill, ours[1:])  # three of which begin at zero, and padding
    prefill_all(EagerPrefill(loaded.model, eager), theirs)
    assert pieces < len(ours[1:]), "some must have gone in together"
    assert_alike(graphed, eager, ours)


def test_a_slot_that_another_tenant_had_is_filled_as_a_fresh_one(loaded: LoadedModel) -> None:
    graphed, eager = make_slots(loaded), make_slots(loaded)
    prefill = GraphedPrefill(loaded.model, graphed, continued=True)
    prefill.capture()
    prefill_all(prefill, [pending(graphed, 1, 900), pending(graphed, 2, 400, prefix=100)])
    graphed.codec.contexts.fill_(1)
    graphed.codec.positions.fill_(9)
    graphed.state.frames.fill_(9)
    ours, theirs = (
        [pending(slots, 1, 40, prefix=30), pending(slots, 2, 50)] for slots in (graphed, eager)
    )
    prefill_all(prefill, ours)
    prefill_all(EagerPrefill(loaded.model, eager), theirs)
    assert_alike(graphed, eager, ours)
    for slot in (1, 2):
        assert graphed.codec.positions[slot] == 0
        assert not graphed.codec.contexts[slot].any()
    assert graphed.codec.positions[3] == 9, "nobody opened this one"
