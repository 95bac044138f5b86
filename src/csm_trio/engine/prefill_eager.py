"""Chunked prefill, operation by operation: one chunk of one prompt between two steps.

In: prompts and their slots. Out: the slots whose prompt is complete. For devices without CUDA
graphs; `prefill_graphed` has the captured one.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from csm_trio.engine.prefill_plan import PendingPrefill
from csm_trio.engine.prompt import Prompt
from csm_trio.engine.slots import Slots
from csm_trio.model.csm import CSM

_CPU_CHUNK_POSITIONS = 64
_CHUNK_POSITIONS = 512
"""Maximum of positions in one chunk: on either kind of device about one step's time."""


class Prefill(Protocol):
    """A device's way to compute prompts into slots."""

    def advance(self, waiting: Sequence[PendingPrefill]) -> Sequence[PendingPrefill]:
        """Compute one chunk of the first of `waiting`, and of others that fit beside it.

        Return those that are complete now; the rows that they begin have begun.
        """


class EagerPrefill:
    """Prefill of one prompt at a time, in chunks that depend on that prompt alone.

    So a row's keys are the same, to the bit, in any company.
    """

    def __init__(self, model: CSM, slots: Slots) -> None:
        self._model, self._slots = model, slots
        self._device = slots.state.inputs.device
        self._chunk = _CPU_CHUNK_POSITIONS if self._device.type == "cpu" else _CHUNK_POSITIONS

    @torch.inference_mode()
    def advance(self, waiting: Sequence[PendingPrefill]) -> Sequence[PendingPrefill]:
        """Compute one chunk of the first of `waiting`; return it if its prompt is complete now."""
        pending = waiting[0]
        # A row's last position is its first step's to write.
        last = pending.prompt.positions - pending.begins_row
        end = min(pending.done + self._chunk, last)
        if end > pending.done:
            fill_rows(
                self._model, self._slots, pending.opening.slot, pending.start,
                self._embedded(pending.prompt, pending.done, end),
            )  # fmt: skip
            pending.done = end
        if pending.done < last:
            return ()
        if pending.begins_row:
            self._slots.open([pending.opening], self._embedded(pending.prompt, last, last + 1))
        return (pending,)

    def _embedded(self, prompt: Prompt, start: int, end: int) -> Tensor:
        return embed_rows(self._model, prompt, start, end, self._device)


def embed_rows(model: CSM, prompt: Prompt, start: int, end: int, device: torch.device) -> Tensor:
    """Embed a prompt's rows from `start` to `end`: [end - start, hidden]."""
    return model.embed_prompt(
        torch.from_numpy(prompt.tokens[start:end]).to(device),
        torch.from_numpy(prompt.mask[start:end]).to(device),
    )


def fill_rows(model: CSM, slots: Slots, slot: int, start: int, embedded: Tensor) -> None:
    """Compute the keys of one slot's positions from `start` on: embedded [positions, hidden]."""
    positions = torch.arange(start, start + len(embedded), device=embedded.device)
    model.prefill(embedded[None], positions, slots.kv.prefill(slot, start))
