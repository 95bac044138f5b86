"""CSM: a Llama backbone over frames, and a depth decoder that generates each frame's codes.

In: embedded prompts, or the last frame's codes. Out: the next frame's codes, one row per running
slot. It must not know the codec, the slots or the scheduling.

Source: SesameAILabs/csm, models.py and generator.py; tensor names as in transformers' CSM.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.attention import DepthKVCache
from csm_trio.model.checkpoint.tensor_names import (
    AUDIO_EMBEDDINGS,
    DEPTH_AUDIO_EMBEDDINGS,
    TEXT_EMBEDDINGS,
)
from csm_trio.model.config import CSMConfig
from csm_trio.model.linear import Int8Matrix, linear, packed
from csm_trio.model.llama import Attend, Llama, RotaryTable
from csm_trio.model.sampling import RowNoise, RowSampling, sample_codes

BACKBONE, DEPTH = 0, 1
"""Indices of `FrameSampling.halves`, and of columns of `RowState.temperature` and `.top_k`."""

_PROJECTION_CHUNK_ROWS = 4096
"""Number of embedding rows that are converted and projected at a time."""


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """Sampling parameters of one frame for each row of a batch.

    halves: of BACKBONE (codebook 0) and DEPTH (the others); None is greedy in all rows, for which
    no noise is generated. noise: each row's, and its frame's number.
    """

    halves: tuple[RowSampling | None, RowSampling | None]
    noise: Sequence[tuple[RowNoise, int]]


@dataclass(frozen=True, slots=True)
class RowState:
    """Device state of every slot besides the KV cache and the codec.

    inputs: [slots, hidden], the backbone's next input; positions: int64 [slots], its position;
    frames: int64 [slots], the number generated; seeds: int64 [slots]; temperature, top_k:
    [slots, 2]; text_ranges: int64 [slots, 2], the first position and the number of the text tokens
    to generate. The last slot is the dummy for padding rows.
    """

    inputs: Tensor
    positions: Tensor
    frames: Tensor
    seeds: Tensor
    temperature: Tensor
    top_k: Tensor
    text_ranges: Tensor


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _projected(audio: Tensor, projector: Tensor) -> Tensor:
    """Project audio embeddings [rows, hidden] to [rows, depth hidden] in their own type."""
    if audio.dtype == projector.dtype:
        return F.linear(audio, projector)
    parts = torch.split(audio, _PROJECTION_CHUNK_ROWS)
    return torch.cat([F.linear(part.to(projector.dtype), projector).to(part) for part in parts])


def _sum(logits: Tensor) -> Tensor:
    """Sum logits [batch, ids] to [batch]: NaN or infinite where one of them is, in one pass."""
    return logits.sum(dim=1, dtype=torch.float32)


def _summing(attend: Attend, sums: list[Tensor] | None) -> Attend:
    """Have it append the sums [batch] of queries, keys and values, if there is a list for them.

    Torch's attention on a CPU makes zeros of NaN where a query has fewer than 16 keys, all its
    scores NaN: the logits do not tell.
    """
    if sums is None:
        return attend

    def attend_summing(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        of_queries, of_keys, of_values = (_sum(each.flatten(1)) for each in (queries, keys, values))
        sums.append(of_queries + of_keys + of_values)
        return attend(layer, queries, keys, values)

    return attend_summing


class CSM(nn.Module):
    """Backbone and depth decoder with their embeddings and output heads.

    The heads keep only the ids that the codec can decode: CSM-1B's vocabulary has three more
    (2048 to 2050, for codebooks of 2048 entries), which must never be sampled.
    """

    def __init__(self, config: CSMConfig, *, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.backbone = Llama(config.backbone)
        self.depth = Llama(config.depth)
        self.rotary = RotaryTable(config.backbone, device=device)
        depth_positions = torch.arange(config.codebooks, device=device)
        self.depth_cos, self.depth_sin = RotaryTable(config.depth, device=device).at(
            depth_positions
        )
        self.codebook_offsets = torch.arange(config.codebooks, device=device) * (
            config.audio_vocab_size
        )

    def load(self, tensors: MutableMapping[str, Tensor]) -> None:
        """Take the tensors, named as in transformers' checkpoints of `sesame/csm-1b`.

        Without a table of its own the depth decoder embeds codes by the backbone's. The tensors
        are removed from `tensors` as they are taken, so that none is in memory twice.
        """
        decodable = self.config.codec.codebook_size
        self.backbone.load(tensors, "backbone_model")
        self.depth.load(tensors, "depth_decoder.model")
        self.text_embedding = _parameter(tensors.pop(TEXT_EMBEDDINGS))
        audio = tensors.pop(AUDIO_EMBEDDINGS)
        self.audio_embedding = _parameter(audio)
        projector = tensors.pop("depth_decoder.model.inputs_embeds_projector.weight")
        self.depth_projector = _parameter(projector)
        # The depth decoder reads audio embeddings through the projector only: project them once.
        depth_audio = tensors.pop(DEPTH_AUDIO_EMBEDDINGS, audio)
        self.depth_embedding = _parameter(_projected(depth_audio, projector))
        self.first_head = _parameter(tensors.pop("lm_head.weight")[:decodable])
        heads = tensors.pop("depth_decoder.codebooks_head.weight")  # [codebooks - 1, in, out]
        heads = heads[:, :, :decodable].transpose(1, 2).contiguous()
        self.depth_heads = nn.ParameterList(map(_parameter, heads))

    def pack(self, *, quantized: bool) -> None:
        """Pack the matrices for a CPU; round the output heads of a quantized model to int8.

        The layers' matrices are of the types that they were loaded in.
        """
        for half in (self.backbone, self.depth):
            for layer in half.blocks:
                layer.pack()
        head = Int8Matrix.rounded if quantized else packed
        self.first_head = head(self.first_head)
        self.depth_heads = nn.ParameterList(map(head, self.depth_heads))
        self.depth_projector = packed(self.depth_projector)

    def embed_prompt(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed prompt rows: tokens and mask [positions, codebooks + 1] -> [positions, hidden].

        Each row is the sum of its unmasked columns' embeddings; the last column is text.
        """
        text = self._embed(tokens[:, -1], self.text_embedding)
        text = text * mask[:, -1, None]
        rows = tokens[:, :-1] + self.codebook_offsets
        if tokens.is_cuda:  # unsummed embeddings of a long prompt take gigabytes
            weights = mask[:, :-1].to(text.dtype)
            summed = F.embedding_bag(
                rows, self.audio_embedding, mode="sum", per_sample_weights=weights
            )
            return summed + text
        audio = self._embed(rows, self.audio_embedding)
        return (audio * mask[:, :-1, None]).sum(dim=1) + text

    def embed_frames(self, codes: Tensor) -> Tensor:
        """Embed frames: codes [batch, codebooks] -> the backbone's inputs [batch, hidden]."""
        return self._embed(codes + self.codebook_offsets, self.audio_embedding).sum(dim=1)

    def _embed(self, ids: Tensor, table: Tensor) -> Tensor:
        """Gather rows `ids` of an embedding table, in the type of the activations."""
        return F.embedding(ids, table).to(self.backbone.norm.dtype)

    def prefill(self, inputs: Tensor, positions: Tensor, attend: Attend) -> None:
        """Run the backbone over prompts [batch, time, hidden] to fill the KV cache.

        positions: int64, [time] or [batch, time].
        """
        cos, sin = self.rotary.at(positions)
        self.backbone(inputs, cos, sin, attend)

    def next_frame(
        self, inputs: Tensor, positions: Tensor, sampling: FrameSampling, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        """Generate one frame per row: inputs [batch, hidden], positions int64 [batch].

        Returns codes int64 [batch, codebooks], and whether all logits of a row were finite, bool
        [batch]: the codes of a row with NaN or infinity have no meaning. A frame of zeros in all
        codebooks ends the utterance (SesameAILabs/csm, `generate` in generator.py).
        """
        cos, sin = self.rotary.at(positions.unsqueeze(1))
        head_sums: list[Tensor] | None = None if inputs.is_cuda else []
        attend = _summing(attend, head_sums)
        hidden = self.backbone(inputs.unsqueeze(1), cos, sin, attend)[:, 0]  # [batch, hidden]
        logits = linear(hidden, self.first_head)
        codes, sums = self.decode_depth(hidden, logits, sampling, head_sums)
        if head_sums is not None:
            sums = torch.cat((sums, torch.stack(head_sums, dim=1)), dim=1)
        return codes, sums.isfinite().all(dim=1)

    def decode_depth(
        self,
        hidden: Tensor,
        first_logits: Tensor,
        sampling: FrameSampling,
        head_sums: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample codebook 0 from its logits [batch, ids], and the others by the depth decoder.

        Its position 0 is the backbone's hidden state [batch, hidden], position i the code of
        codebook i - 1. Returns codes, and the sums of the logits that they were sampled from: each
        [batch, codebooks]. Appends the sums of all layers' queries, keys and values to `head_sums`.
        """
        first = self.sample(first_logits, 0, sampling)
        codes, sums = [first], [_sum(first_logits)]
        codebooks = self.config.codebooks
        projected = linear(hidden, self.depth_projector)
        inputs = torch.stack((projected, self._embed(first, self.depth_embedding)), dim=1)
        cache = DepthKVCache(self.config.depth, inputs.shape[0], codebooks, inputs)
        attend = _summing(cache.attend, head_sums)
        for codebook in range(1, codebooks):
            end = cache.start + inputs.shape[1]
            cos = self.depth_cos[cache.start : end]
            sin = self.depth_sin[cache.start : end]
            states = self.depth(inputs, cos, sin, attend)[:, -1]
            cache.start = end
            logits = linear(states, self.depth_heads[codebook - 1])
            chosen = self.sample(logits, codebook, sampling)
            codes.append(chosen)
            sums.append(_sum(logits))
            rows = chosen + codebook * self.config.audio_vocab_size
            inputs = self._embed(rows, self.depth_embedding).unsqueeze(1)
        return torch.stack(codes, dim=1), torch.stack(sums, dim=1)

    def sample(self, logits: Tensor, codebook: int, sampling: FrameSampling) -> Tensor:
        """Sample each row's code of a codebook from logits [batch, ids]: int64 [batch]."""
        rows = sampling.halves[DEPTH if codebook else BACKBONE]
        if rows is None:
            return logits.argmax(dim=1)
        ids = logits.shape[1]
        noise = torch.cat([row.at(frame, codebook, ids) for row, frame in sampling.noise])
        return sample_codes(logits.float(), rows, noise.to(logits.device))
