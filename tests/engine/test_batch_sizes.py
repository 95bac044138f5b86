"""Batch sizes in which a row's values do not depend on the batch."""

import torch
from torch import Tensor

from csm_trio.config import EngineConfig
from csm_trio.engine.batch_sizes import codec_batch_sizes, equal_sizes, model_batch_sizes
from csm_trio.engine.load import load_model

VALUES = torch.arange(24.0).view(12, 2)


def test_sizes_whose_rows_differ_are_left_out() -> None:
    def compute(rows: slice) -> Tensor:
        values = VALUES[rows].clone()
        if len(values) in (1, 6):
            values[-1, 1] += 1e-3
        return values

    assert equal_sizes(compute, 12) == [2, 3, 4, 8, 12]


def test_both_ends_of_the_batch_are_compared() -> None:
    def compute(rows: slice) -> Tensor:
        values = VALUES[rows].clone()
        if rows.start and len(values) < 4:
            values[0, 0] += 1e-3
        return values

    assert equal_sizes(compute, 5) == [4, 5]


def test_nan_equals_nothing() -> None:
    assert equal_sizes(lambda rows: torch.full((12, 1), torch.nan)[rows], 12) == [12]


def test_a_batch_of_one_needs_no_comparison() -> None:
    def compute(rows: slice) -> Tensor:
        raise AssertionError

    assert equal_sizes(compute, 1) == [1]


def test_the_embedded_voice_has_sizes_up_to_the_full_batch() -> None:
    loaded = load_model(EngineConfig(device="cpu"))
    for sizes in (
        model_batch_sizes(loaded.model, 5),
        codec_batch_sizes(loaded.codec, loaded.config, 5),
    ):
        assert sizes == sorted(set(sizes))
        assert set(sizes) <= {1, 2, 3, 4, 5}
        assert sizes[-1] == 5
