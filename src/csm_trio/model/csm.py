"""CSM: a Llama backbone over frames, and a depth decoder that spells each frame's codes.

In: prompt rows, or the last frame's codes. Out: the next frame's codes, one row a running slot.
The codec, the slots and whose turn it is are others' business.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.attention import DepthKVCache
from csm_trio.model.checkpoint.tensor_names import AUDIO_EMBEDDINGS, TEXT_EMBEDDINGS
from csm_trio.model.config import CSMConfig
from csm_trio.model.linear import Int8Matrix, linear, packed
from csm_trio.model.llama import Attend, Llama, RotaryTable
from csm_trio.model.sampling import gumbel_noise, sample_codes

BACKBONE, DEPTH = 0, 1
"""Columns of `FrameSampling.temperature` and `.top_k`."""

_PROJECTED_ROWS = 4096


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """How each row of a batch draws the codes of one frame.

    temperature: float32 [batch, 2]; top_k: int64 [batch, 2]; columns BACKBONE (codebook 0) and
    DEPTH (the others). seeds, frames: int64 [batch]. `noisy` tells for each column whether any
    row samples at all, and `largest_k` the largest top-k in it: host values, so that a batch of
    greedy rows makes no noise.
    """

    temperature: Tensor
    top_k: Tensor
    seeds: Tensor
    frames: Tensor
    noisy: tuple[bool, bool]
    largest_k: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RowState:
    """What rows have on the device beside keys and codec, indexed by slot.

    inputs: [slots, hidden], the backbone's next input; positions: where that goes; frames: how
    many were made; temperature, top_k: [slots, 2]; seeds. The last slot is the dummy.
    """

    inputs: Tensor
    positions: Tensor
    frames: Tensor
    seeds: Tensor
    temperature: Tensor
    top_k: Tensor


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _projected(audio: Tensor, projector: Tensor) -> Tensor:
    """Project audio embeddings [rows, hidden], kept in the type they have."""
    if audio.dtype == projector.dtype:
        return F.linear(audio, projector)
    parts = torch.split(audio, _PROJECTED_ROWS)
    return torch.cat([F.linear(part.to(projector.dtype), projector).to(part) for part in parts])


class CSM(nn.Module):
    """The two transformers with their embeddings and heads.

    Heads are cut to the ids that the codec can decode: CSM's vocabulary has three more (2048 to
    2050 for 2048 entries), which no sampling may reach.
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
        self.ids = torch.arange(config.codec.codebook_size, device=device)

    def load(self, tensors: MutableMapping[str, Tensor]) -> None:
        """Take the tensors, named as in transformers' checkpoints of `sesame/csm-1b`.

        They leave `tensors` as they are taken, so that nothing is held twice.
        """
        decodable = self.config.codec.codebook_size
        self.backbone.load(tensors, "backbone_model")
        self.depth.load(tensors, "depth_decoder.model")
        self.text_embedding = _parameter(tensors.pop(TEXT_EMBEDDINGS))
        audio = tensors.pop(AUDIO_EMBEDDINGS)
        self.audio_embedding = _parameter(audio)
        projector = tensors.pop("depth_decoder.model.inputs_embeds_projector.weight")
        self.depth_projector = _parameter(projector)
        # The depth decoder sees audio embeddings through the projector only: project them once.
        self.depth_embedding = _parameter(_projected(audio, projector))
        self.first_head = _parameter(tensors.pop("lm_head.weight")[:decodable])
        heads = tensors.pop("depth_decoder.codebooks_head.weight")  # [codebooks - 1, in, out]
        heads = heads[:, :, :decodable].transpose(1, 2).contiguous()
        self.depth_heads = nn.ParameterList(map(_parameter, heads))

    def pack(self, *, int8: bool) -> None:
        """Keep the matrices as a CPU multiplies them fastest; with `int8`, the heads as int8 rows.

        The layers' matrices are int8 if they were loaded so.
        """
        for half in (self.backbone, self.depth):
            for layer in half.blocks:
                layer.pack()
        head = Int8Matrix.rounded if int8 else packed
        self.first_head = head(self.first_head)
        self.depth_heads = nn.ParameterList(map(head, self.depth_heads))
        self.depth_projector = packed(self.depth_projector)

    def embed_prompt(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed prompt rows: tokens and mask [positions, codebooks + 1] -> [positions, hidden].

        Each row is the sum of its unmasked columns' embeddings; the last column is text.
        """
        text = self._looked_up(tokens[:, -1], self.text_embedding)
        text = text * mask[:, -1, None]
        rows = tokens[:, :-1] + self.codebook_offsets
        if tokens.is_cuda:  # a long prompt's embeddings one by one would fill gigabytes
            shares = mask[:, :-1].to(text.dtype)
            summed = F.embedding_bag(
                rows, self.audio_embedding, mode="sum", per_sample_weights=shares
            )
            return summed + text
        audio = self._looked_up(rows, self.audio_embedding)
        return (audio * mask[:, :-1, None]).sum(dim=1) + text

    def embed_frames(self, codes: Tensor) -> Tensor:
        """Embed frames: codes [batch, codebooks] -> the backbone's next inputs [batch, hidden]."""
        return self._looked_up(codes + self.codebook_offsets, self.audio_embedding).sum(dim=1)

    def _looked_up(self, ids: Tensor, table: Tensor) -> Tensor:
        """Gather rows of a table, in the type of the activations."""
        return F.embedding(ids, table).to(self.backbone.norm.dtype)

    def prefill(self, inputs: Tensor, positions: Tensor, attend: Attend) -> None:
        """Run the backbone over prompts [batch, time, hidden] for their keys alone.

        positions: int64, [time] or [batch, time].
        """
        cos, sin = self.rotary.at(positions)
        self.backbone(inputs, cos, sin, attend)

    def next_frame(
        self, inputs: Tensor, positions: Tensor, draw: FrameSampling, attend: Attend
    ) -> Tensor:
        """Make one frame a row: inputs [batch, hidden], positions [batch] -> [batch, codebooks].

        A frame of zeros is the end of speech (`generate` in Sesame's generator.py).
        """
        cos, sin = self.rotary.at(positions.unsqueeze(1))
        hidden = self.backbone(inputs.unsqueeze(1), cos, sin, attend)[:, 0]  # [batch, hidden]
        first = self._sample(linear(hidden, self.first_head), 0, draw)
        return self._decode_depth(hidden, first, draw)

    def _decode_depth(self, hidden: Tensor, first: Tensor, draw: FrameSampling) -> Tensor:
        """Let the depth decoder add codebooks 1.. to codebook 0.

        Position 0 is the backbone's hidden state, position i the code of codebook i - 1.
        """
        codes = [first]
        codebooks = self.config.codebooks
        leading = linear(hidden, self.depth_projector)
        inputs = torch.stack((leading, self._looked_up(first, self.depth_embedding)), dim=1)
        scratch = DepthKVCache(self.config.depth, inputs.shape[0], codebooks, inputs)
        for codebook in range(1, codebooks):
            end = scratch.start + inputs.shape[1]
            cos = self.depth_cos[scratch.start : end]
            sin = self.depth_sin[scratch.start : end]
            states = self.depth(inputs, cos, sin, scratch.attend)[:, -1]
            scratch.start = end
            chosen = self._sample(linear(states, self.depth_heads[codebook - 1]), codebook, draw)
            codes.append(chosen)
            rows = chosen + codebook * self.config.audio_vocab_size
            inputs = self._looked_up(rows, self.depth_embedding).unsqueeze(1)
        return torch.stack(codes, dim=1)

    def _sample(self, logits: Tensor, codebook: int, draw: FrameSampling) -> Tensor:
        half = DEPTH if codebook else BACKBONE
        if not draw.noisy[half]:
            return logits.argmax(dim=1)
        return sample_codes(
            logits.float(),
            temperature=draw.temperature[:, half],
            top_k=draw.top_k[:, half],
            noise=gumbel_noise(draw.seeds, draw.frames, codebook, self.ids),
            largest_k=draw.largest_k[half],
        )
