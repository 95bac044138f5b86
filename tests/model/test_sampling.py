"""The noise that draws codes: finite whatever word it comes from, and distributed as it must."""

import torch

from csm_trio.model.sampling import _uniform, gumbel_noise


def test_no_random_word_gives_zero_or_one() -> None:
    words = torch.tensor([0, -1, 1 << 62, -(1 << 63), (1 << 63) - 1])
    uniform = _uniform(words)
    assert uniform.dtype == torch.float32
    assert bool((uniform > 0).all())
    assert bool((uniform < 1).all())
    assert torch.isfinite(-torch.log(-torch.log(uniform))).all()


def test_the_noise_is_standard_gumbel() -> None:
    frames = torch.arange(64)
    noise = gumbel_noise(torch.full((64,), 5), frames, 3, torch.arange(2048)).double()
    euler, variance = 0.5772156649, torch.pi**2 / 6
    assert abs(noise.mean().item() - euler) < 0.02
    assert abs(noise.var().item() - variance) < 0.04
