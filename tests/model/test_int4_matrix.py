"""Matrices of 4 bits: weights and products within what rounding allows, row by row to the bit."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model import int4_matrix
from csm_trio.model.int4_matrix import GROUP, Int4Matrix, PackedInt4Matrix
from csm_trio.model.linear import joined, linear, packed, stored_bytes

SIZES = ((48, 32), (24, 20), (515, 192), (1280, 256), (256, 640))
"""(outputs, inputs), 20 inputs being no whole group, 24 and 515 outputs no block of the kernel."""
BFLOAT16_STEP = 2.0**-8


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _scale_and_zero(matrix: Int4Matrix) -> tuple[Tensor, Tensor]:
    """Return the scale and the zero of every weight, each [outputs, inputs]."""
    wide = matrix.scale.float().repeat_interleave(GROUP, dim=1)[:, : matrix.inputs]
    return wide[..., 0], wide[..., 1]


def _weights(matrix: Int4Matrix) -> Tensor:
    """Return the weights that a matrix stands for, [outputs, inputs]."""
    values = torch.stack((matrix.data & 0xF, matrix.data >> 4), dim=-1).flatten(1).int() - 8
    scale, zero = _scale_and_zero(matrix)
    return values[:, : matrix.inputs] * scale + zero


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_rounding_errs_less_than_by_the_span_of_each_group(outputs: int, inputs: int) -> None:
    weight = _drawn(outputs, inputs)
    weight[3] = 0.0
    matrix = Int4Matrix.rounded(weight)
    assert matrix.dtype == torch.uint8
    assert not _weights(matrix)[3].any()
    wide = F.pad(weight, (0, -inputs % GROUP)).view(outputs, -1, GROUP)
    low, high = wide.aminmax(dim=-1, keepdim=True)
    step = (high - low) / 15
    spanned = ((wide - low) / step.clamp(min=1e-30)).round() * step + low
    errors = F.pad(_weights(matrix) - weight, (0, -inputs % GROUP)).view_as(wide)
    # At most as much as with the span's scale and zero, had they not been rounded to bfloat16.
    assert (errors.norm(dim=-1) <= 1.1 * (spanned - wide).norm(dim=-1) + 1e-30).all()
    assert errors.square().sum() < 0.9 * (spanned - wide).square().sum()
    assert errors.norm() < 0.075 * weight.norm()


@pytest.mark.parametrize(
    "group",
    [
        torch.full((GROUP,), 0.37),
        torch.zeros(GROUP),
        torch.tensor([1.0, *[0.0] * (GROUP - 1)]),
        torch.linspace(100.0, 101.0, GROUP),
        1e-30 * _drawn(GROUP),
        1e-39 * _drawn(GROUP),
        3e38 * torch.linspace(-1.0, 1.0, GROUP),
        torch.cat((_drawn(GROUP - 1), torch.tensor([50.0]))),
    ],
    ids=["equal", "zeros", "one", "far from zero", "small", "subnormal", "largest", "outlier"],
)
def test_any_group_of_numbers_is_kept_within_a_step(group: Tensor) -> None:
    matrix = Int4Matrix.rounded(group[None])
    scale, zero = _scale_and_zero(matrix)
    assert matrix.scale.isfinite().all()
    error = (_weights(matrix) - group).abs()
    assert (error <= scale + BFLOAT16_STEP * zero.abs() + 1e-38).all()
    assert (scale <= (group.max() / 15 - group.min() / 15) * 1.1 + 1e-37).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_scale_of_a_group_with_a_hole_is_not_finite(value: float) -> None:
    weight = _drawn(4, 3 * GROUP)
    weight[2, GROUP + 5] = value
    finite = Int4Matrix.rounded(weight).scale.isfinite().all(dim=-1)
    assert (~finite).nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_a_product_differs_by_rounding_only(outputs: int, inputs: int) -> None:
    weight, x = _drawn(outputs, inputs), _drawn(3, 2, inputs, seed=1)
    matrix = Int4Matrix.rounded(weight)
    product = linear(x, packed(matrix))
    assert product.dtype == torch.float32
    rounded = F.linear(x.double(), _weights(matrix).double())
    assert product.shape == rounded.shape
    # Half a bfloat16 step (and f32 sums) of what goes in and comes out.
    bound = BFLOAT16_STEP * F.linear(x.abs(), _weights(matrix).abs())
    assert ((product - rounded).abs() <= bound + 1e-6).all()
    exact = F.linear(x, weight)
    assert (product - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_a_row_is_the_same_among_any_number_of_rows(outputs: int, inputs: int) -> None:
    matrix, x = packed(Int4Matrix.rounded(_drawn(outputs, inputs))), _drawn(9, inputs, seed=1)
    together = linear(x, matrix)
    for row in range(9):
        assert torch.equal(linear(x[row : row + 1], matrix)[0], together[row])
        assert torch.equal(linear(x[: row + 1], matrix), together[: row + 1])


def test_matrices_join_as_they_would_have_before_rounding() -> None:
    upper, lower = _drawn(5, 20), _drawn(7, 20, seed=1)
    whole = Int4Matrix.rounded(torch.cat((upper, lower)))
    parts = joined([Int4Matrix.rounded(upper), Int4Matrix.rounded(lower)])
    assert isinstance(parts, Int4Matrix)
    assert torch.equal(parts, whole)
    assert torch.equal(parts.scale, whole.scale)
    assert parts.inputs == 20


@pytest.mark.parametrize("at_once", [1, 1 << 12])
def test_many_steps_round_and_pack_as_one_does(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x = _drawn(515, 64), _drawn(2, 64, seed=1)
    matrix = Int4Matrix.rounded(weight)
    whole = PackedInt4Matrix.of(matrix)
    monkeypatch.setattr(int4_matrix, "_ROUNDED_AT_ONCE", at_once)
    monkeypatch.setattr(int4_matrix, "_PACKED_AT_ONCE", at_once)
    again = Int4Matrix.rounded(weight)
    assert torch.equal(again, matrix)
    assert torch.equal(again.scale, matrix.scale)
    assert torch.equal(PackedInt4Matrix.of(again).times(x), whole.times(x))


def test_a_weight_takes_five_bits_with_its_scale_and_zero() -> None:
    matrix = Int4Matrix.rounded(_drawn(64, 128))
    assert stored_bytes(matrix) == stored_bytes(packed(matrix)) == 64 * 128 * 5 // 8
    assert stored_bytes(nn.Parameter(_drawn(8, 32))) == 4 * 8 * 32


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, RuntimeError])
def test_a_kernel_that_is_missing_or_wrong_is_noticed(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert int4_matrix.int4_products_work()

    def fail(_: object, x: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(PackedInt4Matrix, "times", fail)
    assert not int4_matrix.int4_products_work()
    monkeypatch.setattr(PackedInt4Matrix, "times", lambda matrix, x: x.new_ones(2, 64))
    assert not int4_matrix.int4_products_work()
