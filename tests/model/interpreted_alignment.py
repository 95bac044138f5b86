"""The kernel of the alignment head in Triton's interpreter on a CPU, against torch.

`test_alignment_kernel.py` runs this file in a process of its own: Triton decides at its import
whether it interprets.
"""

import pytest
import torch
from torch import Tensor

from csm_trio.model.attention import AlignmentHead
from csm_trio.model.kernels.alignment import AttendedTokens, read_alignment_head
from csm_trio.model.kernels.attention import RowPositions
from csm_trio.model.kernels.workspace import Workspace
from csm_trio.model.llama import rotate

F32, F16 = torch.float32, torch.float16
LAYER = 3
POSITIONS = 300
# First position and number of tokens: none, one, a block, more, to the end of the cache.
TEXTS = [(0, 0), (5, 1), (40, 17), (2, 128), (9, 129), (0, 300), (43, 257), (7, 0)]
UNWRITTEN = -7


class Step:
    """Random queries, keys and angles of rows, one for each slot, whose slots are reversed."""

    def __init__(self, dtype: torch.dtype, *, heads: int, kv_heads: int, dim: int) -> None:
        made = torch.Generator().manual_seed(dim)
        rows = len(TEXTS)
        self.heads, self.kv_heads, self.dim = heads, kv_heads, dim
        width = (heads + 2 * kv_heads) * dim
        self.qkv = torch.randn(rows, width, generator=made).to(dtype)
        self.keys = torch.randn(rows, kv_heads, POSITIONS, dim, generator=made).to(dtype)
        self.slots = torch.arange(rows).flip(0)
        angles = torch.randn(rows, 1, dim // 2, generator=made)
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)
        self.texts = torch.tensor(TEXTS)

    def by_kernel(self, head: int) -> list[int]:
        """Return each row's index; the column beside the kernel's must not change."""
        out = torch.full((len(TEXTS), 2), UNWRITTEN, dtype=torch.int16)
        read_alignment_head(
            self.qkv, self.keys, self.texts,
            RowPositions(self.slots, self.slots, self.cos, self.sin),
            AttendedTokens(AlignmentHead(LAYER, head), out[:, 1]),
            Workspace(torch.device("cpu")),
            heads=self.heads,
        )  # fmt: skip
        assert torch.all(out[:, 0] == UNWRITTEN)
        indices: list[int] = out[:, 1].tolist()
        return indices

    def rotated(self, head: int) -> Tensor:
        """Return a head's queries [rows, dim] with RoPE."""
        queries = self.qkv.view(len(TEXTS), -1, self.dim)[:, head, None]
        return rotate(queries, self.cos, self.sin)[:, 0]

    def by_torch(self, head: int) -> list[int]:
        """Return each row's index; 0 for a row without text."""
        group = self.heads // self.kv_heads
        return [
            self._attended(self.keys[slot, head // group], query, *TEXTS[slot])
            for slot, query in zip(self.slots.tolist(), self.rotated(head), strict=True)
        ]

    def _attended(self, keys: Tensor, query: Tensor, start: int, length: int) -> int:
        scores = keys[start : start + length].float() @ query.float()
        return int(scores.argmax()) if length else 0


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(4, 4, 16), (6, 2, 24)], ids=["every head", "groups"]
)
def test_every_head_attends_to_torchs_token(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int
) -> None:
    step = Step(dtype, heads=heads, kv_heads=kv_heads, dim=dim)
    read = [step.by_kernel(head) for head in range(heads)]
    assert read == [step.by_torch(head) for head in range(heads)]
    assert max(map(max, read)) >= 128, "a token beyond the first block must be attended to"


def test_of_equal_scores_the_first_is_read() -> None:
    step = Step(F32, heads=2, kv_heads=1, dim=16)
    step.keys.fill_(1.0)
    assert step.by_kernel(1) == [0] * len(TEXTS)
    equal = {2: (4, 9), 4: (127, 128), 5: (130, 258), 6: (3, 131)}
    for slot, tokens in equal.items():
        query = step.rotated(0)[len(TEXTS) - 1 - slot]
        for token in tokens:
            step.keys[slot, 0, TEXTS[slot][0] + token] = 100 * query
    read = step.by_kernel(0)
    assert {slot: read[len(TEXTS) - 1 - slot] for slot in equal} == {
        slot: first for slot, (first, _) in equal.items()
    }


# numpy computes the kernel, and warns where infinities meet.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_index_is_always_one_of_the_text(bad: float) -> None:
    step = Step(F32, heads=2, kv_heads=1, dim=16)
    for damaged in (step.keys, step.qkv):
        damaged.fill_(bad)
        for row, index in enumerate(step.by_kernel(0)):
            _, length = TEXTS[len(TEXTS) - 1 - row]
            assert 0 <= index < max(1, length)
