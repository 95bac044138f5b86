"""RoPE in place, with scratch made once: for the CPU's steps of the model and of its codec.

In: queries, keys and values as projected, and angles. Out: the same with queries and keys rotated.
Values equal those of `rotate`, to the bit.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Angles(NamedTuple):
    """The angles of a number of tokens.

    cosines: [tokens, heads, 2, dim / 2], 1 for the values, which are not rotated. sines: of the
    first and of the second half, each [tokens, 1, dim / 2].
    """

    cosines: Tensor
    first_sines: Tensor
    second_sines: Tensor


class Rotation:
    """Rotates the first `heads` heads of `tokens` tokens, and copies `values` heads after them."""

    rotated: Tensor
    """[tokens, heads + values, dim], which every call overwrites."""
    flat: Tensor
    """The same [tokens, (heads + values) * dim]."""

    def __init__(self, tokens: int, heads: int, *, values: int, dim: int) -> None:
        shape = (tokens, heads + values, 2, dim // 2)
        self._heads = heads
        self._given, self._made = torch.empty(2, *shape).unbind(0)
        self._given_flat = self._given.view(tokens, -1)
        self._given_first, self._given_second = self._given[:, :heads].unbind(2)
        self._made_first, self._made_second = self._made[:, :heads].unbind(2)
        self.rotated, self.flat = self._made.flatten(2), self._made.flatten(1)

    def angles(self, cos: Tensor, sin: Tensor) -> Angles:
        """Return the angles of cosines and sines [tokens or 1, 1, dim] as `rotate` takes them."""
        cosines = torch.ones_like(self._given)
        cosines[:, : self._heads] = cos.view(len(cos), 1, 2, -1)
        return Angles(cosines, *sin.view(len(sin), 1, 2, -1).unbind(2))

    def rotate(self, qkv: Tensor, angles: Angles) -> None:
        """Rotate qkv [tokens, (heads + values) * dim] into `rotated`, in the sums of `rotate`."""
        self._given_flat.copy_(qkv)
        torch.mul(self._given, angles.cosines, out=self._made)
        self._made_first.addcmul_(self._given_second, angles.first_sines)
        self._made_second.addcmul_(self._given_first, angles.second_sines)
