"""Sample one code per row and embed it: temperature, top-k, seed and noise on the device.

Samples as `model/sampling.py` does, in one kernel: the k-th largest logit is found by a radix
search over its bits, so that the cost does not depend on k and nothing is sorted.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from csm_trio.model.kernels.workspace import Workspace, power_of_2


@triton.jit
def _mixed(x):
    x = (x ^ (x >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    x = (x ^ (x >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return x ^ (x >> 31)


@triton.jit
def _noise(seed, frame, codebook, ids):
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    stride = tl.full((), 0x632BE59BD9B4E019, tl.uint64)
    stream = _mixed(seed.to(tl.uint64) + codebook.to(tl.uint64) * golden)
    stream = _mixed(stream + frame.to(tl.uint64) * stride)
    word = _mixed(stream + ids.to(tl.uint64) * golden)
    uniform = ((word >> 40).to(tl.float32) + 0.5) * 5.9604644775390625e-08  # 2 ** -24
    uniform = tl.minimum(uniform, 0.999999940395355224609375)  # 1 - 2 ** -24
    return -tl.log(-tl.log(uniform))


@triton.jit
def _kth_largest(keys, k, BITS: tl.constexpr):
    """Return the k-th largest of `keys` in its upper `BITS` bits, found two bits at a time."""
    found = tl.full((), 0, tl.uint32)
    for step in tl.static_range(BITS // 2):
        unit = tl.full((), 1 << (30 - 2 * step), tl.uint32)
        one = (keys >= found + unit).to(tl.int64)
        two = (keys >= found + unit * 2).to(tl.int64)
        three = (keys >= found + unit * 3).to(tl.int64)
        counts = tl.sum(one + (two << 21) + (three << 42))
        field = (1 << 21) - 1
        digit = ((counts & field) >= k).to(tl.uint32)
        digit += (((counts >> 21) & field) >= k).to(tl.uint32)
        digit += ((counts >> 42) >= k).to(tl.uint32)
        found += digit * unit
    return found


@triton.jit(do_not_specialize=["codebook", "table_start"])
def _sample_kernel(
    logits_ptr, codes_ptr, slots_ptr, temperature_ptr, top_k_ptr, seeds_ptr, frames_ptr,
    table_ptr, next_ptr, failed_ptr, codebook, table_start, codebooks, ids_count, width, failed_row,
    HALF: tl.constexpr, EMBED: tl.constexpr, BITS: tl.constexpr,
    IDS: tl.constexpr, WIDTH: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    slot = tl.load(slots_ptr + row)
    temperature = tl.load(temperature_ptr + slot * 2 + HALF)
    ids = tl.arange(0, IDS)
    inside = ids < ids_count
    at = logits_ptr + row * ids_count + ids
    logits = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
    # NaN is not below infinity either.
    wrong = tl.sum((inside & ~(tl.abs(logits) < float("inf"))).to(tl.int32), axis=0) > 0
    tl.store(failed_ptr + row * failed_row, wrong.to(tl.int16), mask=wrong | (HALF == 0))
    if temperature > 0:
        k = tl.minimum(tl.load(top_k_ptr + slot * 2 + HALF), ids_count)
        bits = logits.to(tl.uint32, bitcast=True)
        negative = (bits >> 31) != 0
        keys = bits ^ tl.where(negative, 0xFFFFFFFF, 0x80000000).to(tl.uint32)
        keys = tl.where(inside, keys, 0)
        kept = keys >= _kth_largest(keys, k, BITS)
        seed, frame = tl.load(seeds_ptr + slot), tl.load(frames_ptr + slot)
        noise = _noise(seed, frame, codebook, ids)
        scores = logits / tl.maximum(temperature, 1e-4) + noise
        logits = tl.where(kept & inside, scores, float("-inf"))
    # The argmax of NaN may be no id: the next codebook's row of the table must be one.
    code = tl.where(wrong, 0, tl.argmax(logits, axis=0))
    tl.store(codes_ptr + row * codebooks + codebook, code.to(tl.int64))
    if EMBED:
        dims = tl.arange(0, WIDTH)
        source = table_ptr + (table_start + code).to(tl.int64) * width + dims
        embedded = tl.load(source, mask=dims < width, other=0.0)
        tl.store(next_ptr + row * width + dims, embedded, mask=dims < width)


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """Sampling parameters on the device. slots: int64 [rows]; the others are indexed by slot.

    temperature: float32 [slots, 2]; top_k: int64 [slots, 2]; seeds, frames: int64 [slots].
    Column 0 is for codebook 0, column 1 for all others. failed: int16 [rows] of any stride, to
    which 1 is written for a row with NaN or infinity in the logits of any codebook, else 0.
    """

    slots: Tensor
    failed: Tensor
    temperature: Tensor
    top_k: Tensor
    seeds: Tensor
    frames: Tensor


def sample(
    logits: Tensor,
    codebook: int,
    sampling: SamplingTensors,
    codes: Tensor,
    workspace: Workspace,
    *,
    table: Tensor,
    table_start: int,
    embedded: Tensor | None,
) -> None:
    """Sample from logits [rows, ids] into column `codebook` of codes [rows, codebooks], int64.

    Row `table_start + code` of `table` is copied to `embedded` [rows, width], if that is given.
    """
    rows, ids = logits.shape
    width = table.shape[1]
    _sample_kernel[(rows,)](
        logits, codes, sampling.slots, sampling.temperature, sampling.top_k, sampling.seeds,
        sampling.frames,
        table, table if embedded is None else embedded, sampling.failed,
        codebook, table_start, codes.shape[1], ids, width, sampling.failed.stride(0),
        HALF=min(codebook, 1), EMBED=embedded is not None,
        # The lower 16 bits of a bfloat16 widened to float32 are zero.
        BITS=16 if logits.dtype == torch.bfloat16 else 32,
        IDS=power_of_2(ids), WIDTH=power_of_2(width), PDL=workspace.overlap,
        num_warps=4, **workspace.launch,
    )  # fmt: skip
