"""Random weights: every tensor of a CSM of given sizes, filled with noise on the device.

In: sizes. Out: tensors by canonical name, as `load_weights` returns them. The audio is noise; a
step takes as long as with trained weights of the same sizes.
"""

import logging
from math import prod

import torch
from torch import Tensor

from csm_trio.model.checkpoint.load_weights import kept_as
from csm_trio.model.checkpoint.tensor_names import CODEC_PREFIX
from csm_trio.model.checkpoint.tensor_shapes import expected_shapes
from csm_trio.model.config import CSMConfig
from csm_trio.model.linear import Quantization
from csm_trio.model.progress import Progress

_LAYER_SCALE = 0.3

_logger = logging.getLogger(__name__)


def random_weights(
    config: CSMConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return every tensor of the model, kept as by `kept_as`; equal seeds give equal tensors.

    Matrices are scaled by their fan-in, so that activations keep their scale across layers.
    """
    generator = torch.Generator(device).manual_seed(seed)
    weights: dict[str, Tensor] = {}
    shapes = expected_shapes(config)
    progress = Progress(_logger, "filling with noise", len(shapes), "tensors")
    for name, shape in shapes.items():
        fill_dtype = torch.float32 if name.startswith(CODEC_PREFIX) else dtype
        if len(shape) > 1:
            tensor = torch.empty(shape, device=device, dtype=fill_dtype)
            tensor.normal_(0.0, _spread(name, shape), generator=generator)
        else:
            tensor = torch.full(shape, _constant(name), device=device, dtype=fill_dtype)
        weights[name] = kept_as(name, tensor, dtype, quantization)
        progress.note(len(weights))
    return weights


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Return the standard deviation that maps unit-variance inputs to about unit variance."""
    if "embed" in name and "projector" not in name:
        return 0.2  # a frame is the sum of 32 of them: 5.7 times this deviation
    if name.endswith("codebooks_head.weight"):
        return float(shape[1] ** -0.5)  # [codebooks - 1, in, out]
    # About the fan-in of a convolution's kernel, [out, in, taps] or transposed.
    return float(prod(shape[1:]) ** -0.5)


def _constant(name: str) -> float:
    if name.endswith(".bias"):
        return 0.0
    return _LAYER_SCALE if name.endswith("scale") else 1.0
