"""One step as one CUDA graph: captured before serving, then only replayed.

In: slots. Out: frames. A graph is valid for a number of rows, in any slots and at any positions:
the rows are read from one small buffer, padded with the dummy slot. A step costs one copy in, one
launch, one copy out, and one wait.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from csm_trio.engine.cuda_graph import capture_graph
from csm_trio.engine.frame_output import rows_still_speaking, scale_to_int16
from csm_trio.engine.slots import Slots
from csm_trio.engine.utterance import Frame, StepResult
from csm_trio.errors import NotFinite
from csm_trio.model.attention import AlignmentHead
from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.fused_step import FusedFrame
from csm_trio.model.kernels.alignment import AttendedTokens
from csm_trio.model.kernels.attention import attending_rings
from csm_trio.model.kernels.convolution import FusedConvolutions
from csm_trio.model.kernels.workspace import Workspace
from csm_trio.model.mimi.decoder import DecoderKernels, MimiDecoder
from csm_trio.timebase import FRAME_SAMPLES

logger = logging.getLogger(__name__)

_SMALL_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 96, 128)
_BUCKET_STEP = 64  # beyond the small ones

_ROWS_PER_COPY = 16
"""Frames in one copy out of the pinned buffer; they share memory until the last is released."""


def buckets(slots: int) -> list[int]:
    """Return the numbers of rows that graphs are captured for, ascending; the last is `slots`."""
    sizes = [*_SMALL_BUCKETS, *range(_SMALL_BUCKETS[-1] + _BUCKET_STEP, slots, _BUCKET_STEP)]
    return [size for size in sizes if size < slots] + [slots]


def codec_kernels(
    config: CSMConfig, device: torch.device, workspace: Workspace | None = None
) -> DecoderKernels:
    """Return the kernels that decode on a CUDA device in place of torch's own operations."""
    workspace = workspace or Workspace(device)
    return DecoderKernels(
        partial(attending_rings, config=config.codec, workspace=workspace),
        partial(FusedConvolutions, workspace=workspace),
    )


class GraphedStep:
    """The step as captured graphs over the tensors of `slots`, whose memory they all share.

    With an alignment `head`, frames have their `attended_char`.
    """

    def __init__(
        self,
        config: CSMConfig,
        model: CSM,
        codec: MimiDecoder,
        slots: Slots,
        *,
        head: AlignmentHead | None = None,
    ) -> None:
        self._codec, self._slots, self._head = codec, slots, head
        device = slots.state.inputs.device
        workspace = Workspace(device)
        self._frame = FusedFrame(
            model, slots.kv, slots.state, rows=slots.count, workspace=workspace
        )
        self._kernels = codec_kernels(config, device, workspace)
        self._codebooks, self._end = config.codebooks, config.codebook_eos_id
        self._samples = slice(config.codebooks, config.codebooks + FRAME_SAMPLES)
        # Columns: codes, samples, whether the row failed; with a head, its attended text token.
        width = self._samples.stop + 1 + (head is not None)
        self._rows = torch.full((slots.count,), slots.dummy, device=device)  # [slots] int64
        self._rows_host = torch.empty(slots.count, dtype=torch.int64, pin_memory=True)
        self._out = torch.zeros(slots.count, width, dtype=torch.int16, device=device)
        self._out_host = torch.empty(slots.count, width, dtype=torch.int16, pin_memory=True)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture every bucket, the largest first, so that the smaller ones fit in its memory."""
        sizes = buckets(self._slots.count)
        graph = None
        for done, size in enumerate(reversed(sizes)):
            started_s = time.perf_counter()
            graph = capture_graph(partial(self._make_frames, size), beside=graph)
            self._graphs[size] = graph
            took_s = time.perf_counter() - started_s
            logger.info("graph %d of %d: %d rows, %.1f s", done + 1, len(sizes), size, took_s)

    def _make_frames(self, size: int) -> None:
        rows = self._rows[:size]
        out = self._out[:size]
        attended = None if self._head is None else AttendedTokens(self._head, out[:, -1])
        failed = out[:, self._samples.stop]
        codes = self._frame.next_codes(rows, failed, attended)  # [size, codebooks]
        pcm = self._codec.decode(codes, rows, self._slots.codec, kernels=self._kernels)
        self._slots.codec.positions[-1:].zero_()
        out[:, : self._codebooks] = codes
        out[:, self._samples] = scale_to_int16(pcm)

    @torch.inference_mode()
    def run(self, slots: Sequence[int]) -> list[StepResult]:
        running = len(slots)
        size = next(size for size in reversed(self._graphs) if size >= running)
        rows_host = self._rows_host.numpy()
        rows_host[:running] = slots
        rows_host[running:size] = self._slots.dummy
        self._rows[:size].copy_(self._rows_host[:size], non_blocking=True)
        self._graphs[size].replay()
        self._out_host[:running].copy_(self._out[:running], non_blocking=True)
        torch.cuda.current_stream().synchronize()
        results: list[StepResult] = [*self._frames(rows_host[:running])]
        for row in np.flatnonzero(self._out_host.numpy()[:running, self._samples.stop]).tolist():
            self._slots.clear(slots[row])
            results[row] = NotFinite()
        return results

    def _frames(self, slots: NDArray[np.int64]) -> list[Frame | None]:
        """Copy the slots' frames out of the pinned buffer, which the next step overwrites."""
        running = len(slots)
        made = self._out_host.numpy()[:running]
        attended_chars = self._attended_chars(slots, made)
        codes = made[:, : self._codebooks]
        speaking: list[bool] = rows_still_speaking(codes, end=self._end).tolist()
        frames: list[Frame | None] = []
        for first in range(0, running, _ROWS_PER_COPY):
            chunk = slice(first, first + _ROWS_PER_COPY)
            frames += [
                Frame(row[self._samples], row[: self._codebooks], attended_char)
                for row, attended_char in zip(
                    made[chunk].copy(), attended_chars[chunk], strict=True
                )
            ]
        return [
            frame if is_speech else None for frame, is_speech in zip(frames, speaking, strict=True)
        ]

    def _attended_chars(
        self, slots: NDArray[np.int64], made: NDArray[np.int16]
    ) -> list[float | None]:
        """Return the attended character of each row of `made`: None without a head or a text."""
        if self._head is None:
            return [None] * len(slots)
        return self._slots.attended_chars(slots, made[:, -1].view(np.uint16))
