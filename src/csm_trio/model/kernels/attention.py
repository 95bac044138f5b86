"""Decode attention over slots: each row to its own length, new keys written on the way.

In: the fused q, k, v of a few new positions a row, and a cache indexed by slot. Out: mixed values.
One kernel serves the backbone (long pasts) and the codec (a ring with a window): lengths are
read on the device, so that a captured launch holds for any set of rows. The depth decoder, whose
rows all stand at the same short past, has a simpler one in `lockstep.py`.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.config import MimiConfig
from csm_trio.model.kernels.workspace import Workspace, power_of_2
from csm_trio.model.mimi.attention import MimiPositions, RingAttend

_MIN_TILE = 16  # what a matrix instruction takes


@triton.jit
def _rotated(
    ptr, offsets, dims, cos, sin, mask, DIM: tl.constexpr
):  # fmt: skip
    """Load heads at `offsets` [rows, 1] and rotate them: float32 inside, then their own type."""
    x = tl.load(ptr + offsets + dims, mask=mask, other=0.0)
    swapped = tl.load(ptr + offsets + (dims + DIM // 2) % DIM, mask=mask, other=0.0)
    return (x.to(tl.float32) * cos + swapped.to(tl.float32) * sin).to(x.dtype)


@triton.jit
def _attend_kernel(
    out_ptr, qkv_ptr, keys_ptr, values_ptr, cos_ptr, sin_ptr, slots_ptr, starts_ptr,
    partial_ptr, ticket_ptr,
    qkv_row, qkv_step, out_row, out_step, angle_row, angle_step, kv_slot, kv_head, kv_place,
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
    place = step * qkv_step + (head * GROUP + query % GROUP) * DIM
    q = _rotated(qkv_ptr, place[:, None], dims, cos, sin, in_query & in_dim, DIM)

    # The new positions: seen in order among themselves, and kept for later.
    fresh = tl.arange(0, 16)
    in_fresh = (fresh < STEPS)[:, None] & in_dim
    angles = row * angle_row + fresh[:, None] * angle_step + dims
    cos = tl.load(cos_ptr + angles, mask=in_fresh, other=0.0)
    sin = tl.load(sin_ptr + angles, mask=in_fresh, other=0.0)
    place = (fresh * qkv_step + (KV_HEADS * GROUP + head) * DIM)[:, None]
    k = _rotated(qkv_ptr, place, dims, cos, sin, in_fresh, DIM)
    v = tl.load(qkv_ptr + place + KV_HEADS * DIM + dims, mask=in_fresh, other=0.0)
    kv = slot * kv_slot + head * kv_head
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (fresh[None, :] <= step[:, None]) & (fresh < STEPS)[None, :] & (split == 0)
    top = tl.max(tl.where(seen, scores, -1e30), axis=1)
    weights = tl.where(seen, tl.exp(scores - top[:, None]), 0.0)
    total = tl.sum(weights, axis=1)
    mixed = tl.dot(weights.to(v.dtype), v, input_precision="ieee")

    # The past: a ring's places hold the newest positions that fall on them.
    held_places = tl.minimum(start, capacity)
    share = tl.cdiv(tl.cdiv(held_places, SPLITS), BLOCK) * BLOCK
    begin = split * share
    end = tl.minimum(begin + share, held_places)
    for first in range(begin, end, BLOCK):
        places = first + tl.arange(0, BLOCK)
        in_past = places < end
        in_cache = kv + places[:, None] * kv_place + dims
        past_k = tl.load(keys_ptr + in_cache, mask=in_past[:, None] & in_dim, other=0.0)
        age = (start - 1 - places) % capacity + 1  # [places], of the first new position
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

    if split == 0:  # only now: no load of the past need wait for these
        at = kv + ((start + fresh) % capacity)[:, None] * kv_place + dims
        tl.store(keys_ptr + at, k, mask=in_fresh)
        tl.store(values_ptr + at, v, mask=in_fresh)
    last = True
    if SPLITS > 1:
        tile = row * KV_HEADS + head
        slab = partial_ptr + tile * SPLITS * QUERIES * (WIDTH + 2)
        mine = slab + split * QUERIES * (WIDTH + 2) + query * (WIDTH + 2)
        tl.store(mine, top)
        tl.store(mine + 1, total)
        tl.store(mine[:, None] + 2 + dims, mixed)
        tl.debug_barrier()
        last = tl.atomic_add(ticket_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
        if last:
            top = tl.full((QUERIES,), -1e30, tl.float32)
            total = tl.zeros((QUERIES,), tl.float32)
            mixed = tl.zeros((QUERIES, WIDTH), tl.float32)
            for other in range(SPLITS):
                theirs = slab + other * QUERIES * (WIDTH + 2) + query * (WIDTH + 2)
                their_top = tl.load(theirs, cache_modifier=".cg")
                peak = tl.maximum(top, their_top)
                ours, others = tl.exp(top - peak), tl.exp(their_top - peak)
                total = total * ours + tl.load(theirs + 1, cache_modifier=".cg") * others
                their_mixed = tl.load(theirs[:, None] + 2 + dims, cache_modifier=".cg")
                mixed = mixed * ours[:, None] + their_mixed * others[:, None]
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
    """Keys and values of one layer; both [slots, places, kv_heads, dim], however strided.

    Position p lies at index p modulo the capacity; a key is seen by queries less than
    `window` positions later.
    """

    keys: Tensor
    values: Tensor
    window: int


@dataclass(frozen=True, slots=True)
class RowPositions:
    """Where the rows of a step stand.

    slots, starts: int [rows], the slot of each and its first new position. cos, sin: float32
    [rows or 1, steps, dim] of the new positions, sin signed for the half it multiplies.
    """

    slots: Tensor
    starts: Tensor
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a program walks its past: keys at once, warps, loads in flight."""

    block: int
    warps: int
    stages: int


_FEW, _SOME, _MANY = Tuning(64, 4, 2), Tuning(32, 2, 3), Tuning(32, 1, 3)


def tuning_for(programs: int) -> Tuning:
    """Choose by how many programs there are: few must be quick, many must be small."""
    return _FEW if programs < 256 else _SOME if programs < 2048 else _MANY


def splits_for(programs: int, *, max_splits: int) -> int:
    """Choose into how many parts a past is split, so that few rows fill the device too."""
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
    qkv is: rows first or steps first. Rows that share a slot are padding, with no outcome.
    """
    rows, steps, _ = qkv.shape
    _, places, kv_heads, dim = cache.keys.shape
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
        dim**-0.5, places, cache.window,
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
