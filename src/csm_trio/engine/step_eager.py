"""One step, operation by operation: for devices without CUDA graphs.

In: slots. Out: frames. On a CPU the batch is padded to a size in which a row's values do not depend
on the batch (`batch_sizes`), at most to the number of slots; attention runs row by row over exactly
that row's past; the codec runs on groups of such sizes. So a row's audio is the same, to the bit,
beside any other rows.
"""

from collections.abc import Sequence
from functools import lru_cache

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
from csm_trio.model.cpu_step import CpuFrame, DepthEmbeddings
from csm_trio.model.csm import CSM
from csm_trio.model.llama import Attend
from csm_trio.model.mimi.cpu_kernels import cpu_kernels
from csm_trio.model.mimi.decoder import DecoderKernels, MimiDecoder
from csm_trio.timebase import FRAME_SAMPLES

_BATCHES = 16
"""Number of batches whose rows are kept as a tensor."""
CODEC_ROWS = 4
"""Maximum number of rows in a group of the codec on a CPU: their activations fit in its caches."""


class EagerStep:
    """The step without a graph; with an alignment `head`, frames have their `attended_char`."""

    # Scratch made in inference mode has no version that each operation in place would count.
    @torch.inference_mode()
    def __init__(
        self, model: CSM, codec: MimiDecoder, slots: Slots, *, head: AlignmentHead | None = None
    ) -> None:
        self._model, self._codec, self._slots, self._head = model, codec, slots, head
        backbone = model.config.backbone
        self._shared = backbone.heads // backbone.kv_heads
        self._device = slots.state.inputs.device
        self._on_cpu = self._device.type == "cpu"
        # Most steps run the rows of the step before.
        self._padded = lru_cache(_BATCHES)(self._pad)
        self._kernels: dict[int, DecoderKernels] = {}
        if self._on_cpu:
            self._sizes = model_batch_sizes(model, slots.count)
            self._codec_sizes = codec_batch_sizes(codec, model.config, min(CODEC_ROWS, slots.count))
        self._frames: dict[int, CpuFrame] = {}
        if self._on_cpu and slots.state.inputs.dtype == torch.float32:
            embeddings = DepthEmbeddings(model, slots.count)
            self._frames = {size: CpuFrame(model, size, embeddings) for size in self._sizes}

    @torch.inference_mode()
    def run(self, slots: Sequence[int], watch: Watch | None = None) -> list[StepResult]:
        running = list(slots)
        attended_chars: list[float | None] = [None] * len(running)
        if watch is None and self._head is not None:
            watch = self._watch_head(self._head, running, attended_chars)
        rows = self._padded(tuple(running))
        codes, finite = self._next_codes(running, rows, watch)
        self._slots.advance(running, rows, self._model.embed_frames(codes))
        codes_host = codes.to("cpu", torch.int16).numpy()[: len(running)]  # [running, codebooks]
        still_speaking = rows_still_speaking(codes_host, end=self._model.config.codebook_eos_id)
        going_on = list(zip(still_speaking.tolist(), finite.tolist(), strict=False))
        speaking = [row for row, on in enumerate(going_on) if all(on)]
        results: list[StepResult] = [None if sound else NotFinite() for _, sound in going_on]
        pcm, is_audio = self._decode(codes, rows, speaking)
        for row, samples, sound in zip(speaking, pcm, is_audio, strict=True):
            frame = Frame(samples, codes_host[row], attended_chars[row])
            results[row] = frame if sound else NotFinite()
        for slot, result in zip(running, results, strict=True):
            if isinstance(result, NotFinite):
                self._slots.clear(slot)
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
        inputs = self._slots.state.inputs.index_select(0, rows)
        spans = [Span(slot, self._slots.position(slot)) for slot in running]
        padding = [0] * (batch - len(running))
        positions = torch.tensor([span.position for span in spans] + padding, device=self._device)
        sampling = self._slots.frame_sampling(running, padding=batch - len(running))
        if not self._frames:
            attend = _watched(self._attend(spans, rows, positions), watch)
            return self._model.next_frame(inputs, positions, sampling, attend)
        pasts = [self._slots.kv.row_past(span) for span in spans]
        return self._frames[batch].next_codes(inputs, positions, sampling, pasts, watch)

    def _pad(self, slots: tuple[int, ...]) -> Tensor:
        """Return the rows of a batch: the slots, then the dummy."""
        if self._on_cpu:
            batch = _at_least(len(slots), self._sizes)
        else:
            batch = min(1 << (len(slots) - 1).bit_length(), self._slots.count)
        padding = [self._slots.dummy] * (batch - len(slots))
        return torch.tensor([*slots, *padding], device=self._device)

    def _attend(self, spans: list[Span], rows: Tensor, positions: Tensor) -> Attend:
        if self._on_cpu:
            return self._slots.kv.step_by_row(spans)
        longest = 1 + max(span.position for span in spans)
        return self._slots.kv.step_masked(rows, positions, longest)

    def _decode(
        self, codes: Tensor, rows: Tensor, speaking: list[int]
    ) -> tuple[NDArray[np.int16], list[bool]]:
        """Turn the speaking rows' codes into samples, int16 [speaking, 1920].

        Also returns whether each row's samples were finite.
        """
        if not speaking:
            return np.empty((0, FRAME_SAMPLES), np.int16), []
        sizes = self._codec_sizes if self._on_cpu else [len(speaking)]
        groups = [
            self._decode_group(codes, rows, speaking[start : start + sizes[-1]], sizes)
            for start in range(0, len(speaking), sizes[-1])
        ]
        samples = groups[0] if len(groups) == 1 else torch.cat(groups)
        finite: list[bool] = samples.sum(dim=1, dtype=torch.float32).isfinite().tolist()
        return scale_to_int16(samples).to("cpu", torch.int16).numpy(), finite

    def _decode_group(
        self, codes: Tensor, rows: Tensor, group: list[int], sizes: Sequence[int]
    ) -> Tensor:
        """Decode the rows of `group`, padded to one of `sizes`; return samples [group, 1920]."""
        size = _at_least(len(group), sizes)
        if size != len(rows) or not self._begins(rows, group):
            picked = torch.tensor(group + [0] * (size - len(group)), device=self._device)
            codes, rows = codes[picked], rows[picked]
            rows[len(group) :] = self._slots.dummy
        kernels = self._codec_kernels(size)
        samples = self._codec.decode(codes, rows, self._slots.codec, kernels=kernels)
        return samples[: len(group)]

    def _begins(self, rows: Tensor, group: list[int]) -> bool:
        """Return whether a batch is a group of its rows, in order, and padding."""
        behind = rows[len(group) :].tolist()
        return group == list(range(len(group))) and set(behind) <= {self._slots.dummy}

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
