"""The noise that draws codes: finite, distributed as it must be, the same in any batch."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from csm_trio.model.config import SamplingParams
from csm_trio.model.sampling import RowNoise, _uniform, gumbel_noise, row_sampling, sample_codes

CPU = torch.device("cpu")
IDS = 64


def test_no_random_word_gives_zero_or_one() -> None:
    words = np.array([0, 1, 1 << 62, 1 << 63, (1 << 63) - 1, (1 << 64) - 1], np.uint64)
    uniform = _uniform(words)
    assert uniform.dtype == np.float32
    assert (uniform > 0).all()
    assert (uniform < 1).all()
    assert np.isfinite(-np.log(-np.log(uniform))).all()


def test_the_noise_is_standard_gumbel() -> None:
    noise = gumbel_noise(5, range(64), 3, 2048).double()
    euler, variance = 0.5772156649, math.pi**2 / 6
    assert abs(noise.mean().item() - euler) < 0.02
    assert abs(noise.var().item() - variance) < 0.04


def test_the_noise_is_that_of_every_earlier_version() -> None:
    """A seed makes the same audio after an update: values of commit 3e1c290."""
    noise = torch.cat(
        [RowNoise(seed).at(frame, 7, 2048) for seed, frame in ((5, 3), ((1 << 62) - 3, 2047))]
    )
    expected = [
        [-0.7702926993370056, 0.3046094477176666, -0.6201222538948059],
        [-0.14480996131896973, 2.4689807891845703, -0.09705433994531631],
    ]
    assert torch.allclose(noise[:, [0, 1, 2047]], torch.tensor(expected), rtol=1e-5)
    assert torch.equal(noise[:1, :100], gumbel_noise(5, [3], codebook=7, ids=100))


def test_a_row_s_noise_is_the_same_whatever_was_asked_before() -> None:
    row = RowNoise(-9)
    for frame, codebook in [(0, 0), (1, 0), (1, 31), (7, 0), (8, 0), (3, 0), (2047, 31), (1, 31)]:
        noise = row.at(frame, codebook, IDS)
        assert noise.shape == (1, IDS)
        assert torch.equal(noise, gumbel_noise(-9, [frame], codebook, IDS))


def sampled(logits: Tensor, params: list[SamplingParams]) -> list[int]:
    rows = row_sampling(params, ids=IDS, device=CPU)
    assert rows is not None
    noise = torch.cat([RowNoise(row).at(2, 1, IDS) for row in range(len(params))])
    codes: list[int] = sample_codes(logits, rows, noise).tolist()
    return codes


def test_each_row_has_its_own_temperature_and_top_k() -> None:
    logits = torch.randn(5, IDS, generator=torch.Generator().manual_seed(1))
    params = [
        SamplingParams(0.9, 50), SamplingParams(0.0, 1), SamplingParams(50.0, 2),
        SamplingParams(1e-9, 50), SamplingParams(5.0, 10_000),
    ]  # fmt: skip
    codes = sampled(logits, params)
    best = logits.argmax(dim=1).tolist()
    assert codes[1] == best[1]
    assert codes[2] in logits[2].topk(2).indices.tolist()
    assert codes[3] == best[3]
    for row in (0, 2, 4):
        noise = gumbel_noise(row, [2], 1, IDS)
        alone = row_sampling([params[row]], ids=IDS, device=CPU)
        assert alone is not None
        assert sample_codes(logits[row : row + 1], alone, noise).tolist() == [codes[row]]


def test_ties_with_the_last_logit_of_top_k_are_kept() -> None:
    logits = torch.zeros(200, IDS)
    logits[:, 5] = 1.0
    codes = sampled(logits, [SamplingParams(1.0, 2)] * 200)
    assert len(set(codes)) > 20


@pytest.mark.parametrize("rows", [0, 3])
def test_a_greedy_batch_samples_nothing(rows: int) -> None:
    assert row_sampling([SamplingParams(0.0, 1)] * rows, ids=IDS, device=CPU) is None
