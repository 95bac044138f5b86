"""Read the alignment head: the text token that a query attends to most, for each row of a step.

In: the head's queries before RoPE, its keys in the KV cache, and where each slot's text is. Out: an
index into that text. The ranges are read on the device, so that one captured launch is valid for
any set of rows. It must not know characters.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.attention import AlignmentHead
from csm_trio.model.kernels.attention import RowPositions
from csm_trio.model.kernels.workspace import Workspace, power_of_2

_BLOCK = 128
"""Text tokens read at once: nearly every sentence is one block."""
_WARPS = 8


@triton.jit
def _attended_tokens_kernel(
    out_ptr, queries_ptr, keys_ptr, cos_ptr, sin_ptr, slots_ptr, ranges_ptr,
    out_row, query_row, angle_row, key_slot, key_position,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    row = tl.program_id(0)
    # Read before the wait: no kernel of the step writes slots or text ranges.
    slot = tl.load(slots_ptr + row).to(tl.int64)
    start = tl.load(ranges_ptr + 2 * slot).to(tl.int64)
    length = tl.load(ranges_ptr + 2 * slot + 1).to(tl.int32)
    dims = tl.arange(0, WIDTH)
    in_dim = dims < DIM
    if PDL:
        gdc_wait()
    angles = row * angle_row + dims
    cos = tl.load(cos_ptr + angles, mask=in_dim, other=0.0)
    sin = tl.load(sin_ptr + angles, mask=in_dim, other=0.0)
    queries_ptr += row * query_row
    q = tl.load(queries_ptr + dims, mask=in_dim, other=0.0)
    swapped = tl.load(queries_ptr + (dims + DIM // 2) % DIM, mask=in_dim, other=0.0)
    rotated = q.to(tl.float32) * cos + swapped.to(tl.float32) * sin
    rotated = rotated.to(q.dtype).to(tl.float32)  # rounded as for the attention

    keys_ptr += slot * key_slot + start * key_position
    lanes = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    best_token = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, length, BLOCK):
        token = first + lanes
        in_text = token < length
        at = token[:, None] * key_position + dims[None, :]
        keys = tl.load(keys_ptr + at, mask=in_text[:, None] & in_dim[None, :], other=0.0)
        scores = tl.sum(keys.to(tl.float32) * rotated[None, :], axis=1)
        # A score of NaN is never better: the index is always one of the text's, or 0.
        better = in_text & (scores > best)
        best = tl.where(better, scores, best)
        best_token = tl.where(better, token, best_token)
    # The first of equal scores, as torch.argmax on a CPU returns.
    among = tl.where(best == tl.max(best, axis=0), best_token, 0x7FFFFFFF)
    tl.store(out_ptr + row * out_row, tl.min(among, axis=0).to(tl.int16))


@dataclass(frozen=True, slots=True)
class AttendedTokens:
    """The alignment head that a step reads, and `out` int16 [rows] of any stride, for its indices.

    An index counts the text's tokens from 0, modulo 2**16; it is 0 for a row without text.
    """

    head: AlignmentHead
    out: Tensor


def read_alignment_head(
    qkv: Tensor,
    keys: Tensor,
    text_ranges: Tensor,
    positions: RowPositions,
    attended: AttendedTokens,
    workspace: Workspace,
    *,
    heads: int,
) -> None:
    """Write the index of the text token that each row's head attends to most.

    qkv: [rows, (heads + 2 kv_heads) * dim] of the head's layer, before RoPE; keys: [slots,
    kv_heads, positions, dim], that layer's, with RoPE; text_ranges: int64 [slots, 2], the first
    position and the number of a slot's text tokens; positions: of one new position per row.
    """
    _, kv_heads, _, dim = keys.shape
    head = attended.head.head
    queries = qkv[:, head * dim : (head + 1) * dim]
    keys = keys[:, head // (heads // kv_heads)]
    _attended_tokens_kernel[(len(qkv),)](
        attended.out, queries, keys, positions.cos, positions.sin, positions.slots, text_ranges,
        attended.out.stride(0), queries.stride(0), positions.cos.stride(0),
        keys.stride(0), keys.stride(1),
        DIM=dim, WIDTH=power_of_2(dim), BLOCK=_BLOCK, PDL=workspace.overlap,
        num_warps=_WARPS, **workspace.launch,
    )  # fmt: skip
