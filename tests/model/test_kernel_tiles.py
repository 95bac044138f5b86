"""The tiles of the codec's convolutions: they fit in the shared memory of every supported GPU."""

import pytest

pytest.importorskip("triton", reason="needs Triton")

from csm_trio.model.kernels.convolution import Tiles, tiles_for

KIB = 1 << 10
TURING, ADA, AMPERE, HOPPER = 64 * KIB, 99 * KIB, 163 * KIB, 227 * KIB
# Rows, outputs and channels of Mimi's large products, at 18 to 512 streams.
SIZES = [
    (rows * time, n, channels)
    for rows in (1, 18, 64, 512)
    for time, n, channels in [
        (16, 3072, 512), (96, 1280, 256), (480, 512, 128), (480, 256, 128), (1920, 64, 64),
        (16, 512, 256), (96, 256, 128), (1920, 32, 64), (1920, 64, 32), (100, 100, 48),
    ]
]  # fmt: skip


@pytest.mark.parametrize("limit_bytes", [TURING, ADA, AMPERE, HOPPER])
@pytest.mark.parametrize("value_bytes", [2, 4])
def test_tiles_fit_and_divide_the_channels(limit_bytes: int, value_bytes: int) -> None:
    for rows, n, channels in SIZES:
        tiles = tiles_for(rows, n, channels, value_bytes=value_bytes, limit_bytes=limit_bytes)
        assert tiles.shared_bytes(value_bytes) <= limit_bytes
        assert channels % tiles.block_k == 0
        assert min(tiles.block_m, tiles.block_n, tiles.block_k) >= 16


def test_a_gpu_with_room_gets_the_measured_tiles_and_99_kib_the_same_in_f16() -> None:
    largest = Tiles(128, 128, 64, 8)
    sizes = (18 * 480, 512, 128)
    for value_bytes in (2, 4):
        assert tiles_for(*sizes, value_bytes=value_bytes, limit_bytes=HOPPER) == largest
    assert tiles_for(*sizes, value_bytes=2, limit_bytes=ADA) == largest
    assert tiles_for(*sizes, value_bytes=4, limit_bytes=ADA) == Tiles(128, 128, 32, 8)
