"""Read one safetensors or GGUF file, tensor by tensor.

In: a path. Out: stored tensors whose values are read by `load` only. It must not know CSM.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from csm_trio.errors import StartupError
from csm_trio.named_files import refuse_lfs_pointer


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of an open file: `load(device)` returns its values in their stored type."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[torch.device], torch.Tensor]


def open_tensors(path: Path) -> Iterator[StoredTensor]:
    """Iterate over a file's tensors; each must be loaded before the next is requested.

    Raises `StartupError` if the file is missing, damaged or of an unknown kind.
    """
    if path.suffix == ".safetensors":
        yield from _open_safetensors(path)
    elif path.suffix == ".gguf":
        # Imported here: few servers read GGUF.
        from csm_trio.model.checkpoint.gguf import open_gguf

        for name, shape, load in open_gguf(path):
            yield StoredTensor(name, shape, load)
    else:
        raise StartupError(f"{path} is neither a .safetensors nor a .gguf file.")


def check_finite(checkpoint: str, name: str, tensor: torch.Tensor) -> None:
    """Raise `StartupError` where a loaded tensor has a value that is NaN or infinite."""
    # The extremes of values with a NaN are NaN: one pass, and no tensor of flags.
    extremes = torch.stack(torch.aminmax(tensor))
    if not bool(extremes.isfinite().all()):
        raise StartupError(
            f"Tensor {name} of {checkpoint} has values that are no finite numbers "
            f"in {str(tensor.dtype).removeprefix('torch.')}: it is damaged, its training diverged, "
            "or it does not fit this type."
        )


def tensor_names(path: Path) -> list[str]:
    """Return the names of a file's tensors without reading their values."""
    if path.suffix == ".gguf":
        from csm_trio.model.checkpoint.gguf import gguf_names

        return gguf_names(path)
    return [tensor.name for tensor in open_tensors(path)]


def _open_safetensors(path: Path) -> Iterator[StoredTensor]:
    try:
        refuse_lfs_pointer(path)
        opened = safe_open(path, framework="pt", device="cpu")
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise StartupError(f"{path} is no complete safetensors file: {error}.") from error
    with opened as file:
        for name in file.keys():  # noqa: SIM118
            shape = tuple(file.get_slice(name).get_shape())
            yield StoredTensor(name, shape, partial(_load_safetensor, file, name))


def _load_safetensor(file: Any, name: str, device: torch.device) -> torch.Tensor:
    tensor: torch.Tensor = file.get_tensor(name)
    # A copy: the result of `get_tensor` may alias the mapped file.
    return tensor.to(device, copy=True)
