"""After pruning, the linear layers that are left are fitted to their former outputs by least squares.

What a removed neuron passed on is mostly passed on by others too; least squares find these. It is not training: one
system of equations per layer, from visited states.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rlab.compression.float_layers import observe
from rlab.compression.rounding_correction import entering, fitted


@torch.no_grad()
def reconstruct(network: nn.Module, pruned: nn.Module, masks: Mapping[str, Tensor], features: Tensor) -> nn.Module:
    """Fit the linear layers of `pruned`, in place and in forward order, to those of the whole network.

    Each gets the weights, near its own, with which its inputs in the pruned network give most nearly what the whole
    network's layer gives: the reconstruction of He et al. 2017, section 3.1, with inputs that the layers before it give
    once they are cut. Convolutions stay as they are.

    Args:
        network, pruned: plain networks; `pruned` is `cut(network, masks)`.
        features: `[R, ...]`, the networks' input on visited states.
    """
    names = {layer: name for name, layer in network.named_modules()}
    wanted: dict[str, list[Tensor]] = {}  # the outputs that a layer should have, `[R, out]` of each call

    def note(layer: nn.Module, x: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            outputs: Tensor = layer(x)
            keep = masks.get(names[layer])
            wanted.setdefault(names[layer], []).append(outputs if keep is None else outputs[:, keep])

    observe(network, features, note)
    for name, parts in wanted.items():
        layer = pruned.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        outputs, rows = torch.cat(parts), torch.cat(entering(pruned, layer, features))
        layer.weight.copy_(fitted(layer.weight, rows, outputs)[0])
        if layer.bias is not None:
            layer.bias.copy_((outputs - rows @ layer.weight.T).mean(dim=0, dtype=torch.double))
    return pruned
