"""One step, operation by operation: for devices without CUDA graphs.

In: slots. Out: frames. On a CPU the batch is padded to a size in which a row's values do not depend
on the batch (`batch_sizes`), at most to the number of slots; attention runs row by row over exactly
that row's past; the codec runs on groups of such sizes. So a row's audio is the same, to the bit,
beside any other rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_trio.engine.batch_sizes import codec_batch_sizes, model_batch_sizes
from csm_trio.engine.frame_output import rows_still_speaking, scale_to_int16
from csm_trio.engine.slots import Slots
from csm_trio.engine.utterance import Frame, StepResult
from csm_trio.errors import NotFinite
from csm_trio.model.attention import AlignmentHead, Span, Watch
from csm_trio.model.cpu_step import CpuFrame
from csm_trio.model.csm import CSM
from csm_trio.model.llama import Attend
from csm_trio.model.mimi.cpu_kernels import cpu_kernels
from csm_trio.model.mimi.decoder import DecoderKernels, MimiDecoder
from csm_trio.timebase import FRAME_SAMPLES

CODEC_ROWS = 4
"""Maximum number of rows in a group of the codec on a CPU: their activations fit in its caches."""


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
        self._frames: dict[int, CpuFrame] = {}
        self._kernels: dict[int, DecoderKernels] = {}
        if self._on_cpu:
            self._sizes = model_batch_sizes(model, slots.count)
            self._codec_sizes = codec_batch_sizes(codec, model.config, min(CODEC_ROWS, slots.count))

    @torch.inference_mode()
    def run(self, slots: Sequence[int], watch: Watch | None = None) -> list[StepResult]:
        running = list(slots)
        attended_chars: list[float | None] = [None] * len(running)
        if watch is None and self._head is not None:
            watch = self._watch_head(self._head, running, attended_chars)
        rows = self._padded(running)
        codes, finite = self._next_codes(running, rows, watch)
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

    def _next_codes(
        self, running: list[int], rows: Tensor, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """Generate the rows' codes, as `CSM.next_frame` does."""
        batch = len(rows)
        inputs, positions = self._slots.state.inputs[rows], self._slots.state.positions[rows]
        sampling = self._slots.frame_sampling(running, padding=batch - len(running))
        if not self._on_cpu or inputs.dtype != torch.float32:
            attend = _watched(self._attend(running, rows, positions), watch)
            return self._model.next_frame(inputs, positions, sampling, attend)
        if batch not in self._frames:
            self._frames[batch] = CpuFrame(self._model, batch)
        pasts = [self._slots.kv.row_past(span) for span in self._spans(running)]
        return self._frames[batch].next_codes(inputs, positions, sampling, pasts, watch)

    def _spans(self, slots: list[int]) -> list[Span]:
        return [Span(slot, self._slots.position(slot)) for slot in slots]

    def _padded(self, slots: list[int]) -> Tensor:
        if self._on_cpu:
            batch = _at_least(len(slots), self._sizes)
        else:
            batch = min(1 << (len(slots) - 1).bit_length(), self._slots.count)
        padding = [self._slots.dummy] * (batch - len(slots))
        return torch.tensor(slots + padding, device=self._device)

    def _attend(self, slots: list[int], rows: Tensor, positions: Tensor) -> Attend:
        if self._on_cpu:
            return self._slots.kv.step_by_row(self._spans(slots))
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
        sizes = self._codec_sizes if self._on_cpu else [len(speaking)]
        samples = torch.cat(
            [
                self._decode_group(codes, rows, speaking[start : start + sizes[-1]], sizes)
                for start in range(0, len(speaking), sizes[-1])
            ]
        )
        finite = samples.sum(dim=1, dtype=torch.float32).isfinite()
        return scale_to_int16(samples).to("cpu", torch.int16).numpy(), finite.cpu().numpy()

    def _decode_group(
        self, codes: Tensor, rows: Tensor, group: list[int], sizes: Sequence[int]
    ) -> Tensor:
        """Decode the rows of `group`, padded to one of `sizes`; return samples [group, 1920]."""
        padding = _at_least(len(group), sizes) - len(group)
        picked = torch.tensor(group + [0] * padding, device=self._device)
        slots = rows[picked]
        slots[len(group) :] = self._slots.dummy
        kernels = self._codec_kernels(len(picked))
        samples = self._codec.decode(codes[picked], slots, self._slots.codec, kernels=kernels)
        return samples[: len(group)]

    def _codec_kernels(self, rows: int) -> DecoderKernels | None:
        if not self._on_cpu or self._codec.dtype != torch.float32:
            return None
        if rows not in self._kernels:
            self._kernels[rows] = cpu_kernels(self._codec, self._model.config.codec, rows)
        return self._kernels[rows]


def _at_least(count: int, sizes: Sequence[int]) -> int:
    """Return the smallest of ascending `sizes` that is not below `count`."""
    return next(size for size in sizes if size >= count)


def _watched(attend: Attend, watch: Watch | None) -> Attend:
    if watch is None:
        return attend

    def attend_watched(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed = attend(layer, queries, keys, values)
        watch(layer, queries[:, 0])
        return mixed

    return attend_watched
