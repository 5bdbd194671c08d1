"""Training after rounding: the integers stay fixed, and the parameters that are still floats are trained.

These are biases, layer norms, weights that are not rounded, and the scale of each channel. Any loop can train what
`prepare_tuning` returns, and `tuned` turns it back into a rounded network with the same outputs.
"""

import copy

import torch
from torch import Tensor, nn

from rlab.compression import rounding
from rlab.compression.quantized_layers import CompressedLayer, Place, QuantizedLayer, replaced
from rlab.errors import UsageError


def prepare_tuning(network: nn.Module) -> nn.Module:
    """A copy of a rounded network, plain or stacked, in which scales are parameters as biases are.

    Layers of 16 bits have no scales; they stay as they are.

    Raises:
        UsageError: no layer is rounded.
    """
    if not any(isinstance(layer, CompressedLayer) for layer in network.modules()):
        raise UsageError("no layer of the network is rounded; round it first.")
    return replaced(network, lambda layer: _Tuned(layer) if isinstance(layer, QuantizedLayer) else None)


def tuned(network: nn.Module) -> nn.Module:
    """The rounded network again, with the learned scales and other parameters."""
    return replaced(network, lambda layer: layer.quantized() if isinstance(layer, _Tuned) else None)


class _Tuned(CompressedLayer):
    """A quantized layer whose scales are multiplied with `exp(log_gain) [..., out]`, which starts at 0.

    Adam's steps on the logarithm change large and small scales by the same share, and no scale becomes negative.
    """

    integers: Tensor

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__(Place(layer.weight_shape, layer.stride, layer.members), layer.init, layer.gain)
        self.layer = copy.deepcopy(layer)
        self.bias = self.layer.bias  # shared with the layer
        self.log_gain = nn.Parameter(torch.zeros_like(layer.scale))
        self.register_buffer("integers", layer.integers().to(layer.scale.dtype), persistent=False)

    def scale(self) -> Tensor:
        """Of each output channel, `[..., out]`."""
        return self.layer.scale * self.log_gain.exp()

    def dense(self) -> Tensor:
        return rounding.to_floats(self.integers, self._per_channel(self.scale()))

    @property
    def rounds_inputs(self) -> bool:
        return self.layer.rounds_inputs

    def entering(self, x: Tensor) -> Tensor:
        return self.layer.entering(x)

    @torch.no_grad()
    def quantized(self) -> QuantizedLayer:
        """The layer with the scales that were learned; a copy."""
        new = copy.deepcopy(self.layer)
        new.scale.copy_(self.scale())
        return new
