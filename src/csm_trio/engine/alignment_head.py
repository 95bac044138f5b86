"""Find the backbone's alignment head: the attention head that follows the text being generated.

In: a loaded model. Out: the head, or None. It differs from checkpoint to checkpoint, so it is
measured: the model generates a sentence, and the attention of every head is recorded. Decoders
from text to audio are known to have such heads (VALL-E and others).
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
from csm_trio.engine.step_eager import EagerStep
from csm_trio.engine.utterance import Frame, Sampling
from csm_trio.model.attention import AlignmentHead, without_cudnn
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder

logger = logging.getLogger(__name__)

_TEXT = "Good morning, how can I help you today?"
_MAX_FRAMES = 100
_MAX_S = 10.0
"""Seconds after which the search is given up: a model this slow cannot serve."""
_CUDA_MAX_S = 30.0
"""The same on CUDA, where the search launches operation by operation and serving does not."""

_MAX_TOKENS_PER_FRAME = 6
"""Maximum of text tokens that a path advances in one frame."""
_MARGIN = 3  # tokens that a path may leave out at either end of the text
_MIN_SHARE = 0.2
"""Minimum share of a head's attention, as a geometric mean, on one path through the text."""
_GOOD_FRACTION = 0.8
"""Fraction of the best head's share from which a head is a candidate."""
_MIN_ATTENTION = 1e-4


@torch.inference_mode()
def find_alignment_head(
    model: CSM, codec: MimiDecoder, tokenizer: TextTokenizer, dtype: torch.dtype
) -> AlignmentHead | None:
    """Generate a sentence; return the head whose attention went through its text in order.

    `dtype` is that of the KV cache. Returns None if no head does, if the cache is too short, or if
    the model is too slow.

    Some heads attend ahead of the speech. Of the candidates, the one with the smallest mean
    position follows the text being generated.
    """
    started_s = time.perf_counter()
    until_s = started_s + (_CUDA_MAX_S if model.text_embedding.is_cuda else _MAX_S)
    with without_cudnn():  # cuDNN would also plan anew for every length of the past
        attention = _attention(model, codec, tokenizer, dtype, until_s=until_s)
    if attention is None:
        return None
    shares = {
        AlignmentHead(layer, head): path_share(attention[:, layer, head])
        for layer in range(attention.shape[1])
        for head in range(attention.shape[2])
    }
    enough = max(_MIN_SHARE, _GOOD_FRACTION * max(shares.values()))
    good = [head for head, share in shares.items() if share >= enough]
    took_s = time.perf_counter() - started_s
    if not good:
        logger.info("no alignment head found (%.1f s)", took_s)
        return None
    found = min(good, key=lambda head: _mean_position(attention[:, head.layer, head.head]))
    logger.info(
        "alignment head: layer %d, head %d, share %.2f (%.1f s)",
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
    """Return every head's attention to the text, [frames, layers, heads, tokens].

    The rows around the text are left out: many heads attend to the first token by default.
    """
    config = model.config
    prompt = build_prompt(
        tokenizer, (), speaker_id=0, text=_TEXT, codebooks=config.codebooks, max_positions=1 << 20
    )
    text = slice(prompt.positions - 1 - len(prompt.char_positions), prompt.positions - 1)
    length = prompt.positions + _MAX_FRAMES
    if length > config.backbone.max_positions:
        logger.info("no alignment head: the search takes %d positions", length)
        return None
    sized = replace(config, backbone=replace(config.backbone, max_positions=length))
    device = model.text_embedding.device
    slots = Slots(sized, 1, codec, device=device, dtype=dtype)
    sampling = resolve_sampling(Sampling(), config.sampling)
    embedded = embed_rows(model, prompt, 0, prompt.positions, device)
    fill_rows(model, slots, 0, 0, embedded[:-1])
    slots.open([Opening(0, prompt.positions - 1, sampling, seed=0)], embedded[-1:])
    step = EagerStep(model, codec, slots)
    recorded: list[list[Tensor]] = []

    def record(layer: int, queries: Tensor) -> None:
        keys = slots.kv.keys[layer, 0, :, : slots.position(0) + 1]  # [kv_heads, past, dim]
        groups = queries[0].view(len(keys), -1, queries.shape[-1])
        scores = groups.float() @ keys.float().transpose(1, 2) / queries.shape[-1] ** 0.5
        recorded[-1].append(scores.softmax(dim=-1).flatten(0, 1)[:, text])

    for _ in range(_MAX_FRAMES):
        recorded.append([])
        if not isinstance(step.run([0], record)[0], Frame):
            break
        if time.perf_counter() > until_s:
            logger.info("no alignment head: the search took too long")
            return None
    attention: NDArray[np.float64] = (
        torch.stack([torch.stack(each) for each in recorded]).cpu().numpy()
    )
    return attention


def path_share(attention: NDArray[np.float64]) -> float:
    """Return the share of `attention` [frames, tokens] on the best path through the tokens.

    A geometric mean over frames. A path never goes back, begins near the first token and ends
    near the last.
    """
    frames, tokens = attention.shape
    logs = np.log(attention + _MIN_ATTENTION)
    best = np.where(np.arange(tokens) < _MARGIN, logs[0], -np.inf)
    for row in logs[1:]:
        steps = [best, *(np.roll(best, step) for step in range(1, _MAX_TOKENS_PER_FRAME + 1))]
        for step in range(1, _MAX_TOKENS_PER_FRAME + 1):
            steps[step][:step] = -np.inf
        best = np.max(steps, axis=0) + row
    return float(np.exp(best[-_MARGIN:].max() / frames))


def _mean_position(attention: NDArray[np.float64]) -> float:
    """Return the mean index of the token that a head attended to."""
    return float((attention.sum(axis=0) @ np.arange(attention.shape[1])) / attention.sum())
