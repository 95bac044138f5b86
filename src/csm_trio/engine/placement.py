"""Choose the device and the precision that a model runs in, and the CPU threads it gets.

Raises StartupError where the settings name a device that torch does not find. Must not know how
weights are read or how many slots there are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from csm_trio.config import EngineConfig
from csm_trio.errors import StartupError
from csm_trio.model.config import CSMConfig

_SMALL_HIDDEN_SIZE = 512
"""Backbone width up to which a model on a CPU runs on one thread."""

_CUDA_CODEC_DTYPE = torch.float16
"""On CUDA the codec's, whatever the language model's: as many bytes as bf16, 8 times as precise."""

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Placement:
    """A model's device and precision: `dtype` is that of activations and caches.

    With `int8` the matrices are rows of int8, which torch multiplies on a CPU only. The codec has
    a `codec_dtype` of its own.
    """

    device: torch.device
    dtype: torch.dtype
    codec_dtype: torch.dtype
    int8: bool = False

    @property
    def weights(self) -> torch.dtype:
        """The type that weights are kept in."""
        return torch.int8 if self.int8 else self.dtype


def choose_placement(config: EngineConfig) -> Placement:
    """Return the placement that `--device` and `--dtype` ask for, and make its device current.

    Raises StartupError where the device is missing, or does not support the precision.
    """
    device = _find_device(config.device)
    if config.dtype == "int8":
        if device.type != "cpu":
            raise StartupError(f"--dtype int8 is for CPUs; on {device} take bf16, f16 or f32.")
        return Placement(device, torch.float32, torch.float32, int8=True)
    on_cuda = device.type == "cuda"
    if config.dtype == "auto":
        dtype = torch.bfloat16 if on_cuda else torch.float32
    else:
        dtype = _DTYPES[config.dtype]
    return Placement(device, dtype, _CUDA_CODEC_DTYPE if on_cuda else dtype)


def set_cpu_threads(placement: Placement, config: CSMConfig) -> None:
    """Limit torch to one thread for a small model on a CPU; a large one keeps every core.

    Matrices that take microseconds gain nothing from a second thread, and its spinning slows
    other work on the machine.
    """
    if placement.device.type == "cpu" and config.backbone.hidden_size <= _SMALL_HIDDEN_SIZE:
        torch.set_num_threads(1)


def _find_device(name: str) -> torch.device:
    device = torch.device(_best_device() if name == "auto" else name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StartupError("--device cuda: torch finds no CUDA device here.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StartupError(
            f"--device {device}: there are only {torch.cuda.device_count()} CUDA devices here."
        )
    if device.type == "cuda" and device.index is not None:
        # Streams, and with them captures, and Triton's launches are the current device's.
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise StartupError("--device mps: torch finds no Metal device here.")
    return device


def _best_device() -> str:
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    return next((name for name, is_available in available.items() if is_available()), "cpu")
