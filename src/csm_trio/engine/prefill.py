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
from torch import Tensor

from csm_trio.engine.graphs import captured
from csm_trio.engine.slots import Opening, Slots
from csm_trio.model.csm import CSM
from csm_trio.model.prompt import Prompt

logger = logging.getLogger(__name__)

MAX_PROMPTS = 8
MAX_POSITIONS = 2048
"""Most positions of one prefill, padding included: about one step's time on an H100."""

_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_NOTHING = -1
"""Stands in a prompt's column that is masked."""

Shape = tuple[int, int]
"""(prompts, positions each) that a graph is captured for."""


def shapes(max_positions: int) -> list[Shape]:
    """Return the shapes to capture, the largest first, for prompts of up to `max_positions`."""
    lengths = [length for length in _LENGTHS if length < max_positions] + [max_positions]
    sizes = [1 << power for power in range(MAX_PROMPTS.bit_length())]
    every = [(size, length) for size in sizes for length in lengths]
    fitting = [shape for shape in every if shape[0] == 1 or shape[0] * shape[1] <= MAX_POSITIONS]
    return sorted(fitting, key=lambda shape: shape[0] * shape[1], reverse=True)


class GraphedPrefill:
    """Fills slots from prompts; whatever a slot's opening writes is in the graph too."""

    def __init__(self, model: CSM, slots: Slots) -> None:
        self._model, self._slots = model, slots
        self._shapes = shapes(model.config.backbone.max_positions)
        self._width = model.config.codebooks + 1
        self._device = slots.state.inputs.device
        room = self._shapes[0][0] * self._shapes[0][1] * self._width
        self._tokens = torch.full((room,), _NOTHING, device=self._device)
        self._tokens_there = torch.empty(room, dtype=torch.int64, pin_memory=True)
        # Columns: slot, last position, seed, top-k of both halves.
        self._whole = torch.zeros(MAX_PROMPTS, 5, dtype=torch.int64, device=self._device)
        self._whole_there = torch.empty(MAX_PROMPTS, 5, dtype=torch.int64, pin_memory=True)
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
            graph = captured(partial(self._fill, shape), beside=graph)
            self._graphs[shape] = graph
        took_s = time.perf_counter() - started_s
        logger.info("%d prefill graphs, %.1f s", len(self._graphs), took_s)

    @torch.inference_mode()
    def run(self, group: Sequence[tuple[Opening, Prompt]]) -> None:
        """Prefill prompts that fit together (see `fits`); all but their last rows."""
        longest = max(prompt.positions for _, prompt in group)
        shape = min(
            (shape for shape in self._shapes if shape[0] >= len(group) and shape[1] >= longest),
            key=lambda shape: shape[0] * shape[1],
        )
        # The buffers are pinned: the last copy out of them must be over before they change.
        torch.cuda.current_stream().synchronize()
        self._stage(group, shape)
        self._graphs[shape].replay()
        self._slots.note_open([opening for opening, _ in group])

    def fits(self, prompts: int, longest: int) -> bool:
        """Tell whether so many prompts, of which the longest is so long, go into one prefill."""
        return any(size >= prompts and length >= longest for size, length in self._shapes)

    def _stage(self, group: Sequence[tuple[Opening, Prompt]], shape: Shape) -> None:
        room = shape[0] * shape[1] * self._width
        tokens = self._tokens_there.numpy()[:room].reshape(*shape, self._width)
        tokens.fill(_NOTHING)
        whole, warmth = self._whole_there.numpy(), self._warmth_there.numpy()
        whole[: shape[0]] = (self._slots.dummy, 0, 0, 1, 1)
        warmth.fill(0)
        for row, (opening, prompt) in enumerate(group):
            tokens[row, : prompt.positions] = np.where(prompt.mask, prompt.tokens, _NOTHING)
            ks = [draw.top_k for draw in opening.draws]
            whole[row] = (opening.slot, opening.position, opening.seed, *ks)
            warmth[row] = [draw.temperature for draw in opening.draws]
        self._tokens[:room].copy_(self._tokens_there[:room], non_blocking=True)
        self._whole.copy_(self._whole_there, non_blocking=True)
        self._warmth.copy_(self._warmth_there, non_blocking=True)

    def _fill(self, shape: Shape) -> None:
        """Do it all on the device: what is captured."""
        size, length = shape
        tokens = self._tokens[: size * length * self._width].view(size * length, self._width)
        mask = tokens != _NOTHING
        embedded = self._model.embed_prompt(tokens.clamp(min=0), mask).view(size, length, -1)
        rows, last, seeds, top_k = self._openings(size)
        self._model.prefill(embedded, 0, self._slots.kv.prefill_rows(rows))
        state = self._slots.state
        self._slots.codec.rewind(rows)
        state.inputs[rows] = embedded[torch.arange(size, device=self._device), last]
        state.positions[rows] = last
        state.seeds[rows] = seeds
        state.frames.index_fill_(0, rows, 0)
        state.temperature[rows] = self._warmth[:size]
        state.top_k[rows] = top_k

    def _openings(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        whole = self._whole[:size]
        return whole[:, 0], whole[:, 1], whole[:, 2], whole[:, 3:]
