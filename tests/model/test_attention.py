"""Prefilling several slots behind what they hold, against one slot at a time."""

import torch

from csm_trio.model.attention import KVCache
from csm_trio.model.config import LlamaConfig

CONFIG = LlamaConfig(
    hidden_size=32, intermediate_size=48, layers=2, heads=4, kv_heads=2, head_dim=8,
    norm_eps=1e-5, max_positions=32, rope_theta=1e4, rope_scaling=None,
)  # fmt: skip


def kv() -> KVCache:
    return KVCache(CONFIG, 4, device=torch.device("cpu"), dtype=torch.float32)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_several_slots_at_once_equal_each_alone() -> None:
    alone, together = kv(), kv()
    past = {2: 9, 0: 3}
    for slot, length in past.items():
        parts = [noise(1, length, heads, 8, seed=slot) for heads in (4, 2, 2)]
        for cache in (alone, together):
            for layer in range(CONFIG.layers):
                cache.prefill(slot, 0)(layer, *parts)
    # Something of an earlier tenant's lies behind what the slots hold.
    together.keys[:, :, :, 20:] = 5.0
    queries, keys, values = (noise(2, 6, heads, 8, seed=9) for heads in (4, 2, 2))
    starts = torch.tensor(list(past.values()))
    positions = starts[:, None] + torch.arange(6)
    for layer in range(CONFIG.layers):
        mixed = together.prefill_on(torch.tensor(list(past)), positions)(
            layer, queries, keys, values
        )
        for row, (slot, start) in enumerate(past.items()):
            one = [part[row, None] for part in (queries, keys, values)]
            expected = alone.prefill(slot, start)(layer, *one)
            torch.testing.assert_close(mixed[row, None], expected)
            end = start + 6
            torch.testing.assert_close(
                together.keys[layer, slot, :, :end], alone.keys[layer, slot, :, :end]
            )


def test_a_prefix_copied_in_is_what_was_copied_out() -> None:
    cache = kv()
    cache.keys.copy_(noise(*cache.keys.shape, seed=1))
    cache.values.copy_(noise(*cache.values.shape, seed=2))
    prefix = cache.copy_out(3, 11)
    assert prefix.positions == 11
    before = cache.keys[:, 0, :, 11:].clone()
    cache.keys[:, 3] = 0  # a copy, no view
    cache.copy_in(0, prefix)
    torch.testing.assert_close(cache.values[:, 0, :, :11], cache.values[:, 3, :, :11])
    torch.testing.assert_close(cache.keys[:, 0, :, :11], prefix.keys)
    torch.testing.assert_close(cache.keys[:, 0, :, 11:], before)
