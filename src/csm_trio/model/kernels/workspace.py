"""What all kernels share: scratch memory with fixed addresses, and how they are launched."""

import torch
from torch import Tensor

_FLOATS = 1 << 22
_TICKETS = 1 << 13


def power_of_2(size: int) -> int:
    """Return the least power of 2 that is no smaller."""
    return 1 << (size - 1).bit_length()


class Workspace:
    """Scratch for partial sums; kernels leave its tickets at zero, so any may follow any.

    `overlap` lets a kernel start before the one ahead of it has ended (Hopper and later).
    """

    def __init__(self, device: torch.device, *, overlap: bool | None = None) -> None:
        self.floats: Tensor = torch.empty(_FLOATS, dtype=torch.float32, device=device)
        self.tickets: Tensor = torch.zeros(_TICKETS, dtype=torch.int32, device=device)
        if overlap is None:
            overlap = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        self.overlap = overlap
        self.launch: dict[str, bool] = {"launch_pdl": True} if overlap else {}

    def check(self, *, floats: int, tickets: int) -> None:
        """Assert that a launch fits the workspace; a failure is an error in its planned size."""
        assert floats <= _FLOATS, "partial sums outgrow their workspace"
        assert tickets <= _TICKETS, "tiles outgrow their tickets"
