"""An untrained checkpoint: every tensor of given sizes, filled with noise on the device.

In: sizes. Out: tensors by canonical name, as `weights.load_weights` gives them. What it says is
noise; how long it takes to say it is what a trained model of its sizes takes.
"""

import logging
from math import prod

import torch
from torch import Tensor

from csm_trio.model.checkpoint.load_weights import QUANTIZER_PREFIX, kept_as
from csm_trio.model.checkpoint.tensor_shapes import expected_shapes
from csm_trio.model.config import CSMConfig
from csm_trio.model.progress import Progress

_LAYER_SCALE = 0.3

_logger = logging.getLogger(__name__)


def random_weights(
    config: CSMConfig, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    """Fill every tensor the model consists of; the same `seed` gives the same on one device.

    Matrices are scaled by their fan-in, so that activations keep their size from layer to layer.
    """
    generator = torch.Generator(device).manual_seed(seed)
    weights: dict[str, Tensor] = {}
    int8 = dtype == torch.int8  # filled as floats, then rounded
    shapes = expected_shapes(config)
    progress = Progress(_logger, "filling with noise", len(shapes), "tensors")
    for name, shape in shapes.items():
        filled = torch.float32 if name.startswith(QUANTIZER_PREFIX) or int8 else dtype
        if len(shape) > 1:
            tensor = torch.empty(shape, device=device, dtype=filled)
            tensor.normal_(0.0, _spread(name, shape), generator=generator)
        else:
            tensor = torch.full(shape, _constant(name), device=device, dtype=filled)
        weights[name] = kept_as(name, tensor, dtype)
        progress.note(len(weights))
    return weights


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Return the standard deviation that turns unit inputs into about unit outputs."""
    if "embed" in name and "projector" not in name:
        return 0.2  # a frame is the sum of 32 of them, 5.7 times as wide
    if name.endswith("codebooks_head.weight"):
        return float(shape[1] ** -0.5)  # [codebooks - 1, in, out]
    # Of a convolution's kernel, [out, in, taps] or transposed, about this many meet an output.
    return float(prod(shape[1:]) ** -0.5)


def _constant(name: str) -> float:
    if name.endswith(".bias"):
        return 0.0
    return _LAYER_SCALE if name.endswith("scale") else 1.0
