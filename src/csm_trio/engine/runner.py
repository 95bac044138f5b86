"""The torch runner: prompts, prefix cache, prefill and steps of the slots on one device.

In: utterances and slots. Out: frames of 16-bit audio with their codes. Only the device thread
uses it. It must not know the order of rows (the scheduler's) or their readers (the service's).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from csm_trio.engine.kernel_limits import kernels_must_fit
from csm_trio.engine.placement import Placement
from csm_trio.engine.prefill_eager import EagerPrefill, Prefill
from csm_trio.engine.prefill_plan import PendingPrefill
from csm_trio.engine.prefix_cache import PrefixCache, max_prefix_positions, prefix_cache_bytes
from csm_trio.engine.prompt import PrefixTooLong, Prompt, TextTokenizer, build_prefix, build_prompt
from csm_trio.engine.slots import Opening, Slots, resolve_sampling
from csm_trio.engine.step_eager import EagerStep
from csm_trio.engine.utterance import StepResult, Utterance, VoicePrefix
from csm_trio.errors import InvalidRequest, SpeechError
from csm_trio.model.attention import AlignmentHead
from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder

_CUDA_MAX_PREFILLS_PER_STEP = 8


class FrameStep(Protocol):
    """A device's way to make one frame for the running rows."""

    def run(self, slots: Sequence[int]) -> Sequence[StepResult]:
        """Make one frame for each open slot; None at its end of speech, its error if it failed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An incomplete prompt; or a prefix, its `key`, and the prompt that comes `behind` it."""

    pending: PendingPrefill
    key: str = ""
    behind: PendingPrefill | None = None


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
        head: AlignmentHead | None = None,
    ) -> None:
        """Make the slots' tensors, prefill and step; the prefix cache is empty."""
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._placement, self._device = placement, placement.device
        self._slots = Slots(config, slots, codec, device=placement.device, dtype=placement.dtype)
        self._prefixes = PrefixCache(prefix_cache_bytes(config, placement.dtype.itemsize))
        self._waiting: dict[int, _Waiting] = {}
        self._prefix_keys: dict[int, str] = {}
        self._prefill, self._step = self._make_steps(codec, head)

    def _make_steps(
        self, codec: MimiDecoder, head: AlignmentHead | None
    ) -> tuple[Prefill, FrameStep]:
        if self._device.type != "cuda":
            eager = EagerStep(self._model, codec, self._slots, head=head)
            return EagerPrefill(self._model, self._slots), eager
        # Imported here: its kernels need Triton, which only CUDA builds of torch bring.
        from csm_trio.engine.prefill_graphed import GraphedPrefill
        from csm_trio.engine.step_graphed import GraphedStep

        prefill = GraphedPrefill(self._model, self._slots)
        step = GraphedStep(self._config, self._model, codec, self._slots, head=head)
        with kernels_must_fit(self._placement):
            prefill.capture()
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
            if utterance.prefix is not None:
                self._prefix_keys[slot] = utterance.prefix.key
        return outcomes

    def _plan_slot(self, slot: int, utterance: Utterance) -> tuple["_Waiting", int]:
        prefix, prefix_prompt, prefix_positions = None, None, 0
        if utterance.prefix is not None:
            prefix = self._prefixes.get(utterance.prefix.key)
            if prefix is None:
                prefix_prompt = self._prefix_prompt(utterance.prefix)
                prefix_positions = prefix_prompt.positions
            else:
                prefix_positions = prefix.positions
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
        pending = PendingPrefill(opening, prompt, prefix_positions)
        if utterance.prefix is None or prefix_prompt is None:
            return _Waiting(pending), max_frames
        # Computed on its own, so that its keys are those that later prompts copy, to the bit.
        first = PendingPrefill(opening, prefix_prompt, begins_row=False)
        return _Waiting(first, utterance.prefix.key, behind=pending), max_frames

    def _prefix_prompt(self, prefix: VoicePrefix) -> Prompt:
        try:
            return build_prefix(
                self._tokenizer,
                prefix.segments,
                codebooks=self._config.codebooks,
                max_positions=max_prefix_positions(self._config),
            )
        except PrefixTooLong as error:
            raise InvalidRequest(str(error), param="voice_id") from error

    def prefill(self) -> list[int]:
        prefilled = self._prefill.advance([waiting.pending for waiting in self._waiting.values()])
        begun = []
        for pending in prefilled:
            slot = pending.opening.slot
            waiting = self._waiting[slot]
            if waiting.behind is None:
                del self._waiting[slot]
                begun.append(slot)
            else:
                prefix = self._slots.kv.copy_out(slot, pending.prompt.positions)
                self._prefixes.put(waiting.key, prefix)
                self._waiting[slot] = _Waiting(waiting.behind)
        return begun

    def prefill_all(self) -> None:
        """Compute all waiting prompts, while no row runs."""
        while self._waiting:
            self.prefill()

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        results = self._step.run(slots)
        for slot, result in zip(slots, results, strict=True):
            if isinstance(result, SpeechError) and slot in self._prefix_keys:
                # The cached keys may be what failed: the voice's next prompt computes them again.
                self._prefixes.discard(self._prefix_keys[slot])
        return results

    def close(self, slot: int) -> None:
        """Release the slot and its waiting prompt."""
        self._waiting.pop(slot, None)
        self._prefix_keys.pop(slot, None)
        self._slots.close(slot)
