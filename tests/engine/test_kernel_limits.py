"""What is said at the start about a CUDA device: its age, its memory, a kernel too large."""

import logging
from types import SimpleNamespace

import pytest
import torch

from csm_trio.engine import kernel_limits, memory
from csm_trio.engine.placement import Placement
from csm_trio.errors import StartupError
from csm_trio.model.kernels.device_limits import max_shared_bytes

MIB = 1 << 20
CUDA = torch.device("cuda")
F32 = Placement(CUDA, torch.float32, torch.float16)


def device(monkeypatch: pytest.MonkeyPatch, name: str, capability: str, shared_kib: int) -> None:
    major, minor = map(int, capability.split("."))
    found = SimpleNamespace(
        name=name, major=major, minor=minor, shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=shared_kib << 10,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)


def test_tiles_may_take_what_a_kernel_can_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device(monkeypatch, "NVIDIA L4", "8.9", 99)
    assert max_shared_bytes(CUDA) == 99 << 10


@pytest.mark.parametrize(
    ("name", "capability", "shared_kib", "warns"),
    [("Tesla T4", "7.5", 64, True), ("NVIDIA L4", "8.9", 99, False)],
)
def test_an_old_gpu_is_warned_about(
    name: str,
    capability: str,
    shared_kib: int,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device(monkeypatch, name, capability, shared_kib)
    with caplog.at_level(logging.INFO, logger=kernel_limits.__name__):
        kernel_limits.log_device(CUDA)
    first, *others = caplog.messages
    assert first == (
        f"cuda is {name}, compute capability {capability}, with {shared_kib} KiB of shared "
        "memory for a thread block"
    )
    assert [name in text and "spill" in text for text in others] == [True] * warns


def test_a_kernel_that_does_not_fit_is_one_sentence() -> None:
    triton = pytest.importorskip("triton", reason="needs Triton")
    with pytest.raises(StartupError) as raised, kernel_limits.kernels_must_fit(F32):
        raise triton.OutOfResources(128 << 10, 99 << 10, "shared memory")
    assert str(raised.value) == (
        "The kernels in float32 do not fit on cuda, for its shared memory: one needs 128 KiB of "
        "it, and the device has 99 KiB of it; try another --dtype."
    )


def test_other_errors_of_a_capture_pass_unchanged() -> None:
    pytest.importorskip("triton", reason="needs Triton")
    with pytest.raises(RuntimeError, match="out of memory"), kernel_limits.kernels_must_fit(F32):
        raise RuntimeError("out of memory")


def test_the_memory_after_warm_up_is_logged_beside_the_plan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 300 * MIB)
    with caplog.at_level(logging.INFO, logger=memory.__name__):
        memory.log_taken(CUDA, planned=500 * MIB, free_before=1000 * MIB)
    assert caplog.messages == [
        "memory on cuda after warm-up: 700.0 MiB taken since the weights, 500.0 MiB planned for "
        "slots + 200.0 MiB for graphs, workspaces and kernels; 300.0 MiB free"
    ]
