"""Say at the start what a CUDA device cannot do, or does badly, with the kernels.

In: a placement on CUDA. Out: a sentence, in the log or as a StartupError. It must not know the
kernels.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from csm_trio.engine.placement import Placement, dtype_name
from csm_trio.errors import StartupError
from csm_trio.model.kernels.device_limits import max_shared_bytes

_logger = logging.getLogger(__name__)

_AMPERE = (8, 0)
"""The first compute capability for whose matrix instructions the kernels are written."""


def log_device(device: torch.device) -> None:
    """Log a CUDA device's name, compute capability and shared memory; warn about old ones."""
    found = torch.cuda.get_device_properties(device)
    capability = (found.major, found.minor)
    _logger.info(
        "%s is %s, compute capability %d.%d, with %d KiB of shared memory for a thread block",
        device, found.name, *capability, max_shared_bytes(device) >> 10,
    )  # fmt: skip
    if capability < _AMPERE:
        _logger.warning(
            "%s is older than Ampere: the kernels spill registers to memory there, "
            "which is slow and has not been measured",
            found.name,
        )


@contextmanager
def kernels_must_fit(placement: Placement) -> Iterator[None]:
    """Raise StartupError for a kernel that the device cannot hold, in place of Triton's error.

    Kernels are compiled and loaded when they first run: before the port opens.
    """
    from triton import OutOfResources

    try:
        yield
    except OutOfResources as error:
        raise StartupError(
            f"The kernels in {dtype_name(placement.dtype)} do not fit on {placement.device}, for "
            f"its {error.name}: one needs {_amount(error.required, error.name)}, and the device "
            f"has {_amount(error.limit, error.name)}; try another --dtype."
        ) from error


def _amount(count: int, resource: str) -> str:
    """Return a count in words, given what Triton calls the resource."""
    return f"{count / 1024:g} KiB of it" if resource == "shared memory" else str(count)
