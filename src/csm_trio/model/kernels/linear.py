"""Linear layers of a decode step, with what surrounds them in one kernel.

In: activations [rows, in] and weights [out, in]. Out: [rows, out]: RMSNorm before, SwiGLU or a
residual sum after. Few rows are bound by reading the weights, many by the products; where cuBLAS
is better, it is called. Nothing here knows what the layers mean.

Programmatic dependent launch: a kernel starts while the one before it ends, and fetches its
weights, which nobody writes, before it waits for its input.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.kernels.runtime import Workspace, power_of_2

VECTOR_ROWS = 2
"""Up to so many rows, products on the plain cores keep up with the weights' arrival."""


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
        place = row * n + cols
        if RESIDUAL:
            y += tl.load(residual_ptr + place, mask=cols < n, other=0.0).to(tl.float32)
        tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=cols < n)


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
    space: Workspace,
    *,
    norm: Norm | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """Return `weight @ norm(x) + residual`, [rows, out]; x is [rows, in], all contiguous.

    With `gated`, weight is [2 * out, in], gates first: silu(gate) * up.
    """
    if x.shape[0] <= VECTOR_ROWS:
        return _vector(x, weight, space, norm, gated, residual)
    return _library(x, weight, space, norm, gated, residual)


def _out(x: Tensor, weight: Tensor, gated: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0] // (2 if gated else 1))


def _vector(
    x: Tensor,
    weight: Tensor,
    space: Workspace,
    norm: Norm | None,
    gated: bool,
    residual: Tensor | None,
) -> Tensor:
    out = _out(x, weight, gated)
    n, k = out.shape[1], x.shape[1]
    block_k = power_of_2(k)
    block_n = max(1, min(8, 16_384 // block_k) // (2 if gated else 1))
    _vector_kernel[(triton.cdiv(n, block_n),)](
        x, weight, weight if norm is None else norm.gain, x if residual is None else residual,
        out, n, k, 0.0 if norm is None else norm.eps,
        ROWS=x.shape[0], NORM=norm is not None, GATED=gated, RESIDUAL=residual is not None,
        BLOCK_N=block_n, BLOCK_K=block_k, PDL=space.overlap,
        num_warps=4, **space.launch,
    )  # fmt: skip
    return out


def _library(
    x: Tensor,
    weight: Tensor,
    space: Workspace,
    norm: Norm | None,
    gated: bool,
    residual: Tensor | None,
) -> Tensor:
    if norm is not None:
        x = rms_norm(x, norm, space)
    if residual is not None:
        return residual.addmm_(x, weight.t())
    out = F.linear(x, weight)
    return gate(out, space) if gated else out


def rms_norm(x: Tensor, norm: Norm, space: Workspace) -> Tensor:
    """Normalize [rows, width], in float32 inside."""
    out = torch.empty_like(x)
    rows, width = x.shape
    _norm_kernel[(rows,)](
        x, norm.gain, out, width, norm.eps, BLOCK_K=power_of_2(width), PDL=space.overlap,
        num_warps=4, **space.launch,
    )  # fmt: skip
    return out


def gate(x: Tensor, space: Workspace) -> Tensor:
    """Return silu(gate) * up of [rows, gates and ups]."""
    rows, n = x.shape[0], x.shape[1] // 2
    out = x.new_empty(rows, n)
    block = min(2048, power_of_2(n))
    _gate_kernel[(rows, triton.cdiv(n, block))](
        x, out, n, BLOCK=block, PDL=space.overlap, num_warps=4, **space.launch
    )
    return out
