"""Attention of the depth decoder: all rows at one position, their keys within one tile.

In: the fused q, k, v of one new position per row, and a frame's scratch. Out: attention outputs;
the new key and value are stored in the scratch. The first call of a frame has two positions: 0,
which attends to itself only, and 1.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.kernels.workspace import Workspace, power_of_2


@triton.jit(do_not_specialize=["position", "rows"])
def _depth_attention_kernel(
    out_ptr, qkv_ptr, keys_ptr, values_ptr, cos_ptr, sin_ptr, position, rows, positions, scale,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    QUERIES: tl.constexpr, POSITIONS: tl.constexpr, FIRST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    row, head = tl.program_id(0), tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    swapped = (dims + DIM // 2) % DIM
    in_dim = dims < DIM
    query = tl.arange(0, QUERIES)
    in_query = (query < GROUP)[:, None] & in_dim[None, :]
    key_position = tl.arange(0, POSITIONS)[:, None]
    cos = tl.load(cos_ptr + dims, mask=in_dim, other=0.0)
    sin = tl.load(sin_ptr + dims, mask=in_dim, other=0.0)
    slab = (row * KV_HEADS + head) * positions * DIM
    if PDL:
        gdc_wait()
    past = (key_position < position) & in_dim[None, :]
    if FIRST:
        before = qkv_ptr + row * (GROUP + 2) * KV_HEADS * DIM
        qkv_ptr += rows * (GROUP + 2) * KV_HEADS * DIM
        # RoPE does not rotate position 0, and its attention output is its own value.
        k_0 = tl.load(before + (KV_HEADS * GROUP + head) * DIM + dims, mask=in_dim, other=0.0)
        v_0 = tl.load(before + (KV_HEADS * (GROUP + 1) + head) * DIM + dims, mask=in_dim, other=0.0)
        k = tl.where(key_position == 0, k_0[None, :], tl.zeros((POSITIONS, WIDTH), k_0.dtype))
        v = tl.where(key_position == 0, v_0[None, :], tl.zeros((POSITIONS, WIDTH), v_0.dtype))
    else:
        k = tl.load(keys_ptr + slab + key_position * DIM + dims[None, :], mask=past, other=0.0)
        v = tl.load(values_ptr + slab + key_position * DIM + dims[None, :], mask=past, other=0.0)
    own = qkv_ptr + row * (GROUP + 2) * KV_HEADS * DIM
    q_ptr = own + (head * GROUP + query[:, None]) * DIM
    q = tl.load(q_ptr + dims[None, :], mask=in_query, other=0.0)
    q_swapped = tl.load(q_ptr + swapped[None, :], mask=in_query, other=0.0)
    q = (q.to(tl.float32) * cos[None, :] + q_swapped.to(tl.float32) * sin[None, :]).to(q.dtype)
    k_ptr = own + (KV_HEADS * GROUP + head) * DIM
    k_new = tl.load(k_ptr + dims, mask=in_dim, other=0.0)
    k_swapped = tl.load(k_ptr + swapped, mask=in_dim, other=0.0)
    k_new = (k_new.to(tl.float32) * cos + k_swapped.to(tl.float32) * sin).to(k_new.dtype)
    v_new = tl.load(own + (KV_HEADS * (GROUP + 1) + head) * DIM + dims, mask=in_dim, other=0.0)
    k = tl.where(key_position == position, k_new[None, :], k)
    v = tl.where(key_position == position, v_new[None, :], v)

    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [QUERIES, POSITIONS]
    scores = tl.where(tl.arange(0, POSITIONS)[None, :] <= position, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    total = tl.sum(weights, axis=1)
    mixed = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / total[:, None]
    at = (head * GROUP + query[:, None]) * DIM + dims[None, :]
    width = KV_HEADS * GROUP * DIM
    tl.store(keys_ptr + slab + position * DIM + dims, k_new, mask=in_dim)
    tl.store(values_ptr + slab + position * DIM + dims, v_new, mask=in_dim)
    if FIRST:
        tl.store(keys_ptr + slab + dims, k_0, mask=in_dim)
        tl.store(values_ptr + slab + dims, v_0, mask=in_dim)
        first_mixed = tl.broadcast_to(v_0[None, :], (QUERIES, WIDTH))
        tl.store(out_ptr + row * width + at, first_mixed, mask=in_query)
        out_ptr += rows * width
    tl.store(out_ptr + row * width + at, mixed.to(out_ptr.dtype.element_ty), mask=in_query)


@dataclass(frozen=True, slots=True)
class Scratch:
    """One layer's keys and values of a frame, [rows, kv_heads, positions, dim], contiguous.

    cos, sin: float32 [dim] of the new position, sin signed for the half it multiplies.
    """

    keys: Tensor
    values: Tensor
    cos: Tensor
    sin: Tensor


def depth_attention(
    qkv: Tensor, position: int, scratch: Scratch, workspace: Workspace, *, heads: int
) -> Tensor:
    """Attend from qkv [rows, (heads + 2 kv_heads) * dim] at `position` to all before it.

    At position 1 qkv is [2 * rows, ...]: the rows at position 0 come first. Returns as many rows,
    [.., heads * dim].
    """
    _, kv_heads, positions, dim = scratch.keys.shape
    rows = len(qkv) // 2 if position == 1 else len(qkv)
    out = qkv.new_empty(len(qkv), heads * dim)
    _depth_attention_kernel[(rows, kv_heads)](
        out, qkv, scratch.keys, scratch.values, scratch.cos, scratch.sin,
        position, rows, positions, dim**-0.5,
        GROUP=heads // kv_heads, KV_HEADS=kv_heads, DIM=dim, WIDTH=max(16, power_of_2(dim)),
        QUERIES=max(16, power_of_2(heads // kv_heads)), POSITIONS=max(16, power_of_2(positions)),
        FIRST=position == 1, PDL=workspace.overlap, num_warps=2, **workspace.launch,
    )  # fmt: skip
    return out
