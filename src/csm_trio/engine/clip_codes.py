"""Encode reference clips for one checkpoint, judge the prompt they make, choose their speaker id.

In: settings of the engine, clips as samples. Out: codes. Runs in a process of its own, on the CPU,
so that no step waits for it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from csm_trio.audio.pcm import to_float
from csm_trio.audio.reference_clip import UnusableClip
from csm_trio.config import EngineConfig
from csm_trio.engine.load import checkpoint_files, load_model, model_sizes
from csm_trio.engine.memory import checkpoint_bytes
from csm_trio.engine.prefill_eager import embed_rows
from csm_trio.engine.prefix_cache import max_prefix_positions
from csm_trio.engine.prompt import PrefixTooLong, TextTokenizer, build_context, build_prefix
from csm_trio.engine.utterance import PromptSegment
from csm_trio.errors import StartupError
from csm_trio.model.csm import CSM
from csm_trio.model.linear import linear
from csm_trio.model.mimi.encoder import ClipEncoder
from csm_trio.timebase import FRAME_SAMPLES

_MAX_JUDGING_BYTES = 1 << 30
"""Largest model that is loaded a second time to choose a speaker id."""
_OFFSETS = (FRAME_SAMPLES // 4, FRAME_SAMPLES // 2)
"""Samples left out before a clip is encoded again: its codes depend on where frames begin."""


class ClipCodes:
    """Encodes clips with a checkpoint's own codec."""

    def __init__(self, config: EngineConfig) -> None:
        """Load codec and tokenizer; raises StartupError where they cannot be had."""
        if config.random_weights is not None:
            raise StartupError("--random-weights has no codec that encodes clips.")
        self._config = replace(config, device="cpu", dtype="f32")
        self._files = checkpoint_files(config)
        self._sizes, _ = model_sizes(config, self._files)
        self._encoder = ClipEncoder(self._files)
        self._tokenizer = TextTokenizer.from_file(self._files.tokenizer)

    def encode(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Encode samples [n] at 24 kHz to codes [frames, codebooks]."""
        return self._encoder.encode(to_float(pcm), codebooks=self._sizes.codebooks)

    def encode_voice(
        self, speaker_ids: Sequence[int], clips: Sequence[tuple[str, NDArray[np.int16]]]
    ) -> tuple[int, list[NDArray[np.int16]]]:
        """Return a voice's speaker id, chosen among `speaker_ids`, and the codes of its clips.

        clips: texts and samples [n]. Raises UnusableClip where they leave too few positions for
        speech.
        """
        codes = [self.encode(pcm) for _, pcm in clips]
        speaker_id = self._likeliest_speaker(clips, codes, speaker_ids)
        try:
            build_prefix(
                self._tokenizer,
                [
                    PromptSegment(speaker_id, text, made)
                    for (text, _), made in zip(clips, codes, strict=True)
                ],
                codebooks=self._sizes.codebooks,
                max_positions=max_prefix_positions(self._sizes),
            )
        except PrefixTooLong as error:
            raise UnusableClip(str(error)) from None
        return speaker_id, codes

    def _likeliest_speaker(
        self,
        clips: Sequence[tuple[str, NDArray[np.int16]]],
        codes: Sequence[NDArray[np.int16]],
        speaker_ids: Sequence[int],
    ) -> int:
        """Return the speaker id under which the model finds clips (text, samples) likeliest.

        codes: those of the clips from their first sample.

        A model that was trained with one id a speaker speaks in that id's voice, whatever clip
        comes before; the loss of codebook 0 tells the ids apart. It returns the first id for a
        model that is too large to be loaded a second time: CSM-1B's ids are only labels.
        """
        if len(speaker_ids) == 1 or not self._may_judge:
            return speaker_ids[0]
        losses = dict.fromkeys(speaker_ids, 0.0)
        for (text, pcm), made in zip(clips, codes, strict=True):
            for one in (made, *(self.encode(pcm[offset:]) for offset in _OFFSETS)):
                for speaker_id in speaker_ids:
                    losses[speaker_id] += self._loss(PromptSegment(speaker_id, text, one))
        return min(losses, key=losses.__getitem__)

    @property
    def _may_judge(self) -> bool:
        return checkpoint_bytes(self._sizes, torch.float32) <= _MAX_JUDGING_BYTES

    @cached_property
    def _model(self) -> CSM:
        return load_model(self._config).model

    @torch.inference_mode()
    def _loss(self, segment: PromptSegment) -> float:
        """Return the mean cross entropy of a segment's codebook 0, in nats a frame."""
        prompt = build_context(self._tokenizer, [segment], codebooks=self._sizes.codebooks)
        rows = embed_rows(self._model, prompt, 0, prompt.positions, torch.device("cpu"))
        cos, sin = self._model.rotary.at(torch.arange(prompt.positions))
        hidden = self._model.backbone(rows[None], cos, sin, _attend_causally)[0]
        frames = len(segment.codes)
        first = prompt.positions - 1 - frames - 1  # the text's last row predicts the first frame
        logits = linear(hidden[first : first + frames], self._model.first_head).float()
        expected = torch.from_numpy(segment.codes[:, 0].astype(np.int64))
        return float(F.cross_entropy(logits, expected))


def _attend_causally(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    q, k, v = (one.transpose(1, 2) for one in (queries, keys, values))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return mixed.transpose(1, 2)
