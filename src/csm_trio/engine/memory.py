"""Plan device memory: the bytes of weights and slots, the free memory, how many slots fit.

In: sizes, a device. Out: bytes, a number of slots. It must not know what the slots are used for.
Raises StartupError where something does not fit: at startup, not during an utterance.
"""

import logging
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from csm_trio.engine.byte_size import format_bytes
from csm_trio.engine.placement import Placement
from csm_trio.engine.slots import Slots
from csm_trio.errors import StartupError
from csm_trio.model.attention import KVCache
from csm_trio.model.checkpoint.load_weights import kept_as
from csm_trio.model.checkpoint.tensor_shapes import expected_shapes
from csm_trio.model.config import CSMConfig
from csm_trio.model.linear import Quantization, stored_bytes
from csm_trio.model.mimi.decoder import MimiDecoder

_logger = logging.getLogger(__name__)

_SLOTS_FRACTION = 0.85
"""Fraction of free device memory that slots may use; the rest is for activations."""

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def slot_bytes(config: CSMConfig, codec: MimiDecoder, dtype: torch.dtype) -> int:
    """Return the device memory of one slot, in bytes: everything that `Slots` has per row.

    `dtype` is the language model's.
    """
    one, two = (
        Slots(config, count, codec, device=torch.device("meta"), dtype=dtype) for count in (1, 2)
    )
    return _held_bytes(two) - _held_bytes(one)


def weight_bytes(*modules: nn.Module) -> int:
    """Return the memory of the modules' parameters and buffers, shared ones counted once."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return sum({id(tensor): stored_bytes(tensor) for tensor in tensors}.values())


def checkpoint_bytes(
    config: CSMConfig, dtype: torch.dtype, quantization: Quantization | None = None
) -> int:
    """Return the bytes of a checkpoint of these sizes once it is loaded (see `kept_as`)."""
    return sum(
        stored_bytes(kept_as(name, torch.empty(shape, device="meta"), dtype, quantization))
        for name, shape in expected_shapes(config).items()
    )


def available_bytes(device: torch.device) -> int | None:
    """Return a device's free memory in bytes; None if it is unknown.

    On a CPU that is Linux' MemAvailable, or less where the process' control group (a container's)
    has a lower limit.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [count for count in (_system_available(), _group_available()) if count is not None]
    return min(known, default=None)


def check_weights_fit(name: str, config: CSMConfig, placement: Placement) -> None:
    """Raise StartupError if the weights do not fit on the device, before they are read."""
    needed = checkpoint_bytes(config, placement.dtype, placement.quantization)
    free = available_bytes(placement.device)
    if free is not None and needed > free:
        raise StartupError(
            f"{name} takes {format_bytes(needed)} in {placement.weights}, "
            f"and {placement.device} has {format_bytes(free)} left."
        )


def plan_slots(
    pool_size: int | None,
    default: int,
    *,
    weights: int,
    per_slot: int,
    device: torch.device,
    prefixes: int = 0,
) -> int:
    """Return how many slots to make: `pool_size`, else `default` or fewer, as many as fit.

    weights, per_slot, prefixes (the prefix cache): bytes; the weights are on the device already.
    Raises StartupError if `pool_size`, or a single slot, does not fit.
    """
    fitting = fitting_slots(per_slot, device, prefixes=prefixes)
    if fitting is not None and fitting < 1:
        raise StartupError(
            f"{device} has no memory left for a single slot of {format_bytes(per_slot)}."
        )
    if fitting is not None and pool_size is not None and pool_size > fitting:
        raise StartupError(
            f"--pool-size {pool_size} does not fit on {device}: at most {fitting} slots do, of "
            f"{format_bytes(per_slot)} each (less with a lower --max-positions)."
        )
    slots = pool_size or (default if fitting is None else min(fitting, default))
    _logger.info(
        "memory on %s: %s of weights + (%d slots + 1) x %s + %s of prefix cache at most = %s%s",
        device, format_bytes(weights), slots, format_bytes(per_slot), format_bytes(prefixes),
        format_bytes(weights + (slots + 1) * per_slot + prefixes),
        "" if fitting is None else f"; at most {fitting} slots would fit",
    )  # fmt: skip
    return slots


def fitting_slots(per_slot: int, device: torch.device, *, prefixes: int = 0) -> int | None:
    """Return how many slots fit on a device; None if its memory is unknown.

    per_slot: bytes of one; prefixes: bytes of the prefix cache.
    """
    free = available_bytes(device)
    # The dummy slot comes on top of the pool's.
    return None if free is None else (int(free * _SLOTS_FRACTION) - prefixes) // per_slot - 1


def log_taken(device: torch.device, *, planned: int, free_before: int | None) -> None:
    """Log the memory that a CUDA device reports after warm-up, beside the plan.

    planned: bytes of the slots; free_before: free bytes before they were made. The rest is
    that of graphs, activations, cuBLAS and loaded kernels; other processes on the device count too.
    """
    free = available_bytes(device)
    if free is None or free_before is None:
        return
    taken = free_before - free
    _logger.info(
        "memory on %s after warm-up: %s taken since the weights, %s planned for slots + %s for "
        "graphs, workspaces and kernels; %s free",
        device, format_bytes(taken), format_bytes(planned), format_bytes(max(0, taken - planned)),
        format_bytes(free),
    )  # fmt: skip


def _held_bytes(owner: object) -> int:
    return sum(tensor.nbytes for tensor in _tensors(owner))


def _tensors(owner: object) -> Iterator[Tensor]:
    names = [field.name for field in fields(owner)] if is_dataclass(owner) else list(vars(owner))
    for value in (getattr(owner, name) for name in names):
        if isinstance(value, Tensor):
            yield value
        elif is_dataclass(value) or isinstance(value, KVCache):
            yield from _tensors(value)


def _system_available() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * int(kib) for kib in found), None)


def _group_available() -> int | None:
    """Return the control group's (version 2) free bytes; cached file pages count as free."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    if limit == "max":
        return None
    counts = dict(line.split() for line in lines)
    return max(0, int(limit) - used + int(counts["inactive_file"]))
