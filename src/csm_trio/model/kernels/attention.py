"""Decode attention over slots: each row over its own length; stores the new keys and values.

In: the fused q, k, v of a few new positions per row, and a KV cache indexed by slot. Out: attention
outputs. One kernel serves the backbone (a long past) and the codec (a ring with a window). Lengths
are read on the device, so that one captured launch is valid for any set of rows. The depth decoder,
whose rows are all at the same position, has a simpler kernel in `depth_attention.py`.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.config import MimiConfig
from csm_trio.model.kernels.workspace import Workspace, power_of_2
from csm_trio.model.mimi.attention import MimiPositions, RingAttend

_MIN_TILE = 16  # the minimum of a matrix instruction


@triton.jit
def _rotated(
    ptr, offsets, dims, cos, sin, mask, DIM: tl.constexpr
):  # fmt: skip
    """Load heads at `offsets` [rows, 1] and apply RoPE in float32; return their own type."""
    x = tl.load(ptr + offsets + dims, mask=mask, other=0.0)
    swapped = tl.load(ptr + offsets + (dims + DIM // 2) % DIM, mask=mask, other=0.0)
    return (x.to(tl.float32) * cos + swapped.to(tl.float32) * sin).to(x.dtype)


@triton.jit
def _attend_kernel(
    out_ptr, qkv_ptr, keys_ptr, values_ptr, cos_ptr, sin_ptr, slots_ptr, starts_ptr,
    partial_ptr, ticket_ptr,
    qkv_row, qkv_step, out_row, out_step, angle_row, angle_step, kv_slot, kv_head, kv_position,
    scale, capacity, window,
    STEPS: tl.constexpr, GROUP: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    start = tl.load(starts_ptr + row)
    dims = tl.arange(0, WIDTH)[None, :]
    in_dim = dims < DIM
    query = tl.arange(0, QUERIES)
    step = query // GROUP
    in_query = (query < STEPS * GROUP)[:, None]
    angles = row * angle_row + step[:, None] * angle_step + dims
    cos = tl.load(cos_ptr + angles, mask=in_query & in_dim, other=0.0)
    sin = tl.load(sin_ptr + angles, mask=in_query & in_dim, other=0.0)
    qkv_ptr += row * qkv_row
    q_offset = step * qkv_step + (head * GROUP + query % GROUP) * DIM
    q = _rotated(qkv_ptr, q_offset[:, None], dims, cos, sin, in_query & in_dim, DIM)

    # The new positions: causal among themselves, and stored below.
    fresh = tl.arange(0, 16)
    in_fresh = (fresh < STEPS)[:, None] & in_dim
    angles = row * angle_row + fresh[:, None] * angle_step + dims
    cos = tl.load(cos_ptr + angles, mask=in_fresh, other=0.0)
    sin = tl.load(sin_ptr + angles, mask=in_fresh, other=0.0)
    k_offset = (fresh * qkv_step + (KV_HEADS * GROUP + head) * DIM)[:, None]
    k = _rotated(qkv_ptr, k_offset, dims, cos, sin, in_fresh, DIM)
    v = tl.load(qkv_ptr + k_offset + KV_HEADS * DIM + dims, mask=in_fresh, other=0.0)
    kv = slot * kv_slot + head * kv_head
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (fresh[None, :] <= step[:, None]) & (fresh < STEPS)[None, :] & (split == 0)
    top = tl.max(tl.where(seen, scores, -1e30), axis=1)
    weights = tl.where(seen, tl.exp(scores - top[:, None]), 0.0)
    total = tl.sum(weights, axis=1)
    mixed = tl.dot(weights.to(v.dtype), v, input_precision="ieee")

    # The past: each index of a ring holds the newest position that maps to it.
    held = tl.minimum(start, capacity)
    share = tl.cdiv(tl.cdiv(held, SPLITS), BLOCK) * BLOCK
    begin = split * share
    end = tl.minimum(begin + share, held)
    for first in range(begin, end, BLOCK):
        ring_index = first + tl.arange(0, BLOCK)
        in_past = ring_index < end
        in_cache = kv + ring_index[:, None] * kv_position + dims
        past_k = tl.load(keys_ptr + in_cache, mask=in_past[:, None] & in_dim, other=0.0)
        age = (start - 1 - ring_index) % capacity + 1  # [ring indices], of the first new position
        visible = in_past[None, :] & (age[None, :] + step[:, None] < window)
        logits = tl.dot(q, tl.trans(past_k), input_precision="ieee") * scale
        higher = tl.maximum(top, tl.max(tl.where(visible, logits, -1e30), axis=1))
        shrink = tl.exp(top - higher)
        shares = tl.where(visible, tl.exp(logits - higher[:, None]), 0.0)
        past_v = tl.load(values_ptr + in_cache, mask=in_past[:, None] & in_dim, other=0.0)
        total = total * shrink + tl.sum(shares, axis=1)
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(shares.to(past_v.dtype), past_v, mixed, input_precision="ieee")
        top = higher

    if split == 0:  # stored last, so that no load of the past waits for it
        at = kv + ((start + fresh) % capacity)[:, None] * kv_position + dims
        tl.store(keys_ptr + at, k, mask=in_fresh)
        tl.store(values_ptr + at, v, mask=in_fresh)
    last = True
    if SPLITS > 1:
        tile = row * KV_HEADS + head
        slab = partial_ptr + tile * SPLITS * QUERIES * (WIDTH + 2)
        own = slab + split * QUERIES * (WIDTH + 2) + query * (WIDTH + 2)
        tl.store(own, top)
        tl.store(own + 1, total)
        tl.store(own[:, None] + 2 + dims, mixed)
        tl.debug_barrier()
        last = tl.atomic_add(ticket_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
        if last:
            top = tl.full((QUERIES,), -1e30, tl.float32)
            total = tl.zeros((QUERIES,), tl.float32)
            mixed = tl.zeros((QUERIES, WIDTH), tl.float32)
            for other in range(SPLITS):
                other_ptr = slab + other * QUERIES * (WIDTH + 2) + query * (WIDTH + 2)
                other_top = tl.load(other_ptr, cache_modifier=".cg")
                peak = tl.maximum(top, other_top)
                own_scale, other_scale = tl.exp(top - peak), tl.exp(other_top - peak)
                total = (
                    total * own_scale + tl.load(other_ptr + 1, cache_modifier=".cg") * other_scale
                )
                other_mixed = tl.load(other_ptr[:, None] + 2 + dims, cache_modifier=".cg")
                mixed = mixed * own_scale[:, None] + other_mixed * other_scale[:, None]
                top = peak
            tl.store(ticket_ptr + tile, 0)
    if last:
        mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
        at = row * out_row + step * out_step + (head * GROUP + query % GROUP) * DIM
        tl.store(
            out_ptr + at[:, None] + dims,
            mixed.to(out_ptr.dtype.element_ty),
            mask=in_query & in_dim,
        )


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of one layer; both [slots, capacity, kv_heads, dim], of any strides.

    Position p is stored at index p modulo the capacity; a query attends to keys less than
    `window` positions before it.
    """

    keys: Tensor
    values: Tensor
    window: int


@dataclass(frozen=True, slots=True)
class RowPositions:
    """Slots, positions and RoPE angles of the rows of a step.

    slots, starts: int [rows], the slot of each and its first new position. cos, sin: float32
    [rows or 1, steps, dim] of the new positions, sin signed for the half it multiplies.
    """

    slots: Tensor
    starts: Tensor
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Tuning:
    """Launch parameters: keys per block, warps, and pipeline stages of loads."""

    block: int
    warps: int
    stages: int


_FEW, _SOME, _MANY = Tuning(64, 4, 2), Tuning(32, 2, 3), Tuning(32, 1, 3)


def tuning_for(programs: int) -> Tuning:
    """Choose launch parameters: few programs get large blocks, many get few warps each."""
    return _FEW if programs < 256 else _SOME if programs < 2048 else _MANY


def splits_for(programs: int, *, max_splits: int) -> int:
    """Return the number of parts a row's past is split into, so that few rows fill the GPU too."""
    return min(max_splits, max(1, 256 // programs))


def attend(
    qkv: Tensor,
    cache: Cache,
    positions: RowPositions,
    workspace: Workspace,
    *,
    heads: int,
    splits: int = 1,
    tuning: Tuning | None = None,
) -> Tensor:
    """Attend from qkv [rows, steps, (heads + 2 kv_heads) * dim], any strides of rows and steps.

    Writes the new keys and values to the cache. Returns [rows, steps, heads * dim], laid out as
    qkv is: rows first or steps first. Rows that share a slot are padding, their output undefined.
    """
    rows, steps, _ = qkv.shape
    _, capacity, kv_heads, dim = cache.keys.shape
    if qkv.stride(0) >= qkv.stride(1) or rows == 1:
        out = qkv.new_empty(rows, steps, heads * dim)
    else:
        out = qkv.new_empty(steps, rows, heads * dim).transpose(0, 1)
    tuning = tuning or tuning_for(rows * kv_heads)
    group = heads // kv_heads
    queries = max(_MIN_TILE, power_of_2(steps * group))
    width = max(_MIN_TILE, power_of_2(dim))
    if splits > 1:
        floats = rows * kv_heads * splits * queries * (width + 2)
        workspace.check(floats=floats, tickets=rows * kv_heads)
    shared_angles = positions.cos.shape[0] == 1
    _attend_kernel[(rows, kv_heads, splits)](
        out, qkv, cache.keys, cache.values, positions.cos, positions.sin,
        positions.slots, positions.starts,
        workspace.floats, workspace.tickets,
        qkv.stride(0), qkv.stride(1), out.stride(0), out.stride(1),
        0 if shared_angles else positions.cos.stride(0), positions.cos.stride(1),
        cache.keys.stride(0), cache.keys.stride(2), cache.keys.stride(1),
        dim**-0.5, capacity, cache.window,
        STEPS=steps, GROUP=group, KV_HEADS=kv_heads, DIM=dim, WIDTH=width, QUERIES=queries,
        BLOCK=tuning.block, SPLITS=splits, PDL=workspace.overlap,
        num_warps=tuning.warps, num_stages=tuning.stages, **workspace.launch,
    )  # fmt: skip
    return out


def attending_rings(
    positions: MimiPositions, workspace: Workspace, *, config: MimiConfig
) -> RingAttend:
    """Attend over the codec's rings as `RingPositions.attending` does."""
    steps = RowPositions(
        positions.rows, positions.start, positions.cosines[:, :, 0], positions.sines[:, :, 0]
    )
    splits = splits_for(positions.rows.shape[0] * config.kv_heads, max_splits=4)

    def attend_ring(qkv: Tensor, ring: Tensor) -> Tensor:
        cache = Cache(ring[:, :, 0], ring[:, :, 1], config.sliding_window)
        return attend(qkv, cache, steps, workspace, heads=config.heads, splits=splits)

    return attend_ring
