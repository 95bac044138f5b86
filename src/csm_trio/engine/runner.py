"""The torch runner: prompts, prefix cache, prefill and steps of the slots on one device.

In: utterances and slots. Out: frames of 16-bit audio with their codes. Only the device thread
uses it. It must not know the order of rows (the scheduler's) or their readers (the service's).
"""

import random
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from csm_trio.engine.placement import Placement
from csm_trio.engine.prefill_eager import EagerPrefill, Prefill, embed_rows, fill_rows
from csm_trio.engine.prefill_plan import PendingPrefill
from csm_trio.engine.prompt import TextTokenizer, build_context, build_prompt
from csm_trio.engine.slots import Opening, Slots, resolve_sampling
from csm_trio.engine.step_eager import AlignmentHead, EagerStep
from csm_trio.engine.utterance import Frame, PromptSegment, Utterance
from csm_trio.errors import SpeechError, StartupError
from csm_trio.model.attention import Prefix
from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder

_CUDA_MAX_PREFILLS_PER_STEP = 8


class FrameStep(Protocol):
    """A device's way to make one frame for the running rows."""

    def run(self, slots: Sequence[int]) -> list[Frame | None]:
        """Make one frame for each open slot; None at its end of speech."""


class TorchRunner:
    """One copy of the weights, and `slots` rows that each have their own position."""

    def __init__(
        self,
        config: CSMConfig,
        model: CSM,
        codec: MimiDecoder,
        tokenizer: TextTokenizer,
        *,
        slots: int,
        placement: Placement,
        clips: Mapping[str, Sequence[PromptSegment]] | None = None,
        head: AlignmentHead | None = None,
    ) -> None:
        """Make the slots' tensors, the prefix cache of voices with `clips` (by voice id), the step.

        Raises StartupError naming the voice whose clips leave too few positions for speech.
        """
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._device = placement.device
        self._slots = Slots(config, slots, codec, device=placement.device, dtype=placement.dtype)
        self._prefixes: dict[str | None, Prefix] = {
            voice_id: self._compute_prefix(voice_id, segments)
            for voice_id, segments in (clips or {}).items()
        }
        self._waiting: dict[int, PendingPrefill] = {}
        self._prefill, self._step = self._make_steps(codec, head)

    @torch.inference_mode()
    def _compute_prefix(self, voice_id: str, segments: Sequence[PromptSegment]) -> Prefix:
        """Compute the KV cache of a voice's clips, with which each of its prompts begins."""
        prompt = build_context(self._tokenizer, segments, codebooks=self._config.codebooks)
        max_positions = self._config.backbone.max_positions // 2
        if prompt.positions > max_positions:
            raise StartupError(
                f"voice {voice_id!r}: its clips and their texts take {prompt.positions} positions "
                f"of the model's memory, and may take {max_positions}: shorten them."
            )
        embedded = embed_rows(self._model, prompt, 0, prompt.positions, self._device)
        fill_rows(self._model, self._slots, self._slots.dummy, 0, embedded)
        return self._slots.kv.copy_out(self._slots.dummy, prompt.positions)

    def _make_steps(
        self, codec: MimiDecoder, head: AlignmentHead | None
    ) -> tuple[Prefill, FrameStep]:
        if self._device.type != "cuda":
            eager = EagerStep(self._model, codec, self._slots, head=head)
            return EagerPrefill(self._model, self._slots), eager
        # Imported here: its kernels need Triton, which only CUDA builds of torch bring.
        from csm_trio.engine.prefill_graphed import GraphedPrefill
        from csm_trio.engine.step_graphed import GraphedStep

        prefill = GraphedPrefill(self._model, self._slots, continued=bool(self._prefixes))
        prefill.capture()
        step = GraphedStep(self._config, self._model, codec, self._slots)
        step.capture()
        return prefill, step

    @property
    def slots(self) -> int:
        return self._slots.count

    @property
    def max_prefills_per_step(self) -> int:
        """How many utterances to open at once, so that their prefill takes about a step."""
        return _CUDA_MAX_PREFILLS_PER_STEP if self._device.type == "cuda" else 1

    def open(self, batch: Sequence[tuple[int, Utterance]]) -> list[int | SpeechError]:
        """Build the prompts of slots; return each slot's `max_frames`, or its utterance's error.

        The error is TextTooLong where the text alone fills the KV cache. `prefill` computes the
        prompts.
        """
        outcomes: list[int | SpeechError] = []
        for slot, utterance in batch:
            try:
                pending, max_frames = self._plan_slot(slot, utterance)
            except SpeechError as error:
                outcomes.append(error)
                continue
            outcomes.append(max_frames)
            self._waiting[slot] = pending
        return outcomes

    def _plan_slot(self, slot: int, utterance: Utterance) -> tuple[PendingPrefill, int]:
        prefix = self._prefixes.get(utterance.voice_id)
        prefix_positions = 0 if prefix is None else prefix.positions
        positions = self._config.backbone.max_positions - prefix_positions
        reserved = min(utterance.max_frames, positions // 2)
        prompt = build_prompt(
            self._tokenizer,
            utterance.history,
            speaker_id=utterance.speaker_id,
            text=utterance.text,
            codebooks=self._config.codebooks,
            max_positions=positions - reserved,
        )
        sampling = utterance.sampling
        opening = Opening(
            slot=slot,
            position=prefix_positions + prompt.positions - 1,
            sampling=resolve_sampling(sampling, self._config.sampling),
            seed=random.getrandbits(62) if sampling.seed is None else sampling.seed,
            char_positions=prompt.char_positions,
        )
        if prefix is not None:
            self._slots.kv.copy_in(slot, prefix)
        # The first frame's step writes the prompt's last position.
        max_frames = min(utterance.max_frames, positions - prompt.positions + 1)
        return PendingPrefill(opening, prompt, prefix_positions), max_frames

    def prefill(self) -> list[int]:
        prefilled = self._prefill.advance(list(self._waiting.values()))
        for pending in prefilled:
            del self._waiting[pending.opening.slot]
        return [pending.opening.slot for pending in prefilled]

    def prefill_all(self) -> None:
        """Compute all waiting prompts, while no row runs."""
        while self._waiting:
            self.prefill()

    def step(self, slots: Sequence[int]) -> Sequence[Frame | None]:
        return self._step.run(slots)

    def close(self, slot: int) -> None:
        """Release the slot and its waiting prompt."""
        self._waiting.pop(slot, None)
        self._slots.close(slot)
