"""One step, operation by operation: for devices without CUDA graphs.

In: slots. Out: frames. On a CPU the batch always has as many rows as there are slots (padding
included), attention runs row by row over exactly that row's past, and the codec runs on groups of
a fixed size: so a row's audio is the same, to the bit, beside any other rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_trio.engine.frame_output import rows_still_speaking, scale_to_int16
from csm_trio.engine.slots import Slots
from csm_trio.engine.utterance import Frame, StepResult
from csm_trio.errors import NotFinite
from csm_trio.model.attention import AlignmentHead, Span
from csm_trio.model.csm import CSM
from csm_trio.model.llama import Attend
from csm_trio.model.mimi.decoder import MimiDecoder
from csm_trio.timebase import FRAME_SAMPLES

CODEC_ROWS = 4
"""Rows in a group of the codec on a CPU: four take about as long as one and a half."""

Watch = Callable[[int, Tensor], None]
"""Called with each layer and its queries [batch, heads, dim], after the layer's keys are cached."""


class EagerStep:
    """The step without a graph; with an alignment `head`, frames have their `attended_char`."""

    def __init__(
        self, model: CSM, codec: MimiDecoder, slots: Slots, *, head: AlignmentHead | None = None
    ) -> None:
        self._model, self._codec, self._slots, self._head = model, codec, slots, head
        backbone = model.config.backbone
        self._shared = backbone.heads // backbone.kv_heads
        self._device = slots.state.inputs.device
        self._on_cpu = self._device.type == "cpu"

    @torch.inference_mode()
    def run(self, slots: Sequence[int], watch: Watch | None = None) -> list[StepResult]:
        running = list(slots)
        attended_chars: list[float | None] = [None] * len(running)
        if watch is None and self._head is not None:
            watch = self._watch_head(self._head, running, attended_chars)
        rows = self._padded(running)
        state = self._slots.state
        positions = state.positions[rows]
        codes, finite = self._model.next_frame(
            state.inputs[rows],
            positions,
            self._slots.frame_sampling(running, rows),
            _watched(self._attend(running, rows, positions), watch),
        )
        self._slots.advance(running, rows, self._model.embed_frames(codes))
        codes_host = codes.to("cpu", torch.int16).numpy()[: len(running)]  # [running, codebooks]
        failed = ~finite.cpu().numpy()[: len(running)]
        speaking: list[int] = np.flatnonzero(rows_still_speaking(codes_host) & ~failed).tolist()
        pcm, is_audio = self._decode(codes, rows, speaking)
        failed[speaking] = ~is_audio
        results: list[StepResult] = [None] * len(running)
        for row, samples in zip(speaking, pcm, strict=True):
            results[row] = Frame(samples, codes_host[row], attended_chars[row])
        for row in np.flatnonzero(failed).tolist():
            self._slots.clear(running[row])
            results[row] = NotFinite()
        return results

    def _watch_head(
        self, head: AlignmentHead, slots: list[int], attended_chars: list[float | None]
    ) -> Watch:
        """Write each row's attended character position to `attended_chars`."""

        def watch(layer: int, queries: Tensor) -> None:
            if layer == head.layer:
                tokens = [
                    self._slots.attended_token(
                        layer, head.head // self._shared, slot, queries[row, head.head]
                    )
                    for row, slot in enumerate(slots)
                ]
                attended_chars[:] = self._slots.attended_chars(np.array(slots), np.array(tokens))

        return watch

    def _padded(self, slots: list[int]) -> Tensor:
        count = self._slots.count
        batch = count if self._on_cpu else min(1 << (len(slots) - 1).bit_length(), count)
        padding = [self._slots.dummy] * (batch - len(slots))
        return torch.tensor(slots + padding, device=self._device)

    def _attend(self, slots: list[int], rows: Tensor, positions: Tensor) -> Attend:
        if self._on_cpu:
            spans = [Span(row, slot, self._slots.position(slot)) for row, slot in enumerate(slots)]
            return self._slots.kv.step_by_row(spans)
        longest = 1 + max(self._slots.position(slot) for slot in slots)
        return self._slots.kv.step_masked(rows, positions, longest)

    def _decode(
        self, codes: Tensor, rows: Tensor, speaking: list[int]
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Turn the speaking rows' codes into samples, int16 [speaking, 1920].

        Also returns whether each row's samples were finite, bool [speaking].
        """
        if not speaking:
            return np.empty((0, FRAME_SAMPLES), np.int16), np.empty(0, np.bool_)
        state = self._slots.codec
        size = min(CODEC_ROWS, self._slots.count) if self._on_cpu else len(speaking)
        padded = torch.tensor(speaking + [0] * (-len(speaking) % size), device=self._device)
        codes, rows = codes[padded], rows[padded]
        rows[len(speaking) :] = self._slots.dummy
        pcm = [
            self._codec.decode(codes[start : start + size], rows[start : start + size], state)
            for start in range(0, len(padded), size)
        ]
        samples = torch.cat(pcm)[: len(speaking)]
        finite = samples.sum(dim=1, dtype=torch.float32).isfinite()
        return scale_to_int16(samples).to("cpu", torch.int16).numpy(), finite.cpu().numpy()


def _watched(attend: Attend, watch: Watch | None) -> Attend:
    if watch is None:
        return attend

    def attend_watched(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed = attend(layer, queries, keys, values)
        watch(layer, queries[:, 0])
        return mixed

    return attend_watched
