"""Packed and int8 matrices: equal products within what rounding allows, row by row to the bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.linear import Int8Matrix, linear, packed

SIZES = ((48, 32), (24, 20), (515, 192), (1280, 256), (256, 640))
"""(outputs, inputs), 20 inputs being no multiple of what torch's int8 kernel reads at once."""
BFLOAT16_STEP = 2.0**-8


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_rounding_loses_half_a_step_a_weight_at_most(outputs: int, inputs: int) -> None:
    weight = _drawn(outputs, inputs)
    weight[3] = 0.0
    matrix = Int8Matrix.rounded(weight)
    assert matrix.dtype == torch.int8
    scale = matrix.scale.float()[:, None]
    error = matrix[:, :inputs] * scale - weight
    assert (error.abs() <= scale / 2 * (1 + 1e-5)).all()
    assert not matrix[:, inputs:].any()
    assert not matrix[3].any()


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_an_int8_product_differs_by_rounding_only(outputs: int, inputs: int) -> None:
    weight, x = _drawn(outputs, inputs), _drawn(3, 2, inputs, seed=1)
    matrix = Int8Matrix.rounded(weight)
    product = linear(x, matrix)
    exact = F.linear(x.double(), weight.double())
    assert product.dtype == torch.float32
    assert product.shape == exact.shape
    # Half a step a weight; half a bfloat16 step (and f32 sums) of what goes in and comes out.
    weights = F.linear(x.abs().sum(-1, keepdim=True), matrix.scale.float()[:, None] / 2)
    activations = F.linear(x.abs(), weight.abs() + matrix.scale.float()[:, None] / 2)
    bound = weights + BFLOAT16_STEP * activations
    assert ((product - exact).abs() <= bound + 1e-6).all()
    assert (product - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_an_int8_row_is_the_same_among_any_number_of_rows(outputs: int, inputs: int) -> None:
    matrix, x = Int8Matrix.rounded(_drawn(outputs, inputs)), _drawn(9, inputs, seed=1)
    together = linear(x, matrix)
    for row in range(9):
        assert torch.equal(linear(x[row : row + 1], matrix)[0], together[row])
        assert torch.equal(linear(x[: row + 1], matrix), together[: row + 1])


def test_int8_matrices_join_as_they_would_have_before_rounding() -> None:
    upper, lower = _drawn(5, 20), _drawn(7, 20, seed=1)
    whole = Int8Matrix.rounded(torch.cat((upper, lower)))
    joined = Int8Matrix.joined([Int8Matrix.rounded(upper), Int8Matrix.rounded(lower)])
    assert torch.equal(joined, whole)
    assert torch.equal(joined.scale, whole.scale)
    assert joined.inputs == 20


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@pytest.mark.parametrize("rows", [2, 3, 5, 7])
def test_a_packed_product_is_the_same_in_any_row_of_the_batch(
    outputs: int, inputs: int, rows: int
) -> None:
    weight, bias = _drawn(outputs, inputs), _drawn(outputs, seed=2)
    matrix, x = packed(nn.Parameter(weight, requires_grad=False)), _drawn(rows, inputs, seed=1)
    product = linear(x, matrix, bias)
    torch.testing.assert_close(product, F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    for shift in range(1, rows):
        assert torch.equal(linear(x.roll(shift, 0), matrix, bias), product.roll(shift, 0))


def test_other_types_are_left_as_they_are() -> None:
    for weight in (nn.Parameter(_drawn(8, 32).bfloat16()), Int8Matrix.rounded(_drawn(8, 32))):
        assert packed(weight) is weight
