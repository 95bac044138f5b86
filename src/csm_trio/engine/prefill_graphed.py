"""Chunked prefill as captured CUDA graphs: one launch for all layers.

In: prompts and their slots. Out: the slots whose prompt is complete. A prefill of eager operations
is hundreds of launches, each of which releases the interpreter lock: beside a busy event loop that
takes tens of milliseconds, during which all running rows wait.
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

_MASKED = -1
"""Token id of a masked column of a prompt row."""


class GraphedPrefill:
    """The prefill as one graph per shape; a graph also writes the state of a slot that opens."""

    def __init__(self, model: CSM, slots: Slots) -> None:
        self._model, self._slots = model, slots
        self._max_positions = model.config.backbone.max_positions
        self._shapes = shapes(self._max_positions) + shapes(self._max_positions, continued=True)
        self._width = model.config.codebooks + 1
        self._device = slots.state.inputs.device
        max_tokens = max(shape.cost for shape in self._shapes) * self._width
        self._tokens = torch.full((max_tokens,), _MASKED, device=self._device)
        self._tokens_host = torch.empty(max_tokens, dtype=torch.int64, pin_memory=True)
        # Columns: slot, last row, first position, seed, top-k of both halves, text range.
        self._row_params = torch.zeros(MAX_PROMPTS, 8, dtype=torch.int64, device=self._device)
        self._row_params_host = torch.empty(MAX_PROMPTS, 8, dtype=torch.int64, pin_memory=True)
        self._temperature = torch.zeros(MAX_PROMPTS, 2, device=self._device)
        self._temperature_host = torch.empty(MAX_PROMPTS, 2, pin_memory=True)
        self._row_params[:, 0] = slots.dummy
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
        """Run one graph for chunks of `waiting`; return those whose prompt is complete now."""
        shape, chunks = plan_next_prefill(waiting, self._shapes)
        # The host buffers are pinned: the last copy out of them must end before they change.
        torch.cuda.current_stream().synchronize()
        self._stage(chunks, shape)
        self._graphs[shape].replay()
        for chunk in chunks:
            chunk.pending.done += chunk.rows
        prefilled = [
            one.pending for one in chunks if one.pending.done == one.pending.prompt.positions
        ]
        self._slots.note_open([pending.opening for pending in prefilled if pending.begins_row])
        return prefilled

    def _stage(self, chunks: Sequence[PrefillChunk], shape: Shape) -> None:
        count = shape.cost * self._width
        tokens = self._tokens_host.numpy()[:count].reshape(
            shape.prompts, shape.positions, self._width
        )
        tokens.fill(_MASKED)
        row_params, temperature = self._row_params_host.numpy(), self._temperature_host.numpy()
        row_params[: shape.prompts] = (self._slots.dummy, 0, 0, 0, 1, 1, 0, 0)
        temperature.fill(0)
        for row, chunk in enumerate(chunks):
            pending, opening = chunk.pending, chunk.pending.opening
            rows = slice(pending.done, pending.done + chunk.rows)
            tokens[row, : chunk.rows] = np.where(
                pending.prompt.mask[rows], pending.prompt.tokens[rows], _MASKED
            )
            top_k = [params.top_k for params in opening.sampling]
            row_params[row] = (
                opening.slot, chunk.rows - 1, pending.start, opening.seed,
                *top_k, *opening.text_range,
            )  # fmt: skip
            temperature[row] = [params.temperature for params in opening.sampling]
        self._tokens[:count].copy_(self._tokens_host[:count], non_blocking=True)
        self._row_params.copy_(self._row_params_host, non_blocking=True)
        self._temperature.copy_(self._temperature_host, non_blocking=True)

    def _fill(self, shape: Shape) -> None:
        """Compute the staged chunks on the device: the work that is captured.

        Every row begins, also one whose prompt is incomplete: its next chunk begins it again.
        """
        size, length = shape.prompts, shape.positions
        tokens = self._tokens[: shape.cost * self._width].view(shape.cost, self._width)
        mask = tokens != _MASKED
        embedded = self._model.embed_prompt(tokens.clamp(min=0), mask).view(size, length, -1)
        rows, last, starts, seeds = self._row_params[:size, :4].unbind(1)
        positions = torch.arange(length, device=self._device)
        attend: Attend
        if shape.continued:
            # The padding of a short chunk must not write beyond the slot.
            positions = (starts[:, None] + positions).clamp(max=self._max_positions - 1)
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
        state.temperature[rows] = self._temperature[:size]
        state.top_k[rows] = self._row_params[:size, 4:6]
        state.text_ranges[rows] = self._row_params[:size, 6:]
