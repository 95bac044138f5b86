"""Mimi's causal convolutions, frame by frame, each with a context of its last inputs.

In: a layer's inputs [batch, time, channels]. Out: its outputs in the same layout. Each causal
convolution is one matrix product over windows of the past; a transposed one, whose kernel is
twice its stride, is a two-tap causal convolution whose outputs are read as consecutive samples.
Contexts therefore hold inputs only, no partial sums.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.checkpoint.tensor_names import CODEC_PREFIX
from csm_trio.model.linear import linear, packed


def take(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a codec's tensor in fp32, named as in a checkpoint of the codec alone."""
    return tensors[CODEC_PREFIX + name].float()


def frozen(*shape: int) -> nn.Parameter:
    """Return an empty parameter for a weight that is loaded, never trained."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class CausalConv(nn.Module):
    """The weights of a convolution over the past, dilated or transposed.

    With a `stride` it is transposed, trimmed on the right, its kernel twice the stride: 2 taps,
    since the `stride` outputs of one input depend on it and on the input before it.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        taps: int,
        dilation: int = 1,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.outputs = channels, outputs
        self.taps, self.dilation, self._stride = taps, dilation, stride
        self.context = (taps - 1) * dilation  # inputs to remember
        self.context_floats = self.context * channels
        self.weight = frozen(stride * outputs, taps * channels)
        self.bias = frozen(stride * outputs) if bias else None

    def load(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Load `conv.weight` [outputs, channels, taps] and `conv.bias` under `name`."""
        weight = take(tensors, f"{name}.conv.weight")
        self.weight.copy_(weight.permute(0, 2, 1).flatten(1))
        self._load_bias(tensors, name)

    def load_transposed(self, tensors: Mapping[str, Tensor], name: str, *, groups: int = 1) -> None:
        """Load `conv.weight` [channels, outputs / groups, 2 * stride], groups made dense."""
        channels, outputs, stride = self.channels, self.outputs, self._stride
        weight = take(tensors, f"{name}.conv.weight")
        dense = weight.new_zeros(channels, groups, outputs // groups, 2 * stride)
        channel = torch.arange(channels, device=weight.device)
        dense[channel, channel // (channels // groups)] = weight
        # The kernel's second half applies to the outputs of the next input.
        taps = dense.view(channels, outputs, 2, stride).flip(2)
        self.weight.copy_(taps.permute(3, 1, 2, 0).reshape(stride * outputs, 2 * channels))
        self._load_bias(tensors, name)

    def pack(self) -> None:
        """Lay out the loaded kernel for a CPU."""
        self.weight = packed(self.weight)

    def _load_bias(self, tensors: Mapping[str, Tensor], name: str) -> None:
        if self.bias is not None:
            bias = take(tensors, f"{name}.conv.bias")
            self.bias.copy_(bias.repeat(self._stride))


class Convolve(Protocol):
    """The convolutions of one step, each called once, always in the same order.

    Each maps inputs [batch, time, channels] to outputs [batch, time * stride, outputs], to which
    `add`, of their shape, is added. Contexts hold the inputs unchanged.
    """

    def raw(self, conv: CausalConv, inputs: Tensor) -> Tensor:
        """Return the outputs."""

    def activated(self, conv: CausalConv, inputs: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return the outputs through ELU."""

    def both(
        self, conv: CausalConv, inputs: Tensor, *, add: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs, and the outputs through ELU."""

    def collect(self) -> Tensor:
        """Return the contexts of the next step, concatenated: [batch, floats]."""


class TorchConvolutions:
    """The convolutions in torch operations; contexts are used in the order of the layers."""

    def __init__(self, past: Tensor) -> None:
        self._past = past  # [batch, floats]
        self._start = 0
        self._fresh: list[Tensor] = []

    def take(self, conv: CausalConv) -> Tensor:
        """Return the layer's last inputs [batch, context, channels]."""
        past = self._past.narrow(1, self._start, conv.context_floats)
        self._start += conv.context_floats
        return past.view(len(past), conv.context, conv.channels)

    def keep(self, fresh: Tensor) -> None:
        """Keep [batch, context * channels] for the layer's next step."""
        self._fresh.append(fresh)

    def collect(self) -> Tensor:
        """Return the contexts of the next step, concatenated: [batch, floats]."""
        return torch.cat(self._fresh, 1)

    def outputs(self, conv: CausalConv, inputs: Tensor, add: Tensor | None = None) -> Tensor:
        """Return the outputs, before ELU; the other methods are made of this one."""
        product = linear(self._windows(conv, inputs), conv.weight, conv.bias)
        outputs = product.view(len(inputs), -1, conv.outputs)
        return outputs if add is None else outputs.add_(add)

    def raw(self, conv: CausalConv, inputs: Tensor) -> Tensor:
        return self.outputs(conv, inputs)

    def activated(self, conv: CausalConv, inputs: Tensor, *, add: Tensor | None = None) -> Tensor:
        return F.elu_(self.outputs(conv, inputs, add))

    def both(
        self, conv: CausalConv, inputs: Tensor, *, add: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        outputs = self.outputs(conv, inputs, add)
        return outputs, F.elu(outputs)

    def _windows(self, conv: CausalConv, inputs: Tensor) -> Tensor:
        """Return each output's inputs, oldest tap first: [batch * time, taps * channels]."""
        batch, time, channels = inputs.shape
        if conv.taps == 1:
            return inputs.flatten(0, 1)
        joined = torch.cat((self.take(conv), inputs), 1)  # [batch, context + time, channels]
        self.keep(joined[:, -conv.context :].flatten(1))
        return tapped(conv, joined, time).reshape(batch * time, conv.taps * channels)


def tapped(conv: CausalConv, joined: Tensor, time: int) -> Tensor:
    """View each output's inputs, oldest tap first: [batch, time, taps, channels].

    joined: the context and the inputs, [batch, context + time, channels].
    """
    batch, _, channels = joined.shape
    strides = (joined.stride(0), channels, conv.dilation * channels, 1)
    return joined.as_strided((batch, time, conv.taps, channels), strides)
