"""Weights of 4 bits in groups, and their products by torch's kernel for CPUs.

In: float matrices and activations. Out: matrices of 4 bits and products. It must not know which
matrices of a model are kept in 4 bits.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.scaled_matrix import ScaledMatrix

GROUP = 32
"""Number of inputs that share a scale and a zero: the smallest that torch's kernel takes."""
_LOWEST, _HIGHEST = -8, 7
_REFITS = 3
_ROUNDED_AT_ONCE = 1 << 18
"""Number of values rounded at a time: more would leave the cache."""
_PACKED_AT_ONCE = 1 << 22
"""Number of values packed at a time, of 4 bytes each."""
_PACKED_OUTPUTS = 64
"""Whole blocks of outputs in the kernel's layout of every CPU, whose blocks have 32 or 64."""
_OUTPUTS_MULTIPLE = 16


class Int4Matrix(ScaledMatrix):
    """Weight [outputs, inputs] of 4 bits: uint8 [outputs, inputs / 2], two values to a byte.

    A weight is its value (stored plus 8) times the scale of its group of 32 inputs, plus the
    group's zero. Inputs are padded to a multiple of 32 by zeros. `scale`: scales and zeros,
    bfloat16 [outputs, groups, 2].
    """

    @classmethod
    def rounded(cls, weight: Tensor) -> Self:
        """Round a float matrix [outputs, inputs], each group by the scale and zero that fit it."""
        outputs, inputs = weight.shape
        groups = -(-inputs // GROUP)
        width = groups * GROUP
        values = torch.empty(outputs, width // 2, dtype=torch.uint8, device=weight.device)
        scale = torch.empty(outputs, groups, 2, dtype=torch.bfloat16, device=weight.device)
        rows = max(1, _ROUNDED_AT_ONCE // width)
        for first in range(0, 0 if weight.is_meta else outputs, rows):
            part = F.pad(weight[first : first + rows].float(), (0, width - inputs))
            rounded, fitted = _round(part.view(-1, groups, GROUP))
            stored = (rounded - _LOWEST).to(torch.uint8).view(-1, width // 2, 2)
            values[first : first + rows] = stored[..., 0] | stored[..., 1] << 4
            scale[first : first + rows] = fitted
        return cls.of(values, scale, inputs)


class PackedInt4Matrix(nn.Parameter):
    """An `Int4Matrix` in the layout of torch's kernel, which depends on the CPU.

    The outputs are padded to a multiple of 16.
    """

    scale: Tensor  # [groups, padded outputs, 2] bf16: scale and zero
    inputs: int
    outputs: int

    @classmethod
    def of(cls, matrix: Int4Matrix) -> Self:
        """Reorder a matrix."""
        outputs, width = matrix.shape[0], 2 * matrix.shape[1]
        padding = -outputs % _OUTPUTS_MULTIPLE
        pairs = F.pad(matrix.data, (0, 0, 0, padding)) if padding else matrix.data
        values = torch.empty_like(pairs)
        rows = max(1, _PACKED_AT_ONCE // width // _PACKED_OUTPUTS) * _PACKED_OUTPUTS
        for first in range(0, len(pairs), rows):
            part = pairs[first : first + rows]
            wide = torch.stack((part & 0xF, part >> 4), dim=-1).view(-1, width).int()
            packed = torch._convert_weight_to_int4pack_for_cpu(wide, 1)
            values[first : first + rows] = packed
        packed_matrix = cls(values, requires_grad=False)
        scale = F.pad(matrix.scale, (0, 0, 0, 0, 0, padding))
        packed_matrix.scale = scale.transpose(0, 1).contiguous()
        packed_matrix.inputs, packed_matrix.outputs = matrix.inputs, outputs
        return packed_matrix

    def times(self, x: Tensor) -> Tensor:
        """Map x [..., inputs] to float32 [..., outputs].

        Activations and results are rounded to bfloat16; sums are float32. A row's product does not
        depend on the number of rows: the kernel adds up each output input by input.
        """
        flat = x.bfloat16().reshape(-1, self.inputs)
        padding = 2 * self.shape[1] - self.inputs
        if padding:
            flat = F.pad(flat, (0, padding))
        product = torch._weight_int4pack_mm_for_cpu(flat, self, GROUP, self.scale)
        if self.shape[0] != self.outputs:
            product = product[:, : self.outputs]
        return product.float().view(*x.shape[:-1], -1)


def int4_products_work() -> bool:
    """Return whether torch has the kernel for this CPU and multiplies right by it."""
    weight = torch.linspace(-1.0, 1.0, 2 * _PACKED_OUTPUTS * GROUP).view(_PACKED_OUTPUTS, -1)
    x = torch.linspace(1.0, 2.0, 2 * weight.shape[1]).view(2, -1)
    try:
        product = PackedInt4Matrix.of(Int4Matrix.rounded(weight)).times(x)
    except (AttributeError, RuntimeError):  # absent from this torch, or from it for this CPU
        return False
    return torch.allclose(product, F.linear(x, weight), rtol=0.05, atol=0.05 * weight.shape[1])


def _round(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Round float32 groups [..., groups, 32] to values from -8 to 7, by least squares.

    Begins with the scale and zero that span a group's least and largest weight. Then, for the
    values that these give, takes the scale and zero of the least squared error, three times where
    the error falls: for normally distributed weights by 13 % in all. Returns the values, float32,
    and scale and zero, bfloat16 [..., groups, 2], which are not finite where a weight is not.
    """
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = high / (_HIGHEST - _LOWEST) - low / (_HIGHEST - _LOWEST)
    scale, zero = _scale(step), _bfloat16(low - step * _LOWEST)
    mean = groups.mean(dim=-1, keepdim=True)
    centred = groups - mean
    values, error = _nearest(groups, scale, zero)
    for _ in range(_REFITS):
        values_mean = values.mean(dim=-1, keepdim=True)
        variance = values.square().mean(dim=-1, keepdim=True) - values_mean.square()
        slope = (values * centred).mean(dim=-1, keepdim=True) / variance
        fitted = torch.where(variance > 0, _scale(slope), scale)
        shifted = _bfloat16(mean - fitted * values_mean)
        values, fitted_error = _nearest(groups, fitted, shifted)
        better = fitted_error < error
        scale, zero = torch.where(better, fitted, scale), torch.where(better, shifted, zero)
        error = torch.where(better, fitted_error, error)
    values, _ = _nearest(groups, scale, zero)
    return values, torch.cat((scale, zero), dim=-1).bfloat16()


def _nearest(groups: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values nearest to the weights, and each group's squared error."""
    values = ((groups - zero) / scale).round_().clamp_(_LOWEST, _HIGHEST)
    errors = (values * scale).add_(zero).sub_(groups)
    error = errors.square_().sum(dim=-1, keepdim=True)
    return values, error


def _scale(step: Tensor) -> Tensor:
    return _bfloat16(step.clamp(min=torch.finfo(torch.float32).tiny))


def _bfloat16(tensor: Tensor) -> Tensor:
    """Round to bfloat16, as the kernel takes scales and zeros."""
    return tensor.bfloat16().float()
