"""Choose the device and the precision that a model runs in.

Raises StartupError where the settings name a device that torch does not find, or a precision that
it does not have there. Must not know how weights are read or how many slots there are.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from csm_trio.config import EngineConfig
from csm_trio.errors import StartupError
from csm_trio.model.int4_matrix import int4_products_work
from csm_trio.model.linear import Quantization

_CUDA_CODEC_DTYPE = torch.float16
"""On CUDA the codec's, whatever the language model's: as many bytes as bf16, 8 times as precise."""

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """A model's device and precision: `dtype` is that of activations and caches.

    With `quantization` the matrices are of fewer bits, which torch multiplies on a CPU only. The
    codec has a `codec_dtype` of its own.
    """

    device: torch.device
    dtype: torch.dtype
    codec_dtype: torch.dtype
    quantization: Quantization | None = None

    @property
    def weights(self) -> str:
        """The name of the type that most weights are kept in: bfloat16, int8."""
        return self.quantization or dtype_name(self.dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without `torch.`: bfloat16."""
    return str(dtype).removeprefix("torch.")


def choose_placement(config: EngineConfig) -> Placement:
    """Return the placement that `--device` and `--dtype` ask for, and make its device current.

    Raises StartupError where the device is missing, or does not support the precision.
    """
    device = _find_device(config.device)
    if config.dtype in list(Quantization):
        return _quantized(device, Quantization(config.dtype))
    on_cuda = device.type == "cuda"
    if config.dtype == "auto":
        dtype = torch.bfloat16 if on_cuda else torch.float32
    else:
        dtype = _DTYPES[config.dtype]
    if on_cuda:
        codec_dtype = _CUDA_CODEC_DTYPE
    elif device.type == "cpu" and dtype == torch.float16:
        # Faster on a CPU than f16, in which its values may overflow.
        codec_dtype = torch.float32
    else:
        codec_dtype = dtype
    return Placement(device, dtype, codec_dtype)


def _quantized(device: torch.device, quantization: Quantization) -> Placement:
    if device.type != "cpu":
        raise StartupError(
            f"--dtype {quantization} is for CPUs; on {device} take bf16, f16 or f32."
        )
    if quantization == Quantization.INT4:
        if not int4_products_work():
            raise StartupError(
                f"--dtype int4: torch {torch.__version__} has no products of 4-bit weights for "
                "this CPU; take int8."
            )
        capability = torch.backends.cpu.get_cpu_capability()
        if capability != "AVX512":
            _logger.warning(
                "--dtype int4 is made for AVX-512, and torch takes this CPU for %s: "
                "int8 may be faster",
                capability,
            )
    return Placement(device, torch.float32, torch.float32, quantization)


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
