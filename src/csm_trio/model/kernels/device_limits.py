"""What a device has for a kernel. It does not need Triton."""

import torch

_MIN_SHARED_BYTES = 64 << 10
"""Shared memory of a thread block on the smallest GPUs that can run the kernels (Turing)."""


def max_shared_bytes(device: torch.device) -> int:
    """Return the largest shared memory of a thread block, in bytes; without CUDA the smallest."""
    if device.type != "cuda":
        return _MIN_SHARED_BYTES
    found = torch.cuda.get_device_properties(device)
    # torch's stubs do not name the larger one, which a kernel must ask for, as Triton's do.
    return int(getattr(found, "shared_memory_per_block_optin", found.shared_memory_per_block))
