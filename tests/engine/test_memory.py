"""The memory plan: a slot's bytes are those allocated; slots and weights that do not fit fail."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from csm_trio.config import EngineConfig
from csm_trio.engine import memory
from csm_trio.engine.load import load_model, warm_runner
from csm_trio.engine.placement import Placement
from csm_trio.engine.slots import Slots
from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config, read_config
from csm_trio.model.config import CSMConfig
from csm_trio.model.int4_matrix import Int4Matrix, PackedInt4Matrix
from csm_trio.model.linear import Int8Matrix, Quantization
from csm_trio.model.mimi.decoder import MimiDecoder
from support.tiny_csm import write_tiny_checkpoint

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


class Allocations(TorchDispatchMode):
    """Counts the bytes of every storage that an operation made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self._storages[storage._cdata] = storage
        return result

    @property
    def allocated(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


def allocated(config: CSMConfig, codec: MimiDecoder, count: int, dtype: torch.dtype) -> int:
    allocations = Allocations()
    with allocations:
        Slots(config, count, codec, device=CPU, dtype=dtype)
    return allocations.allocated


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_of_a_slot_are_those_allocated(tiny: Path, dtype: torch.dtype) -> None:
    config = read_config(tiny / "config.json", None)
    codec = MimiDecoder(config.codec)
    per_slot = memory.slot_bytes(config, codec, dtype)
    # Three slots are four rows: the dummy's is one.
    assert allocated(config, codec, 3, dtype) == 4 * per_slot


def test_the_bytes_of_a_csm_1b_slot_are_the_sum_of_its_parts() -> None:
    config = csm_1b_config()
    with torch.device("meta"):
        codec = MimiDecoder(config.codec).to(torch.float16)
    keys_values = 2 * 16 * 8 * 64 * 2048 * 2  # layers, heads, head_dim, positions, bf16
    ring = 8 * 2 * 8 * 64 * 256 * 2  # layers, keys and values, heads, head_dim, 250 + 2 up to 8
    contexts = 2 * sum(
        taps * channels
        for taps, channels in [
            (1, 512),  # upsample
            (6, 512),
            *[(1, 1024), (2, 512), (1, 512), (2, 256), (1, 256), (2, 128), (1, 128), (2, 64)],
            (2, 64),
        ]
    )
    # Input, clocks and seed, sampling, text range, codec's clock.
    row = 2048 * 2 + 3 * 8 + 2 * 4 + 2 * 8 + 2 * 8 + 8
    assert memory.slot_bytes(config, codec, torch.bfloat16) == keys_values + ring + contexts + row


def test_weights_are_counted_once_in_the_type_they_have() -> None:
    layer = torch.nn.Linear(4, 3)
    tied = torch.nn.Linear(4, 3)
    tied.weight = layer.weight
    assert memory.weight_bytes(layer, tied) == 4 * (12 + 3 + 3)
    assert memory.weight_bytes(layer.to(torch.bfloat16)) == 2 * (12 + 3)


def test_a_checkpoints_bytes_are_those_of_its_tensors(tiny: Path) -> None:
    config = read_config(tiny / "config.json", None)
    for dtype in (torch.float32, torch.bfloat16):
        tensors = random_weights(config, device=CPU, dtype=dtype).values()
        assert memory.checkpoint_bytes(config, dtype) == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("quantization", Quantization)
def test_a_quantized_models_bytes_include_its_scales(
    quantization: Quantization, tiny: Path
) -> None:
    config = read_config(tiny / "config.json", None)
    tensors = random_weights(config, device=CPU, dtype=torch.float32, quantization=quantization)
    scales = [t.scale for t in tensors.values() if isinstance(t, Int8Matrix | Int4Matrix)]
    held = sum(tensor.nbytes for tensor in [*tensors.values(), *scales])
    assert memory.checkpoint_bytes(config, torch.float32, quantization) == held
    loaded = load_model(EngineConfig(device="cpu", dtype=str(quantization), weights_path=tiny))
    mlp = loaded.model.depth.get_submodule("layers.0").down
    assert isinstance(mlp, Int8Matrix | PackedInt4Matrix)
    counted = memory.weight_bytes(torch.nn.ParameterList([mlp]))
    assert counted == mlp.nbytes + mlp.scale.nbytes


def free(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: count)


def planned(pool_size: int | None, default: int) -> int:
    return memory.plan_slots(pool_size, default, weights=50 * MIB, per_slot=10 * MIB, device=CPU)


@pytest.mark.parametrize(
    ("pool_size", "default", "slots"), [(None, 4, 4), (7, 4, 7), (None, 99, 7), (1, 4, 1)]
)
def test_a_pool_has_the_given_or_the_default_size_if_it_fits(
    pool_size: int | None, default: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 100 * MIB)  # 85 of them for 8 rows, of which one is the dummy
    assert planned(pool_size, default) == slots


def test_a_pool_that_does_not_fit_fails_with_the_largest_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free(monkeypatch, 100 * MIB)
    with pytest.raises(StartupError, match=r"--pool-size 8 .* on cpu: at most 7 slots do, of 10\."):
        planned(8, 4)
    free(monkeypatch, 20 * MIB)
    with pytest.raises(StartupError, match=r"no memory left for a single slot of 10\.0 MiB"):
        planned(None, 4)


def test_every_pool_fits_where_free_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, None)
    assert planned(1000, 4) == 1000
    assert planned(None, 4) == 4


def test_the_plan_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free(monkeypatch, 100 * MIB)
    with caplog.at_level(logging.INFO, logger=memory.__name__):
        planned(2, 4)
    assert caplog.messages == [
        "memory on cpu: 50.0 MiB of weights + (2 slots + 1) x 10.0 MiB + 0.0 MiB of prefix "
        "cache at most = 80.0 MiB; at most 7 slots would fit"
    ]


def test_the_prefix_cache_counts_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 100 * MIB)
    assert memory.fitting_slots(10 * MIB, CPU) == 7
    assert memory.fitting_slots(10 * MIB, CPU, prefixes=25 * MIB) == 5


def test_weights_that_do_not_fit_fail_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free(monkeypatch, 1 << 30)
    placement = Placement(CPU, torch.float32, torch.float32)
    with pytest.raises(StartupError, match=r"noise takes 6\.\d+ GiB in float32, and cpu has 1\.00"):
        memory.check_weights_fit("noise", csm_1b_config(), placement)
    with pytest.raises(StartupError, match="takes"):
        load_model(EngineConfig(device="cpu", random_weights="sesame/csm-1b-size"))


def test_a_pool_too_large_for_this_machine_fails(tiny: Path) -> None:
    loaded = load_model(EngineConfig(device="cpu", weights_path=tiny))
    with pytest.raises(StartupError, match=r"--pool-size 1000000000 does not fit on cpu"):
        warm_runner(loaded, 1_000_000_000)


MEMINFO = "MemTotal:       24683520 kB\nMemAvailable:       2048 kB\n"


@pytest.mark.parametrize(
    ("limit", "available"), [("max", 2048 << 10), (str(1 << 20), (1 << 20) - 300 + 100)]
)
def test_a_containers_lower_limit_counts(
    limit: str, available: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 100\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes(CPU) == available


def test_without_linux_files_free_memory_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes(CPU) is None
