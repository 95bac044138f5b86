"""Matrix products for CPUs: float32 weights in oneDNN's own layout, or weights of 8 or 4 bits.

In: activations and a weight. Out: their product. It must not know which weights are packed.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.int4_matrix import Int4Matrix, PackedInt4Matrix
from csm_trio.model.scaled_matrix import ScaledMatrix

_WIDTH_MULTIPLE = 32
"""Number of values that torch's int8 kernels read at a time, even beyond a row's end, unchecked."""
_INT8_MAX = 127


Product = Callable[[Tensor], Tensor]
"""A product of activations by one weight."""


class Quantization(StrEnum):
    """The type that the matrices of a quantized model are rounded to; activations are float32."""

    INT8 = "int8"
    INT4 = "int4"
    """The MLPs, and the depth decoder's attention unless it is small; other matrices in int8."""


class Int8Matrix(ScaledMatrix):
    """int8 weight [outputs, inputs padded with zeros to a multiple of 32], with a scale per row.

    `scale`: bfloat16 [outputs], as torch's kernel requires. Rows are divided by the rounded scale,
    so that the error is at most half a scale per value.
    """

    @classmethod
    def rounded(cls, weight: Tensor) -> Self:
        """Round a float matrix [outputs, inputs], symmetrically, each row by its largest value."""
        wide = weight.float()
        scale = (wide.abs().amax(1) / _INT8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
        scale = scale.bfloat16()
        values = (wide / scale.float()[:, None]).round_().clamp_(-_INT8_MAX, _INT8_MAX)
        inputs = weight.shape[1]
        padded = F.pad(values.to(torch.int8), (0, -inputs % _WIDTH_MULTIPLE))
        return cls.of(padded.contiguous(), scale, inputs)

    def times(self, x: Tensor) -> Tensor:
        """Map x [..., inputs] to float32 [..., outputs].

        Activations and results are rounded to bfloat16; sums are float32. A row's
        product does not depend on the number of rows.
        """
        flat = x.bfloat16().reshape(-1, self.inputs)
        padding = self.shape[1] - self.inputs
        if padding:
            flat = F.pad(flat, (0, padding))
        product = torch._weight_int8pack_mm(flat, self, self.scale)
        return product.float().view(*x.shape[:-1], -1)


def joined(parts: Sequence[Tensor]) -> nn.Parameter:
    """Concatenate weights of one kind along the outputs."""
    if len(parts) == 1 and isinstance(parts[0], nn.Parameter):
        return parts[0]
    if rounded := [part for part in parts if isinstance(part, ScaledMatrix)]:
        return type(rounded[0]).joined(rounded)
    joint = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return nn.Parameter(joint, requires_grad=False)


def stored_bytes(weight: Tensor) -> int:
    """Return a weight's bytes, those of its scales included."""
    if isinstance(weight, ScaledMatrix | PackedInt4Matrix):
        return weight.nbytes + weight.scale.nbytes
    return weight.nbytes


def packed(weight: nn.Parameter) -> nn.Parameter:
    """Reorder a float32 or 4-bit matrix [outputs, inputs] to the layout of its product.

    That of float32 is oneDNN's, where oneDNN is available: MKL, behind `F.linear`, reorders a
    matrix for every product of several rows, which takes longer than the product; and from five
    rows on its sums depend on a row's index in the batch.
    """
    if isinstance(weight, Int4Matrix):
        return PackedInt4Matrix.of(weight)
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.dtype != torch.float32 or not onednn:
        return weight
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return nn.Parameter(reordered, requires_grad=False)


def product_by(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Return the product by a weight that may be packed or (without bias) quantized.

    It multiplies as `F.linear` does; what depends on the weight alone is looked up once.
    """
    if weight.is_mkldnn:
        times: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        return lambda x: times(x, weight, bias, "none", [], "")
    if isinstance(weight, PackedInt4Matrix | Int8Matrix):
        return weight.times
    return partial(F.linear, weight=weight, bias=bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply x by a weight once, as `product_by` does."""
    return product_by(weight, bias)(x)
