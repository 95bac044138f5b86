"""Products with matrices that a CPU multiplies fastest: in oneDNN's own layout, or int8 rows.

In: activations and a weight. Out: their product. Which weights are kept how is others' choice.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH_MULTIPLE = 32
"""torch's int8 kernels read a row in steps of this many values, unchecked, beyond its end too."""
_LARGEST = 127


class Int8Matrix(nn.Parameter):
    """int8 [outputs, inputs], zeros at a row's end up to a multiple of 32, and a scale a row.

    The scales are bfloat16, as torch's kernel wants them. Rows are divided by the scale as rounded:
    what they lose is half a scale a value at most, and nothing by the scale.
    """

    scale: Tensor  # [outputs] bf16
    inputs: int

    @classmethod
    def of(cls, values: Tensor, scale: Tensor, inputs: int) -> Self:
        """Take values [outputs, inputs and padding] with their scales [outputs]."""
        matrix = cls(values, requires_grad=False)
        matrix.scale, matrix.inputs = scale, inputs
        return matrix

    @classmethod
    def rounded(cls, weight: Tensor) -> Self:
        """Round a float matrix [outputs, inputs], symmetrically, each row by its largest value."""
        wide = weight.float()
        scale = (wide.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        scale = scale.bfloat16()
        values = (wide / scale.float()[:, None]).round_().clamp_(-_LARGEST, _LARGEST)
        inputs = weight.shape[1]
        padded = F.pad(values.to(torch.int8), (0, -inputs % _WIDTH_MULTIPLE))
        return cls.of(padded.contiguous(), scale, inputs)

    @classmethod
    def joined(cls, parts: Sequence["Int8Matrix"]) -> Self:
        """Put matrices of equal width one below the other."""
        scale = torch.cat([part.scale for part in parts])
        return cls.of(torch.cat([part.data for part in parts]), scale, parts[0].inputs)

    def times(self, x: Tensor) -> Tensor:
        """Multiply [..., inputs] of any float type to [..., outputs] of the same.

        Activations are rounded to bfloat16 on their way in and out; sums are float32. A row's
        product does not depend on the number of rows.
        """
        flat = x.reshape(-1, self.inputs).bfloat16()
        padding = self.shape[1] - self.inputs
        if padding:
            flat = F.pad(flat, (0, padding))
        product: Tensor = torch.ops.aten._weight_int8pack_mm(flat, self, self.scale)
        return product.to(x.dtype).view(*x.shape[:-1], -1)


def packed(weight: nn.Parameter) -> nn.Parameter:
    """Lay a float32 matrix [outputs, inputs] out for `linear` on this CPU, where oneDNN can.

    MKL, behind `F.linear`, lays a matrix out anew for every product of several rows, which takes
    longer than the product, and among five rows its sums depend on a row's place.
    """
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.dtype != torch.float32 or not onednn:
        return weight
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return nn.Parameter(laid_out, requires_grad=False)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as `F.linear` does, by a weight that may be packed or (without bias) int8."""
    if weight.is_mkldnn:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    if isinstance(weight, Int8Matrix):
        return weight.times(x)
    return F.linear(x, weight, bias)
