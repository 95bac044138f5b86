"""The device state of all rows: KV cache, codec state, positions, sampling; indexed by slot.

The tensors never move, so captured graphs may hold their addresses. There is one slot more than
the pool has, the dummy: the padding rows of a batch write to it, and it is never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_trio.engine.utterance import Sampling
from csm_trio.model.attention import KVCache
from csm_trio.model.config import CSMConfig, SamplingDefaults, SamplingParams
from csm_trio.model.csm import BACKBONE, DEPTH, FrameSampling, RowState
from csm_trio.model.mimi.decoder import MimiDecoder
from csm_trio.model.sampling import RowNoise, row_sampling

_ROW_SAMPLINGS = 16
"""Number of batches whose sampling parameters are kept as tensors."""
_GREEDY = SamplingParams(temperature=0.0, top_k=1)
_DEFAULT_TOP_K = 50


@dataclass(frozen=True, slots=True)
class Opening:
    """A row that begins: the position of its next input, its sampling parameters and its seed.

    `sampling` is for the backbone and the depth decoder. `char_positions` are those of its text
    (see `Prompt`), which ends before `position`.
    """

    slot: int
    position: int
    sampling: tuple[SamplingParams, SamplingParams]
    seed: int
    char_positions: Sequence[float] = ()

    @property
    def text_range(self) -> tuple[int, int]:
        """The first position of its text's tokens in the KV cache, and their number."""
        length = len(self.char_positions)
        return self.position - length, length


@dataclass(slots=True)
class _Row:
    """The host's copy of an open slot's state, read without waiting for the device."""

    position: int
    sampling: tuple[SamplingParams, SamplingParams]
    noise: RowNoise
    text_range: tuple[int, int]
    frames: int = 0


def resolve_sampling(
    sampling: Sampling, defaults: SamplingDefaults
) -> tuple[SamplingParams, SamplingParams]:
    """Return the sampling parameters of backbone and depth decoder for one utterance.

    The checkpoint's generation config has those of each half; the utterance's values replace the
    backbone's, and the depth decoder's only where the config samples there: a model trained to
    be greedy in depth garbles when sampled. A greedy utterance is greedy in both.
    """
    if sampling.temperature == 0 or sampling.top_k == 1:
        return _GREEDY, _GREEDY
    backbone = _overridden(defaults.backbone, sampling)
    depth = defaults.depth if defaults.depth == _GREEDY else _overridden(defaults.depth, sampling)
    return backbone, depth


def _overridden(default: SamplingParams, sampling: Sampling) -> SamplingParams:
    scaled = default.temperature * sampling.temperature_scale
    temperature = scaled if sampling.temperature is None else sampling.temperature
    top_k = default.top_k if sampling.top_k is None else sampling.top_k
    if sampling.temperature is not None and sampling.top_k is None and top_k == 1:
        top_k = _DEFAULT_TOP_K
    return _GREEDY if temperature == 0 or top_k == 1 else SamplingParams(temperature, top_k)


class Slots:
    """Tensors [slots + 1, ...]: KV cache, codec state, positions, sampling parameters.

    `dtype` is the language model's; the codec's state has that of the codec.
    """

    def __init__(
        self,
        config: CSMConfig,
        count: int,
        codec: MimiDecoder,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.count = count
        self.dummy = count
        self.kv = KVCache(config.backbone, count + 1, device=device, dtype=dtype)
        self.codec = codec.open_state(count + 1, device=device, dtype=codec.dtype)
        rows = count + 1
        self.state = RowState(
            inputs=torch.zeros(rows, config.backbone.hidden_size, device=device, dtype=dtype),
            positions=torch.zeros(rows, device=device, dtype=torch.int64),
            frames=torch.zeros(rows, device=device, dtype=torch.int64),
            seeds=torch.zeros(rows, device=device, dtype=torch.int64),
            temperature=torch.zeros(rows, 2, device=device),
            top_k=torch.ones(rows, 2, device=device, dtype=torch.int64),
            text_ranges=torch.zeros(rows, 2, device=device, dtype=torch.int64),
        )
        self._open: dict[int, _Row] = {}
        # Most steps run the rows of the step before.
        self._row_sampling = lru_cache(_ROW_SAMPLINGS)(
            partial(row_sampling, ids=config.codec.codebook_size, device=device)
        )
        # Of each slot's text tokens, by index; the first is NaN without text.
        self._char_positions = np.full((rows, config.backbone.max_positions), np.nan, np.float32)

    def open(self, openings: Sequence[Opening], first_inputs: Tensor) -> None:
        """Begin rows; first_inputs [openings, hidden] are their next backbone inputs."""
        state, device = self.state, self.state.inputs.device
        rows = torch.tensor([opening.slot for opening in openings], device=device)
        for opening in openings:
            self.codec.clear(opening.slot)
        state.inputs[rows] = first_inputs
        starts = [(opening.position, opening.seed) for opening in openings]
        positions, seeds = torch.tensor(starts, device=device).unbind(1)
        state.positions[rows] = positions
        state.seeds[rows] = seeds
        state.frames[rows] = 0
        state.temperature[rows] = torch.tensor(
            [[params.temperature for params in opening.sampling] for opening in openings],
            device=device,
        )
        state.top_k[rows] = torch.tensor(
            [[params.top_k for params in opening.sampling] for opening in openings], device=device
        )
        state.text_ranges[rows] = torch.tensor(
            [opening.text_range for opening in openings], device=device
        )
        self.note_open(openings)

    def note_open(self, openings: Sequence[Opening]) -> None:
        """Record on the host that rows have begun; their tensors are written already."""
        for opening in openings:
            self._open[opening.slot] = _Row(
                opening.position, opening.sampling, RowNoise(opening.seed), opening.text_range
            )
            char_positions = self._char_positions[opening.slot]
            char_positions[0] = np.nan
            char_positions[: len(opening.char_positions)] = opening.char_positions

    def close(self, slot: int) -> None:
        """Release a row; its tensors are overwritten when the slot opens again."""
        self._open.pop(slot, None)

    def clear(self, slot: int) -> None:
        """Zero a row's tensors: masked values enter attention's sums, and NaN times zero is NaN."""
        for cached in (self.kv.keys, self.kv.values):
            cached[:, slot] = 0
        self.codec.clear(slot)
        self.state.inputs[slot] = 0

    def position(self, slot: int) -> int:
        """Return the position that this slot's next step writes, by the host's copy.

        A captured graph advances the positions on the device only.
        """
        return self._open[slot].position

    def attended_token(self, layer: int, head: int, slot: int, query: Tensor) -> int:
        """Return the index of the text token that a key head attends to most; query [dim].

        It is 0 for a row without text.
        """
        start, length = self._open[slot].text_range
        if not length:
            return 0
        keys = self.kv.keys[layer, slot, head, start : start + length]
        return int((keys.float() @ query.float()).argmax())

    def attended_chars(
        self, slots: NDArray[np.int64], tokens: NDArray[np.integer[Any]]
    ) -> list[float | None]:
        """Return the positions, in characters, of the text tokens with these indices.

        slots, tokens: [rows]; a row without text has None.
        """
        read = self._char_positions[slots, tokens]
        if np.isnan(read).any():
            return [None if np.isnan(position) else float(position) for position in read]
        positions: list[float | None] = read.tolist()
        return positions

    def frame_sampling(self, slots: Sequence[int], padding: int) -> FrameSampling:
        """Return the sampling parameters of the next frame of the slots and of `padding` rows."""
        rows = [self._open[slot] for slot in slots]
        rows += rows[-1:] * padding
        backbone, depth = (
            self._row_sampling(tuple(row.sampling[half] for row in rows))
            for half in (BACKBONE, DEPTH)
        )
        return FrameSampling(
            halves=(backbone, depth), noise=[(row.noise, row.frames) for row in rows]
        )

    def advance(self, slots: list[int], rows: Tensor, next_inputs: Tensor) -> None:
        """Advance the rows by one frame, by the host's copy; next_inputs [batch, hidden]."""
        self.state.inputs.index_copy_(0, rows, next_inputs)
        for row in map(self._open.__getitem__, slots):
            row.position += 1
            row.frames += 1
