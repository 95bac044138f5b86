"""Scratch memory with fixed addresses and launch options, shared by all kernels."""

import torch
from torch import Tensor

from csm_trio.model.kernels.device_limits import max_shared_bytes

_FLOATS = 1 << 22
_TICKETS = 1 << 13


def power_of_2(size: int) -> int:
    """Return the smallest power of 2 that is at least `size`."""
    return 1 << (size - 1).bit_length()


class Workspace:
    """Scratch for partial sums; every kernel resets its tickets to zero for the next one.

    `overlap` turns on programmatic dependent launch: a kernel may start before the previous one
    has ended (Hopper and later). `shared_bytes` is the most that a kernel's tiles may take.
    """

    def __init__(self, device: torch.device, *, overlap: bool | None = None) -> None:
        self.floats: Tensor = torch.empty(_FLOATS, dtype=torch.float32, device=device)
        self.tickets: Tensor = torch.zeros(_TICKETS, dtype=torch.int32, device=device)
        if overlap is None:
            overlap = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        self.overlap = overlap
        self.shared_bytes = max_shared_bytes(device)
        self.launch: dict[str, bool] = {"launch_pdl": True} if overlap else {}

    def check(self, *, floats: int, tickets: int) -> None:
        """Assert that a launch fits the workspace, whose size is fixed."""
        assert floats <= _FLOATS, "partial sums outgrow their workspace"
        assert tickets <= _TICKETS, "tiles outgrow their tickets"
