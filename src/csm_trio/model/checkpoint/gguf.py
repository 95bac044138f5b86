"""Tensors of a GGUF file, dequantized with torch.

In: a path. Out: names, torch shapes and loaders, one tensor at a time. It must not know CSM: names
are those of the file.
"""

import logging
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, quants

from csm_trio.errors import StartupError
from csm_trio.named_files import refuse_lfs_pointer

Loader = Callable[[torch.device], torch.Tensor]

Q8_0_BLOCK = 32
"""Number of weights that share one f16 scale in a Q8_0 block of 34 bytes (ggml: `block_q8_0`)."""

_logger = logging.getLogger(__name__)


def open_gguf(path: Path) -> Iterator[tuple[str, tuple[int, ...], Loader]]:
    """Iterate over a GGUF file's tensors: name, shape in torch's order, loader.

    A loader reads and moves to the device: F32, F16 and BF16 keep their type, every type that the
    gguf library can dequantize becomes f32. Raises `StartupError` if the file is not GGUF or is
    truncated, and for any other type of tensor.
    """
    reader = _open(path)
    if any(tensor.tensor_type == GGMLQuantizationType.Q4_K for tensor in reader.tensors):
        _logger.warning(
            "%s holds Q4_K tensors, read as ggml defines them; "
            "CSM files of this type written by csm.rs have another layout and give noise.",
            path,
        )
    for tensor in reader.tensors:
        kind = tensor.tensor_type
        load = _LOADERS.get(kind) or partial(_load_quantized, kind)
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        yield tensor.name, shape, partial(load, tensor.data, shape)


def gguf_names(path: Path) -> list[str]:
    """Return the names of a GGUF file's tensors; raise `StartupError` as `open_gguf` does."""
    return [tensor.name for tensor in _open(path).tensors]


def dequantize_q8_0(blocks: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Dequantize Q8_0 blocks exactly: uint8 [rows, bytes of a row] to f32 of `shape`."""
    blocks = blocks.reshape(-1, 2 + Q8_0_BLOCK)  # [blocks, 34]
    scales = blocks[:, :2].contiguous().view(torch.float16).float()  # [blocks, 1]
    values = blocks[:, 2:].contiguous().view(torch.int8)  # [blocks, 32]
    return (values * scales).reshape(shape)


def _open(path: Path) -> GGUFReader:
    try:
        refuse_lfs_pointer(path)
        # Copy-on-write pages: torch wraps them without a copy, and nothing writes to them.
        reader = GGUFReader(path, mode="c")
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ArithmeticError, LookupError, ValueError) as error:
        raise StartupError(f"{path} is no complete GGUF file: {error}.") from error
    for tensor in reader.tensors:
        if not _is_known(tensor.tensor_type):
            raise StartupError(
                f"Tensor {tensor.name} of {path} has the type {tensor.tensor_type.name}, "
                "which cannot be read here."
            )
    return reader


@cache
def _is_known(kind: GGMLQuantizationType) -> bool:
    """Return whether tensors of a type can be loaded."""
    if kind in _LOADERS:
        return True
    _, block_bytes = GGML_QUANT_SIZES[kind]
    try:
        quants.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _load_plain(
    data: npt.NDArray[np.generic], shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    return torch.from_numpy(data).to(device, copy=True).reshape(shape)


def _load_bf16(
    data: npt.NDArray[np.generic], shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    return torch.from_numpy(data).to(device, copy=True).view(torch.bfloat16).reshape(shape)


def _load_q8_0(
    data: npt.NDArray[np.generic], shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    return dequantize_q8_0(torch.from_numpy(data).to(device), shape)


def _load_quantized(
    kind: GGMLQuantizationType,
    data: npt.NDArray[np.generic],
    shape: tuple[int, ...],
    device: torch.device,
) -> torch.Tensor:
    with np.errstate(all="ignore"):  # NaN and infinity are refused by the tensor's name
        values = quants.dequantize(data, kind).astype(np.float32, copy=False)
    return torch.from_numpy(values).to(device).reshape(shape)


_LOADERS = {
    GGMLQuantizationType.F32: _load_plain,
    GGMLQuantizationType.F16: _load_plain,
    GGMLQuantizationType.BF16: _load_bf16,
    GGMLQuantizationType.Q8_0: _load_q8_0,
}
