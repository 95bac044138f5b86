"""Prefill and step on the device. Torch only; every call comes from the one device thread.

In: utterances and slots. Out: frames of 16-bit audio with their codes. Whose turn it is and who
listens are the scheduler's and the service's business.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from csm_trio.engine.eager import EagerStep, ReadingHead, prefill
from csm_trio.engine.slots import Opening, Slots, resolve_sampling
from csm_trio.engine.utterance import Frame, Utterance
from csm_trio.errors import SpeechError
from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.mimi import MimiDecoder
from csm_trio.model.prompt import Prompt, TextTokenizer, build_prompt

if TYPE_CHECKING:
    from csm_trio.engine.prefill import GraphedPrefill

_CUDA_OPENS_PER_STEP = 8


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model runs and in what precision."""

    device: torch.device
    dtype: torch.dtype


class FrameStep(Protocol):
    """How a device makes one frame for the running rows."""

    def run(self, slots: Sequence[int]) -> list[Frame | None]:
        """Make one frame for each open slot; None where its speech has ended."""


class TorchRunner:
    """One copy of the weights, `slots` rows that each keep their own clock."""

    def __init__(
        self,
        config: CSMConfig,
        model: CSM,
        codec: MimiDecoder,
        tokenizer: TextTokenizer,
        *,
        slots: int,
        placement: Placement,
        head: ReadingHead | None = None,
    ) -> None:
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._device = placement.device
        self._slots = Slots(config, slots, codec, device=placement.device, dtype=placement.dtype)
        self._graphed_prefill: GraphedPrefill | None = None
        self._step = self._make_step(codec, head)

    def _make_step(self, codec: MimiDecoder, head: ReadingHead | None) -> FrameStep:
        if self._device.type != "cuda":
            return EagerStep(self._model, codec, self._slots, head=head)
        # Imported here: its kernels need Triton, which only CUDA builds of torch bring.
        from csm_trio.engine.graphs import GraphedStep
        from csm_trio.engine.prefill import GraphedPrefill

        self._graphed_prefill = GraphedPrefill(self._model, self._slots)
        self._graphed_prefill.capture()
        step = GraphedStep(self._config, self._model, codec, self._slots)
        step.capture()
        return step

    @property
    def slots(self) -> int:
        """How many utterances it can speak at once."""
        return self._slots.count

    @property
    def opens_per_step(self) -> int:
        """How many utterances to open at once, so that those who speak wait about a step."""
        return _CUDA_OPENS_PER_STEP if self._device.type == "cuda" else 1

    @torch.inference_mode()
    def open(self, batch: Sequence[tuple[int, Utterance]]) -> list[int | SpeechError]:
        """Prefill prompts into slots; return how many frames there is room for in each.

        All but a prompt's last row is prefilled: the first step takes that row as its input,
        so that every step is the same. An utterance that cannot be said gets its error, such as
        TextTooLong where the text alone fills the cache, and its slot stays free.
        """
        outcomes: list[int | SpeechError] = []
        prompts: list[tuple[Opening, Prompt]] = []
        for slot, utterance in batch:
            try:
                prompt, room = self._prompt(utterance)
            except SpeechError as error:
                outcomes.append(error)
                continue
            outcomes.append(room)
            prompts.append((self._opening(slot, prompt, utterance), prompt))
        for group in self._groups(prompts):
            self._prefill(group)
        return outcomes

    def _opening(self, slot: int, prompt: Prompt, utterance: Utterance) -> Opening:
        sampling = utterance.sampling
        return Opening(
            slot=slot,
            position=prompt.positions - 1,
            draws=resolve_sampling(sampling, self._config.sampling),
            seed=random.getrandbits(62) if sampling.seed is None else sampling.seed,
            places=prompt.places,
        )

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

    def _groups(
        self, prompts: list[tuple[Opening, Prompt]]
    ) -> Iterator[list[tuple[Opening, Prompt]]]:
        """Part prompts into prefills; alone elsewhere than on CUDA, so that none sees another."""
        if self._graphed_prefill is None:
            yield from ([prompt] for prompt in prompts)
            return
        group: list[tuple[Opening, Prompt]] = []
        for opening, prompt in sorted(prompts, key=lambda pair: pair[1].positions):
            if group and not self._graphed_prefill.fits(len(group) + 1, prompt.positions):
                yield group
                group = []
            group.append((opening, prompt))
        if group:
            yield group

    def _prefill(self, group: Sequence[tuple[Opening, Prompt]]) -> None:
        if self._graphed_prefill is not None:
            self._graphed_prefill.run(group)
            return
        ((opening, prompt),) = group
        prefill(self._model, self._slots, opening, prompt)

    def step(self, slots: Sequence[int]) -> Sequence[Frame | None]:
        """Make one frame for each open slot; None where its speech has ended."""
        return self._step.run(slots)

    def close(self, slot: int) -> None:
        """Forget what the slot held."""
        self._slots.close(slot)
