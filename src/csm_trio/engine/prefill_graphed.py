"""Prompts into slots as captured CUDA graphs: one launch, however many layers.

In: prompts and the slots they are for. A prefill of eager operations is hundreds of launches, each
of which gives the interpreter lock away: beside a busy event loop that costs tens of milliseconds,
and everybody who speaks waits meanwhile.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from csm_trio.engine.cuda_graph import capture_graph
from csm_trio.engine.prefill_plan import (
    MAX_PROMPTS,
    PendingPrefill,
    PrefillChunk,
    Shape,
    plan_next_prefill,
    shapes,
)
from csm_trio.engine.slots import Slots
from csm_trio.model.csm import CSM
from csm_trio.model.llama import Attend

logger = logging.getLogger(__name__)

_NOTHING = -1
"""Stands in a prompt's column that is masked."""


class GraphedPrefill:
    """Fills slots from prompts; whatever a slot's opening writes is in the graph too."""

    def __init__(self, model: CSM, slots: Slots, *, continued: bool) -> None:
        self._model, self._slots = model, slots
        self._most = model.config.backbone.max_positions
        self._shapes = shapes(self._most)
        if continued:
            self._shapes += shapes(self._most, continued=True)
        self._width = model.config.codebooks + 1
        self._device = slots.state.inputs.device
        room = max(shape.cost for shape in self._shapes) * self._width
        self._tokens = torch.full((room,), _NOTHING, device=self._device)
        self._tokens_there = torch.empty(room, dtype=torch.int64, pin_memory=True)
        # Columns: slot, last row, first position, seed, top-k of both halves.
        self._whole = torch.zeros(MAX_PROMPTS, 6, dtype=torch.int64, device=self._device)
        self._whole_there = torch.empty(MAX_PROMPTS, 6, dtype=torch.int64, pin_memory=True)
        self._warmth = torch.zeros(MAX_PROMPTS, 2, device=self._device)
        self._warmth_there = torch.empty(MAX_PROMPTS, 2, pin_memory=True)
        self._whole[:, 0] = slots.dummy
        self._graphs: dict[Shape, torch.cuda.CUDAGraph] = {}

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture every shape, the largest first, so that the smaller ones fit in its memory."""
        started_s = time.perf_counter()
        graph = None
        for shape in self._shapes:
            graph = capture_graph(partial(self._fill, shape), beside=graph)
            self._graphs[shape] = graph
        took_s = time.perf_counter() - started_s
        logger.info("%d prefill graphs, %.1f s", len(self._graphs), took_s)

    @torch.inference_mode()
    def advance(self, waiting: Sequence[PendingPrefill]) -> Sequence[PendingPrefill]:
        """Compute one graph's worth of `waiting`; return those whose prompts are in now."""
        shape, chunks = plan_next_prefill(waiting, self._shapes)
        # The buffers are pinned: the last copy out of them must be over before they change.
        torch.cuda.current_stream().synchronize()
        self._stage(chunks, shape)
        self._graphs[shape].replay()
        for chunk in chunks:
            chunk.pending.done += chunk.rows
        prefilled = [
            one.pending for one in chunks if one.pending.done == one.pending.prompt.positions
        ]
        self._slots.note_open([pending.opening for pending in prefilled])
        return prefilled

    def _stage(self, chunks: Sequence[PrefillChunk], shape: Shape) -> None:
        room = shape.cost * self._width
        tokens = self._tokens_there.numpy()[:room].reshape(
            shape.prompts, shape.positions, self._width
        )
        tokens.fill(_NOTHING)
        whole, warmth = self._whole_there.numpy(), self._warmth_there.numpy()
        whole[: shape.prompts] = (self._slots.dummy, 0, 0, 0, 1, 1)
        warmth.fill(0)
        for row, chunk in enumerate(chunks):
            pending, opening = chunk.pending, chunk.pending.opening
            part = slice(pending.done, pending.done + chunk.rows)
            tokens[row, : chunk.rows] = np.where(
                pending.prompt.mask[part], pending.prompt.tokens[part], _NOTHING
            )
            ks = [draw.top_k for draw in opening.sampling]
            whole[row] = (opening.slot, chunk.rows - 1, pending.start, opening.seed, *ks)
            warmth[row] = [draw.temperature for draw in opening.sampling]
        self._tokens[:room].copy_(self._tokens_there[:room], non_blocking=True)
        self._whole.copy_(self._whole_there, non_blocking=True)
        self._warmth.copy_(self._warmth_there, non_blocking=True)

    def _fill(self, shape: Shape) -> None:
        """Do it all on the device: what is captured.

        It begins every row, those too whose prompt goes on: their next piece begins them again.
        """
        size, length = shape.prompts, shape.positions
        tokens = self._tokens[: shape.cost * self._width].view(shape.cost, self._width)
        mask = tokens != _NOTHING
        embedded = self._model.embed_prompt(tokens.clamp(min=0), mask).view(size, length, -1)
        rows, last, starts, seeds = self._whole[:size, :4].unbind(1)
        positions = torch.arange(length, device=self._device)
        attend: Attend
        if shape.continued:
            # What is shorter than the batch is wide must not write beyond the slot.
            positions = (starts[:, None] + positions).clamp(max=self._most - 1)
            attend = self._slots.kv.prefill_on(rows, positions)
        else:
            attend = self._slots.kv.prefill_rows(rows)
        self._model.prefill(embedded, positions, attend)
        state = self._slots.state
        self._slots.codec.rewind(rows)
        state.inputs[rows] = embedded[torch.arange(size, device=self._device), last]
        state.positions[rows] = starts + last
        state.seeds[rows] = seeds
        state.frames.index_fill_(0, rows, 0)
        state.temperature[rows] = self._warmth[:size]
        state.top_k[rows] = self._whole[:size, 4:]
