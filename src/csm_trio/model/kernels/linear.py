"""Linear layers of a decode step, fused with the operations around them.

In: activations [rows, in] and weights [out, in]. Out: [rows, out]: RMSNorm before, SwiGLU or a
residual sum after. Few rows are bound by reading the weights, many by the products; where cuBLAS
is faster, it is called. The module must not know what the layers mean.

Programmatic dependent launch: a kernel starts while the previous one ends, and prefetches its
weights, which no kernel writes, before it waits for its input.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.kernels.workspace import Workspace, power_of_2

VECTOR_ROWS = 2
"""Maximum rows of `_vector_kernel`: CUDA cores keep up with the reads of the weights."""
TILED_ROWS = 64
"""Maximum rows of `_tiled_kernel`; above it, cuBLAS."""


@triton.jit
def _vector_kernel(
    x_ptr, w_ptr, norm_ptr, residual_ptr, out_ptr, n, k, eps,
    ROWS: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    inside = ks < k
    mask = (cols[:, None] < n) & inside[None, :]
    w = tl.load(w_ptr + cols[:, None] * k + ks[None, :], mask=mask, other=0.0)
    if GATED:
        up = tl.load(w_ptr + (n + cols[:, None]) * k + ks[None, :], mask=mask, other=0.0)
    if NORM:
        gain = tl.load(norm_ptr + ks, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    for row in tl.static_range(ROWS):
        x = tl.load(x_ptr + row * k + ks, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            x = x * tl.rsqrt(tl.sum(x * x) / k + eps) * gain
        y = tl.sum(w.to(tl.float32) * x[None, :], axis=1)
        if GATED:
            y = y * tl.sigmoid(y) * tl.sum(up.to(tl.float32) * x[None, :], axis=1)
        offset = row * n + cols
        if RESIDUAL:
            y += tl.load(residual_ptr + offset, mask=cols < n, other=0.0).to(tl.float32)
        tl.store(out_ptr + offset, y.to(out_ptr.dtype.element_ty), mask=cols < n)


@triton.jit
def _fetch(lines, wanted, fallback):
    """Prefetch cache lines into the L2 cache, without waiting for them."""
    lines = tl.where(wanted, lines, fallback)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [lines],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _tiled_kernel(
    x_ptr, w_ptr, residual_ptr, out_ptr, partial_ptr, ticket_ptr, rows, n, k,
    GATED: tl.constexpr, RESIDUAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr, FETCH_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    tile, split = tl.program_id(0), tl.program_id(1)
    ms = tl.arange(0, BLOCK_M)
    cols = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    in_rows, in_cols = ms < rows, cols < n
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    share = tl.cdiv(tl.cdiv(k, BLOCK_K), SPLITS) * BLOCK_K
    begin = split * share
    finish = tl.minimum(begin + share, k)
    if PDL:
        # No kernel writes weights: prefetch this one's while the previous kernel ends.
        lines = begin + tl.arange(0, FETCH_K // 64)[None, :] * 64  # 128 bytes each
        wanted = in_cols[:, None] & (lines < finish)
        _fetch(w_ptr + cols[:, None] * k + lines, wanted, w_ptr)
        if GATED:
            _fetch(w_ptr + (n + cols[:, None]) * k + lines, wanted, w_ptr)
        gdc_wait()
    for start in range(begin, finish, BLOCK_K):
        inside = start + ks < k
        x_at = x_ptr + ms[:, None] * k + (start + ks)[None, :]
        w_at = w_ptr + cols[None, :] * k + (start + ks)[:, None]
        x = tl.load(x_at, mask=in_rows[:, None] & inside[None, :], other=0.0)
        w = tl.load(w_at, mask=inside[:, None] & in_cols[None, :], other=0.0)
        acc = tl.dot(x, w, acc, input_precision="ieee")
        if GATED:
            w = tl.load(w_at + n * k, mask=inside[:, None] & in_cols[None, :], other=0.0)
            up = tl.dot(x, w, up, input_precision="ieee")
    if GATED:
        acc = acc * tl.sigmoid(acc) * up
    offset = ms[:, None] * n + cols[None, :]
    mask = in_rows[:, None] & in_cols[None, :]
    last = True
    if SPLITS > 1:
        # The last split to finish sums all in index order: the result is deterministic.
        within = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        slab = partial_ptr + tile * SPLITS * BLOCK_M * BLOCK_N
        tl.store(slab + split * BLOCK_M * BLOCK_N + within, acc)
        tl.debug_barrier()
        last = tl.atomic_add(ticket_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
        if last:
            acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for other in range(SPLITS):
                at = slab + other * BLOCK_M * BLOCK_N + within
                acc += tl.load(at, cache_modifier=".cg")
            tl.store(ticket_ptr + tile, 0)
    if last:
        if RESIDUAL:
            acc += tl.load(residual_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + offset, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _norm_kernel(
    x_ptr, norm_ptr, out_ptr, k, eps, BLOCK_K: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    ks = tl.arange(0, BLOCK_K)
    inside = ks < k
    gain = tl.load(norm_ptr + ks, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    at = tl.program_id(0) * k + ks
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x) / k + eps) * gain
    tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(x_ptr + row * 2 * n + cols, mask=cols < n, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * n + n + cols, mask=cols < n, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * n + cols, y.to(out_ptr.dtype.element_ty), mask=cols < n)


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMSNorm before a layer."""

    gain: Tensor
    eps: float


def linear(
    x: Tensor,
    weight: Tensor,
    workspace: Workspace,
    *,
    norm: Norm | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """Return `weight @ norm(x) + residual`, [rows, out]; x is [rows, in], all contiguous.

    With `gated`, weight is [2 * out, in], gates first: silu(gate) * up.
    """
    if x.shape[0] <= VECTOR_ROWS:
        return _vector(x, weight, workspace, norm, gated, residual)
    if norm is not None:
        x = rms_norm(x, norm, workspace)
    if x.shape[0] <= TILED_ROWS and x.dtype != torch.float32:
        return _tiled(x, weight, workspace, gated, residual)
    if residual is not None:
        return residual.addmm_(x, weight.t())
    out = F.linear(x, weight)
    return gate(out, workspace) if gated else out


def _out(x: Tensor, weight: Tensor, gated: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0] // (2 if gated else 1))


def _vector(
    x: Tensor,
    weight: Tensor,
    workspace: Workspace,
    norm: Norm | None,
    gated: bool,
    residual: Tensor | None,
) -> Tensor:
    out = _out(x, weight, gated)
    n, k = out.shape[1], x.shape[1]
    block_k = power_of_2(k)
    block_n = max(1, min(2, 16_384 // block_k))
    warps = 8 if block_k > 2048 else 4 if gated or block_k > 1024 else 2
    _vector_kernel[(triton.cdiv(n, block_n),)](
        x, weight, weight if norm is None else norm.gain, x if residual is None else residual,
        out, n, k, 0.0 if norm is None else norm.eps,
        ROWS=x.shape[0], NORM=norm is not None, GATED=gated, RESIDUAL=residual is not None,
        BLOCK_N=block_n, BLOCK_K=block_k, PDL=workspace.overlap,
        num_warps=warps, **workspace.launch,
    )  # fmt: skip
    return out


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tile sizes of one product; `fetch_k` columns of the weights are prefetched."""

    block_n: int
    block_k: int
    splits: int
    stages: int
    fetch_k: int


def tiles_for(n: int, k: int, *, gated: bool) -> Tiles:
    """Choose tiles so that every multiprocessor reads weights; as measured on an H100."""
    if gated:
        return Tiles(64, 128, 1, 3, 1024)
    if k > 4096:
        return Tiles(32, 128, 4, 4, 512)
    return Tiles(16, 256 if k <= 1024 else 128, 1, 3, 1024)


def _tiled(
    x: Tensor, weight: Tensor, workspace: Workspace, gated: bool, residual: Tensor | None
) -> Tensor:
    out = _out(x, weight, gated)
    (rows, k), n = x.shape, out.shape[1]
    tiles = tiles_for(n, k, gated=gated)
    # Also for fewer rows: Hopper's wgmma takes at least 64.
    block_m = TILED_ROWS
    grid = (triton.cdiv(n, tiles.block_n), tiles.splits)
    workspace.check(floats=grid[0] * grid[1] * block_m * tiles.block_n, tickets=grid[0])
    _tiled_kernel[grid](
        x, weight, x if residual is None else residual, out, workspace.floats, workspace.tickets,
        rows, n, k, GATED=gated, RESIDUAL=residual is not None,
        BLOCK_M=block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k,
        SPLITS=tiles.splits, FETCH_K=tiles.fetch_k, PDL=workspace.overlap,
        num_warps=4, num_stages=tiles.stages, **workspace.launch,
    )  # fmt: skip
    return out


def rms_norm(x: Tensor, norm: Norm, workspace: Workspace) -> Tensor:
    """Apply RMSNorm to [rows, width], in float32 inside."""
    out = torch.empty_like(x)
    rows, width = x.shape
    _norm_kernel[(rows,)](
        x, norm.gain, out, width, norm.eps, BLOCK_K=power_of_2(width), PDL=workspace.overlap,
        num_warps=4, **workspace.launch,
    )  # fmt: skip
    return out


def gate(x: Tensor, workspace: Workspace) -> Tensor:
    """Return silu(gate) * up of [rows, gates and ups]."""
    rows, n = x.shape[0], x.shape[1] // 2
    out = x.new_empty(rows, n)
    block = min(2048, power_of_2(n))
    _gate_kernel[(rows, triton.cdiv(n, block))](
        x, out, n, BLOCK=block, PDL=workspace.overlap, num_warps=4, **workspace.launch
    )
    return out
