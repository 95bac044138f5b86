"""The prefix cache: the KV of voices' clips, with which every prompt of those voices begins.

Filled by the first prompt of a voice, and bounded: the least recently used entries make way.
"""

from collections import OrderedDict

from csm_trio.model.attention import Prefix
from csm_trio.model.config import CSMConfig

LARGEST_PREFIXES = 16
"""Prefixes of the largest size that the cache has space for; most are far smaller."""


def max_prefix_positions(config: CSMConfig) -> int:
    """Return how many positions a voice's clips and their texts may take: half of the model's."""
    return config.backbone.max_positions // 2


def prefix_cache_bytes(config: CSMConfig, element_bytes: int) -> int:
    """Return the most that the cache takes, with KV elements of so many bytes."""
    backbone = config.backbone
    per_position = 2 * backbone.layers * backbone.kv_heads * backbone.head_dim * element_bytes
    return LARGEST_PREFIXES * max_prefix_positions(config) * per_position


class PrefixCache:
    """Prefixes by key (`VoicePrefix.key`), at most `max_bytes` of them together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._prefixes)

    def get(self, key: str) -> Prefix | None:
        """Return a prefix, now the most recently used; None where it is not cached."""
        prefix = self._prefixes.get(key)
        if prefix is not None:
            self._prefixes.move_to_end(key)
        return prefix

    def put(self, key: str, prefix: Prefix) -> None:
        """Store a prefix; evict the least recently used ones over the limit."""
        self.discard(key)
        self._prefixes[key] = prefix
        self._n_bytes += prefix.n_bytes
        while self._n_bytes > self._max_bytes and len(self._prefixes) > 1:
            self.discard(next(iter(self._prefixes)))

    def discard(self, key: str) -> None:
        """Drop a prefix, if it is cached."""
        prefix = self._prefixes.pop(key, None)
        if prefix is not None:
            self._n_bytes -= prefix.n_bytes
