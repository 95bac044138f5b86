"""Rounded weights with their scales: what matrices of 8 and of 4 bits share."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn


class ScaledMatrix(nn.Parameter):
    """A rounded weight [outputs, ...] of `inputs` inputs, with its scales [outputs, ...]."""

    scale: Tensor
    inputs: int

    @classmethod
    def of(cls, values: Tensor, scale: Tensor, inputs: int) -> Self:
        """Wrap rounded values and their scales."""
        matrix = cls(values, requires_grad=False)
        matrix.scale, matrix.inputs = scale, inputs
        return matrix

    @classmethod
    def joined(cls, parts: Sequence["ScaledMatrix"]) -> Self:
        """Concatenate matrices of one kind and of equal width along the outputs."""
        scale = torch.cat([part.scale for part in parts])
        return cls.of(torch.cat([part.data for part in parts]), scale, parts[0].inputs)
