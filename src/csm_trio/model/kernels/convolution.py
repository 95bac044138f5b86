"""The codec's causal convolutions in one kernel each: windows, product, sum, activation.

In: inputs [batch, time, channels] and the context that each stream's last step left. Out: outputs,
and the context of the next step. The windows are never written to memory, whose bandwidth would
limit large batches.
"""

from dataclasses import dataclass, replace

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.kernels.workspace import Workspace, power_of_2
from csm_trio.model.mimi.convolution import CausalConv, TorchConvolutions

_MIN_DEPTH = 16  # the minimum of a matrix instruction
_STAGES = 3
"""Steps of a loop whose loads are under way or in use."""
_MIN_TIME = 16
"""Minimum time steps for the kernel; below it the windows are small, and cuBLAS is faster."""


@triton.jit(do_not_specialize=["rows"])
def _convolve_kernel(
    out_ptr, active_ptr, x_ptr, past_ptr, fresh_ptr, w_ptr, bias_ptr, add_ptr,
    rows, time, past_row, n,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, DILATION: tl.constexpr, BIAS: tl.constexpr,
    ADD: tl.constexpr, RAW: tl.constexpr, ACTIVE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    CONTEXT: tl.constexpr = (TAPS - 1) * DILATION
    ms = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    in_rows, in_cols = ms < rows, cols < n
    moment = ms % time
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, TAPS * CHANNELS, BLOCK_K):
        back = k // CHANNELS * DILATION - CONTEXT
        at = (ms + back)[:, None] * CHANNELS + (k % CHANNELS + depth)[None, :]
        x = tl.load(x_ptr + at, mask=(in_rows & (moment + back >= 0))[:, None], other=0.0)
        w_at = w_ptr + cols[None, :] * (TAPS * CHANNELS) + (k + depth)[:, None]
        w = tl.load(w_at, mask=in_cols[None, :], other=0.0)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    if CONTEXT > 0:
        starting = in_rows & (moment < CONTEXT)
        if tl.max(starting.to(tl.int32), axis=0) > 0:
            # Inputs of earlier steps, from the stored context.
            for k in range(0, (TAPS - 1) * CHANNELS, BLOCK_K):
                past_time = moment + k // CHANNELS * DILATION
                at = past_time[:, None] * CHANNELS + (k % CHANNELS + depth)[None, :]
                at += (ms // time)[:, None] * past_row
                mask = (starting & (past_time < CONTEXT))[:, None]
                old = tl.load(past_ptr + at, mask=mask, other=0.0)
                old_w_at = w_ptr + cols[None, :] * (TAPS * CHANNELS) + (k + depth)[:, None]
                old_w = tl.load(old_w_at, mask=in_cols[None, :], other=0.0)
                acc = tl.dot(old, old_w, acc, input_precision="ieee")
        if tl.program_id(1) == 0:
            leaving = in_rows & (moment >= time - CONTEXT)
            if tl.max(leaving.to(tl.int32), axis=0) > 0:
                for k in range(0, CHANNELS, BLOCK_K):
                    last = tl.load(
                        x_ptr + ms[:, None] * CHANNELS + (k + depth)[None, :],
                        mask=leaving[:, None],
                        other=0.0,
                    )
                    row = ms // time * CONTEXT + moment - (time - CONTEXT)
                    at = row[:, None] * CHANNELS + (k + depth)[None, :]
                    tl.store(fresh_ptr + at, last, mask=leaving[:, None])
    if BIAS:
        acc += tl.load(bias_ptr + cols, mask=in_cols, other=0.0).to(tl.float32)[None, :]
    to = ms[:, None] * n + cols[None, :]
    in_out = in_rows[:, None] & in_cols[None, :]
    if ADD:
        acc += tl.load(add_ptr + to, mask=in_out, other=0.0).to(tl.float32)
    acc = acc.to(out_ptr.dtype.element_ty)
    if RAW:
        tl.store(out_ptr + to, acc, mask=in_out)
    if ACTIVE:  # ELU of the rounded output, so that both outputs agree
        wide = acc.to(tl.float32)
        wide = tl.where(wide > 0, wide, tl.exp(tl.minimum(wide, 0.0)) - 1)
        tl.store(active_ptr + to, wide.to(acc.dtype), mask=in_out)


class FusedConvolutions(TorchConvolutions):
    """The convolutions of one step, with the kernel for every size that it supports."""

    def __init__(self, past: Tensor, workspace: Workspace) -> None:
        super().__init__(past)
        self._space = workspace

    def raw(self, conv: CausalConv, inputs: Tensor) -> Tensor:
        if not _fits(conv, inputs):
            return super().raw(conv, inputs)
        outputs = _check_sizes(conv, inputs)
        self._run(conv, inputs, None, outputs, None)
        return outputs

    def activated(self, conv: CausalConv, inputs: Tensor, *, add: Tensor | None = None) -> Tensor:
        if not _fits(conv, inputs):
            return super().activated(conv, inputs, add=add)
        active = _check_sizes(conv, inputs)
        self._run(conv, inputs, add, None, active)
        return active

    def both(
        self, conv: CausalConv, inputs: Tensor, *, add: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if not _fits(conv, inputs):
            return super().both(conv, inputs, add=add)
        outputs, active = _check_sizes(conv, inputs), _check_sizes(conv, inputs)
        self._run(conv, inputs, add, outputs, active)
        return outputs, active

    def _run(
        self,
        conv: CausalConv,
        inputs: Tensor,
        add: Tensor | None,
        raw: Tensor | None,
        active: Tensor | None,
    ) -> None:
        batch, time, channels = inputs.shape
        past = self.take(conv)  # [batch, context, channels]
        fresh = inputs.new_empty(batch, conv.context_floats)
        rows, n = batch * time, conv.weight.shape[0]
        some = raw if active is None else active
        tiles = tiles_for(
            rows, n, channels, value_bytes=inputs.itemsize, limit_bytes=self._space.shared_bytes
        )
        grid = (triton.cdiv(rows, tiles.block_m), triton.cdiv(n, tiles.block_n))
        _convolve_kernel[grid](
            some if raw is None else raw, some, inputs, past, fresh, conv.weight,
            conv.weight if conv.bias is None else conv.bias, inputs if add is None else add,
            rows, time, past.stride(0), n,
            CHANNELS=channels, TAPS=conv.taps, DILATION=conv.dilation,
            BIAS=conv.bias is not None, ADD=add is not None,
            RAW=raw is not None, ACTIVE=active is not None,
            BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
            PDL=self._space.overlap, num_warps=tiles.warps, num_stages=_STAGES,
            **self._space.launch,
        )  # fmt: skip
        if conv.context:
            self.keep(fresh)


def _fits(conv: CausalConv, inputs: Tensor) -> bool:
    _, time, channels = inputs.shape
    return conv.context <= time >= _MIN_TIME and channels % _MIN_DEPTH == 0


def _check_sizes(conv: CausalConv, inputs: Tensor) -> Tensor:
    batch, time, _ = inputs.shape
    return inputs.new_empty(batch, time * conv.weight.shape[0] // conv.outputs, conv.outputs)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tile sizes of one product, in values: outputs block_m x block_n, from block_k inputs."""

    block_m: int
    block_n: int
    block_k: int
    warps: int

    def shared_bytes(self, value_bytes: int) -> int:
        """Return an upper bound of the shared memory: the tiles that all stages load.

        Triton keeps one stage less where a matrix instruction reads registers (before Hopper).
        """
        return _STAGES * (self.block_m + self.block_n) * self.block_k * value_bytes


def tiles_for(rows: int, n: int, channels: int, *, value_bytes: int, limit_bytes: int) -> Tiles:
    """Choose tiles for [rows, n] outputs whose stages fit in `limit_bytes` of shared memory.

    The inputs of a step of the loop are halved until they fit, then the outputs.
    """
    tiles = _fastest_tiles(rows, n, channels)
    while tiles.shared_bytes(value_bytes) > limit_bytes and tiles.block_k > 2 * _MIN_DEPTH:
        tiles = replace(tiles, block_k=tiles.block_k // 2)
    while tiles.shared_bytes(value_bytes) > limit_bytes and tiles.block_m > _MIN_DEPTH:
        tiles = replace(tiles, block_m=tiles.block_m // 2, block_n=max(16, tiles.block_n // 2))
    return tiles


def _fastest_tiles(rows: int, n: int, channels: int) -> Tiles:
    """Choose tiles: large for many outputs, small where few outputs must occupy the whole GPU.

    As measured on an H100 in bf16.
    """
    deepest = channels & -channels  # divides the channels of a tap evenly
    columns = max(16, power_of_2(n))
    if rows <= 64:
        return Tiles(16, min(32, columns), min(128, deepest), 4)
    if rows * n <= 1 << 21:
        return Tiles(32, min(32, columns), min(64, deepest), 4)
    if n % 128 == 0:
        return Tiles(128, 128, min(64, deepest), 8)
    return Tiles(128, min(64, columns), min(64, deepest), 4)
