"""Prefill and step on the device. Torch only; every call comes from the one device thread.

In: utterances and slots. Out: frames of 16-bit audio with their codes. Whose turn it is and who
listens are the scheduler's and the service's business.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_trio.engine.slots import Slots, resolve_sampling
from csm_trio.engine.utterance import Frame, Utterance
from csm_trio.model.attention import Span
from csm_trio.model.config import FRAME_SAMPLES, CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.llama import Attend
from csm_trio.model.mimi import MimiDecoder
from csm_trio.model.prompt import Prompt, TextTokenizer, build_prompt


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model runs and in what precision."""

    device: torch.device
    dtype: torch.dtype


class TorchRunner:
    """One copy of the weights, `slots` rows that each keep their own clock.

    On a CPU the batch always has as many rows as there are slots (padding included), attention
    goes row by row over exactly that row's past, and the codec runs a row at a time: so a row's
    audio is the same, to the bit, whoever else is speaking.
    """

    def __init__(
        self,
        config: CSMConfig,
        model: CSM,
        codec: MimiDecoder,
        tokenizer: TextTokenizer,
        *,
        slots: int,
        placement: Placement,
    ) -> None:
        self._config = config
        self._model = model
        self._codec = codec
        self._tokenizer = tokenizer
        self._device = placement.device
        self._on_cpu = placement.device.type == "cpu"
        self._slots = Slots(config, slots, codec, device=placement.device, dtype=placement.dtype)

    @property
    def slots(self) -> int:
        """How many utterances it can speak at once."""
        return self._slots.count

    @torch.inference_mode()
    def open(self, slot: int, utterance: Utterance) -> int:
        """Prefill an utterance's prompt into a slot; return how many frames there is room for.

        All but the prompt's last row is prefilled: the first step takes that row as its input,
        so that every step is the same. Raises TextTooLong where the text alone fills the cache.
        """
        prompt, room = self._prompt(utterance)
        embedded = self._model.embed_prompt(
            torch.from_numpy(prompt.tokens).to(self._device),
            torch.from_numpy(prompt.mask).to(self._device),
        )
        last = embedded.shape[0] - 1
        if last:
            self._model.prefill(embedded[:last], 0, self._slots.kv.prefill(slot, 0))
        sampling = utterance.sampling
        self._slots.open(
            slot,
            first_input=embedded[last],
            position=last,
            draws=resolve_sampling(sampling, self._config.sampling),
            seed=random.getrandbits(62) if sampling.seed is None else sampling.seed,
        )
        return room

    def _prompt(self, utterance: Utterance) -> tuple[Prompt, int]:
        positions = self._config.backbone.max_positions
        wanted = min(utterance.max_frames, positions // 2)
        prompt = build_prompt(
            self._tokenizer,
            utterance.turns,
            speaker_id=utterance.speaker_id,
            text=utterance.text,
            codebooks=self._config.codebooks,
            max_positions=positions - wanted,
        )
        # The first frame's step writes the prompt's last position.
        return prompt, min(utterance.max_frames, positions - len(prompt.tokens) + 1)

    @torch.inference_mode()
    def step(self, slots: Sequence[int]) -> list[Frame | None]:
        """Make one frame for each open slot; None where its speech has ended."""
        running = list(slots)
        rows = self._padded(running)
        positions = self._slots.positions[rows]
        codes = self._model.next_frame(
            self._slots.inputs[rows],
            positions,
            self._slots.draw(running, rows),
            self._attend(running, rows, positions),
        )
        self._slots.advance(running, rows, self._model.embed_frames(codes))
        spoken = codes.to("cpu", torch.int16).numpy()[: len(running)]  # [running, codebooks]
        # Sesame ends on a frame of zeros; transformers ignores its last codebook. Both end here.
        alive = [row for row in range(len(running)) if spoken[row, :-1].any()]
        pcm = self._decode(codes, rows, alive)
        frames: list[Frame | None] = [None] * len(running)
        for row, samples in zip(alive, pcm, strict=True):
            frames[row] = Frame(samples, spoken[row])
        return frames

    def close(self, slot: int) -> None:
        """Forget what the slot held."""
        self._slots.close(slot)

    def _padded(self, slots: list[int]) -> Tensor:
        batch = self.slots if self._on_cpu else min(1 << (len(slots) - 1).bit_length(), self.slots)
        padding = [self._slots.dummy] * (batch - len(slots))
        return torch.tensor(slots + padding, device=self._device)

    def _attend(self, slots: list[int], rows: Tensor, positions: Tensor) -> Attend:
        if self._on_cpu:
            spans = [Span(row, slot, self._slots.position(slot)) for row, slot in enumerate(slots)]
            return self._slots.kv.step_by_row(spans)
        longest = 1 + max(self._slots.position(slot) for slot in slots)
        return self._slots.kv.step_masked(rows, positions, longest)

    def _decode(self, codes: Tensor, rows: Tensor, alive: list[int]) -> NDArray[np.int16]:
        """Turn the living rows' codes into samples, int16 [alive, 1920]."""
        if not alive:
            return np.empty((0, FRAME_SAMPLES), np.int16)
        groups = [[row] for row in alive] if self._on_cpu else [alive]
        pcm = [self._codec.decode(codes[group], rows[group], self._slots.codec) for group in groups]
        whole = torch.cat(pcm)
        return (whole.clamp(-1, 1) * 32767).round().to("cpu", torch.int16).numpy()
