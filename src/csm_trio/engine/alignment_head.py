"""Which of the backbone's attention heads reads along: looks at the text that it is saying.

In: a loaded model. Out: the head, or None. It differs from checkpoint to checkpoint, so none is
named here: the model says a sentence, and every head is watched. That heads of a decoder which
goes from text to audio align the two is known (of VALL-E and others).
"""

import logging
import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_trio.engine.prefill_eager import embed_rows, fill_rows
from csm_trio.engine.prompt import TextTokenizer, build_prompt
from csm_trio.engine.slots import Opening, Slots, resolve_sampling
from csm_trio.engine.step_eager import AlignmentHead, EagerStep
from csm_trio.engine.utterance import Sampling
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder

logger = logging.getLogger(__name__)

_TEXT = "Good morning, how can I help you today?"
_MOST_FRAMES = 100
_MOST_S = 10.0
"""A model too slow for this is too slow to speak with."""

_LONGEST_STEP = 6
"""Tokens of text that may pass in a frame; more is no reading."""
_MARGIN = 3  # tokens that a path may leave out at either end of the text
_LEAST_SHARE = 0.2
"""Of a head's attention, on a (geometric) average, that must lie on one path through the text."""
_NEARLY = 0.8
"""Of the best head's share: how much makes a head as good as it."""
_NOTHING = 1e-4


@torch.inference_mode()
def find_alignment_head(
    model: CSM, codec: MimiDecoder, tokenizer: TextTokenizer, dtype: torch.dtype
) -> AlignmentHead | None:
    """Have the model say a sentence; return the head that went through its text in order.

    `dtype` is the keys'.

    Some heads look ahead. Of those that are nearly as good as the best, the one that looks least
    far ahead is at the text that is being said.
    """
    started_s = time.perf_counter()
    attention = _attention(model, codec, tokenizer, dtype, until_s=started_s + _MOST_S)
    if attention is None:
        return None
    shares = {
        AlignmentHead(layer, head): path_share(attention[:, layer, head])
        for layer in range(attention.shape[1])
        for head in range(attention.shape[2])
    }
    enough = max(_LEAST_SHARE, _NEARLY * max(shares.values()))
    good = [head for head, share in shares.items() if share >= enough]
    took_s = time.perf_counter() - started_s
    if not good:
        logger.info("no attention head reads along (%.1f s)", took_s)
        return None
    found = min(good, key=lambda head: _mean_place(attention[:, head.layer, head.head]))
    logger.info(
        "layer %d, head %d reads along: %.2f of its attention (%.1f s)",
        found.layer, found.head, shares[found], took_s,
    )  # fmt: skip
    return found


def _attention(
    model: CSM,
    codec: MimiDecoder,
    tokenizer: TextTokenizer,
    dtype: torch.dtype,
    *,
    until_s: float,
) -> NDArray[np.float64] | None:
    """Return what every head gave to the text, [frames, layers, heads, tokens].

    Not to what stands around it: many heads rest on the first token.
    """
    config = model.config
    prompt = build_prompt(
        tokenizer, (), speaker_id=0, text=_TEXT, codebooks=config.codebooks, max_positions=1 << 20
    )
    text = slice(prompt.positions - 1 - len(prompt.places), prompt.positions - 1)
    length = prompt.positions + _MOST_FRAMES
    if length > config.backbone.max_positions:
        return None
    sized = replace(config, backbone=replace(config.backbone, max_positions=length))
    device = model.text_embedding.device
    slots = Slots(sized, 1, codec, device=device, dtype=dtype)
    sampling = resolve_sampling(Sampling(), config.sampling)
    embedded = embed_rows(model, prompt, 0, prompt.positions, device)
    fill_rows(model, slots, 0, 0, embedded[:-1])
    slots.open([Opening(0, prompt.positions - 1, sampling, seed=0)], embedded[-1:])
    step = EagerStep(model, codec, slots)
    seen: list[list[Tensor]] = []

    def watch(layer: int, queries: Tensor) -> None:
        keys = slots.kv.keys[layer, 0, :, : slots.position(0) + 1]  # [kv_heads, past, dim]
        groups = queries[0].view(len(keys), -1, queries.shape[-1])
        scores = groups.float() @ keys.float().transpose(1, 2) / queries.shape[-1] ** 0.5
        seen[-1].append(scores.softmax(dim=-1).flatten(0, 1)[:, text])

    for _ in range(_MOST_FRAMES):
        seen.append([])
        if step.run([0], watch) == [None]:
            break
        if time.perf_counter() > until_s:
            return None
    every: NDArray[np.float64] = torch.stack([torch.stack(each) for each in seen]).cpu().numpy()
    return every


def path_share(attention: NDArray[np.float64]) -> float:
    """Return the share of `attention` [frames, tokens] on the best path through the tokens.

    A geometric mean over frames. A path never goes back, begins near the first token and ends
    near the last.
    """
    frames, tokens = attention.shape
    logs = np.log(attention + _NOTHING)
    best = np.where(np.arange(tokens) < _MARGIN, logs[0], -np.inf)
    for row in logs[1:]:
        steps = [best, *(np.roll(best, step) for step in range(1, _LONGEST_STEP + 1))]
        for step in range(1, _LONGEST_STEP + 1):
            steps[step][:step] = -np.inf
        best = np.max(steps, axis=0) + row
    return float(np.exp(best[-_MARGIN:].max() / frames))


def _mean_place(attention: NDArray[np.float64]) -> float:
    """Return the token that a head looked at on average."""
    return float((attention.sum(axis=0) @ np.arange(attention.shape[1])) / attention.sum())
