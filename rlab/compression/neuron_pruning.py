"""Structured pruning: hidden neurons are removed from a plain network, which makes it smaller and faster.

A neuron is an output of a linear layer or a channel of a convolution that only further layers of the network read. The
network's own outputs stay, and so do log standard deviations. A neuron is removed with its row of weights, its bias,
its element of a LayerNorm or batch renormalisation after it, and its columns in the layers that read it.

Without a LayerNorm after it, the pruned network computes what the whole one computes with that neuron held at 0. A
LayerNorm took mean and deviation over all neurons and now takes them over the remaining ones: the pruned network equals
the whole one with a LayerNorm that leaves the neuron out. Behind batch renormalisation it equals the whole one with the
renormalised neuron held at 0.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rlab.compression.reconstruction import reconstruct
from rlab.errors import UsageError, unknown
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.branches import Pick, PickImage, Streams
from rlab.networks.implicit_quantiles import ImplicitQuantiles
from rlab.networks.layers import ACTIVATIONS, LogStd
from rlab.networks.merging import merged

Masks = dict[str, Tensor]  # name of a layer -> bool [neurons], true for those that stay

JUDGED_ROWS = 256  # states that a network is asked about at once, so that large images fit into memory
# Element by element: a neuron passes through by itself.
_SILENT: tuple[type[nn.Module], ...] = (nn.Dropout, *ACTIVATIONS.values())


@runtime_checkable
class Narrowable(Protocol):
    """A layer from outside rlab, as one member has it, whose n-th output depends on its n-th input alone."""

    def narrow(self, keep: Tensor) -> None:
        """Lose the features that `keep [features]` does not keep, in place."""
        ...


@dataclass(eq=False)
class HiddenLayer:
    """A layer whose outputs only other layers of the network read, by the names of `named_modules`."""

    name: str
    width: int  # neurons, or channels
    flat: bool  # its neurons are on the last axis; false for a convolution until it is flattened
    norms: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)


def hidden_layers(network: nn.Module) -> tuple[HiddenLayer, ...]:
    """The layers of a plain network that can lose neurons, in the order in which data flows.

    Raises:
        UsageError: a layer of which it is not known how its outputs depend on its inputs.
    """
    found: list[HiddenLayer] = []
    _walk(network, "", None, found)
    return tuple(layer for layer in found if layer.readers)


def prune_neurons(
    network: nn.Module,
    share: float | Sequence[float],
    by: str = "norm",
    features: Tensor | None = None,
    reconstructed: bool = False,
) -> nn.Module:
    """A smaller network without the least important neurons of each hidden layer; see `neuron_masks`.

    Networks of one shape keep one shape, so that the members of a population can be stacked again, though each loses
    different neurons. Adapters are merged first.

    Args:
        reconstructed: fit its linear layers to those of the whole network, on the features; see `reconstruction`.

    Raises:
        UsageError: as `neuron_masks`.
    """
    if reconstructed and features is None:
        raise UsageError("layers are fitted on features of visited states; there are none.")
    network = merged(network)
    masks = neuron_masks(network, share, by, features)
    pruned = cut(network, masks)
    return pruned if features is None or not reconstructed else reconstruct(network, pruned, masks, features)


def neuron_masks(
    network: nn.Module, share: float | Sequence[float], by: str = "norm", features: Tensor | None = None
) -> Masks:
    """Which neurons of a plain network stay.

    Args:
        share: of the neurons of every hidden layer that go, in [0, 1), or one share for each; one neuron stays.
        by: the measure of a neuron's importance, a name of `IMPORTANCE`.
        features: `[R, ...]`, what the network reads in visited states.

    Raises:
        UsageError: a share or a name is not known, features are missing, nothing can be pruned, or a layer is of a
            kind that pruning does not know.
    """
    if by not in IMPORTANCE:
        raise unknown("measure of importance", by, IMPORTANCE)
    if by != "norm" and features is None:
        raise UsageError(f"pruning by {by} needs features of visited states; norm needs none.")
    layers = hidden_layers(network)
    if not layers:
        raise UsageError("this network has no hidden layer, so no neuron to prune.")
    shares = [share] * len(layers) if isinstance(share, float | int) else list(share)
    if len(shares) != len(layers):
        raise UsageError(f"{len(shares)} shares do not fit {len(layers)} hidden layers.")
    if not all(0.0 <= each < 1.0 for each in shares):
        raise UsageError(f"the share of neurons to prune must be in [0, 1), not {share}.")
    scores = IMPORTANCE[by](network, layers, features)
    return {layer.name: _keep(score, each) for layer, score, each in zip(layers, scores, shares, strict=True)}


def _keep(score: Tensor, share: float) -> Tensor:
    """True for the neurons that stay, the most important; of equals the first."""
    stay = max(1, len(score) - round(share * len(score)))
    mask = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    mask[score.argsort(descending=True, stable=True)[:stay]] = True
    return mask


@torch.no_grad()
def cut(network: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy without the neurons that `masks` does not keep."""
    pruned = copy.deepcopy(network)
    for layer in _masked_layers(network, masks):
        keep = masks[layer.name]
        _cut_outputs(pruned.get_submodule(layer.name), keep)
        for name in layer.norms:
            _cut_norm(pruned.get_submodule(name), keep)
        for name in layer.readers:
            _cut_inputs(pruned.get_submodule(name), keep)
    return pruned


def _walk(module: nn.Module, name: str, source: HiddenLayer | None, found: list[HiddenLayer]) -> HiddenLayer | None:
    """Follow the data through a module.

    `source` is the layer whose neurons the module reads, None where its inputs are not neurons of a layer. Returns the
    same for the next module.
    """
    if isinstance(module, nn.Sequential):
        for child_name, child in module.named_children():
            source = _walk(child, f"{name}.{child_name}".lstrip("."), source, found)
        return source
    if isinstance(module, ImplicitQuantiles):
        source = None  # its features are multiplied by an embedding, so that none can go by itself
    if isinstance(module, Streams):
        for inner, stream in module.streams().items():
            _walk(stream, f"{name}.{inner}".lstrip("."), source, found)
        return None  # what comes out is made of all streams, so that no neuron passes through by itself
    if isinstance(module, Pick | PickImage) and source is None:
        return None  # parts of the observation
    if isinstance(module, nn.Linear | nn.Conv2d):
        return _weights(module, name, source, found)
    if isinstance(module, nn.LayerNorm | BatchRenorm):
        if source is not None and source.flat:
            source.norms.append(name)
        return source
    if isinstance(module, Narrowable) and (source is None or source.flat):
        if source is not None:
            source.norms.append(name)
        return source
    if isinstance(module, nn.Flatten):
        if source is not None:
            source.flat = True
        return source
    if isinstance(module, LogStd):
        return None
    if isinstance(module, _SILENT):
        return source
    raise UsageError(
        f"pruning does not know the layer {type(module).__name__}; it knows linear layers, convolutions, LayerNorm, "
        "batch renormalisation, activations, dueling streams, branches, and behind linear layers any that has "
        "narrow(keep). Prune before quantizing."
    )


def _weights(
    module: nn.Linear | nn.Conv2d, name: str, source: HiddenLayer | None, found: list[HiddenLayer]
) -> HiddenLayer:
    linear = isinstance(module, nn.Linear)
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        raise UsageError(f"the layer {name} cannot be pruned: its channels are in groups.")
    if source is not None:
        if source.flat != linear:
            raise UsageError(
                f"the layer {name} cannot be pruned: a linear layer reads a convolution through a flatten."
            )
        source.readers.append(name)
    found.append(HiddenLayer(name, module.weight.shape[0], flat=linear))
    return found[-1]


def _masked_layers(network: nn.Module, masks: Mapping[str, Tensor]) -> list[HiddenLayer]:
    """The layers that `masks` names.

    Raises:
        UsageError: a name or a mask does not fit the network, or a mask keeps nothing.
    """
    layers = {layer.name: layer for layer in hidden_layers(network)}
    for name, keep in masks.items():
        if name not in layers:
            raise unknown("hidden layer", name, layers)
        if keep.shape != (layers[name].width,) or not keep.any():
            raise UsageError(f"the mask of layer {name} must keep one or more of its {layers[name].width} neurons.")
    return [layers[name] for name in masks]


def _spread(keep: Tensor, size: int) -> Tensor:
    """The mask of `size` elements of which each neuron has as many: a channel has all its pixels, one after another."""
    return keep.repeat_interleave(size // len(keep))


def _cut_outputs(layer: nn.Module, keep: Tensor) -> None:
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    layer.weight = nn.Parameter(layer.weight[keep].clone(), layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[keep].clone(), layer.bias.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(layer.weight)
    else:
        layer.out_channels = len(layer.weight)


def _cut_inputs(layer: nn.Module, keep: Tensor) -> None:
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight[:, _spread(keep, layer.weight.shape[1])].clone()
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.in_features = weight.shape[1]
    else:
        layer.in_channels = weight.shape[1]


def _cut_norm(norm: nn.Module, keep: Tensor) -> None:
    if isinstance(norm, BatchRenorm):
        norm.narrow(_spread(keep, norm.weight.shape[-1]))
        return
    if isinstance(norm, Narrowable):
        norm.narrow(keep)
        return
    assert isinstance(norm, nn.LayerNorm)
    stay = _spread(keep, norm.weight.shape[-1])
    norm.weight = nn.Parameter(norm.weight[stay].clone(), norm.weight.requires_grad)
    norm.bias = nn.Parameter(norm.bias[stay].clone(), norm.bias.requires_grad)
    norm.normalized_shape = (int(stay.sum()),)


@torch.no_grad()
def _by_norm(network: nn.Module, layers: Sequence[HiddenLayer], features: Tensor | None) -> list[Tensor]:
    """The L2 norm of all weights into and out of each neuron (Li et al. 2017 have the L1 norm of those into it)."""
    scores = []
    for layer in layers:
        incoming = _weight(network, layer.name)
        squares = incoming.flatten(1).square().sum(dim=1)
        for reader in layer.readers:
            outgoing = _weight(network, reader)
            per_input = outgoing.square().transpose(0, 1).flatten(1).sum(dim=1)
            squares = squares + per_input.view(layer.width, -1).sum(dim=1)
        scores.append(squares.sqrt())
    return scores


def _by_activation(network: nn.Module, layers: Sequence[HiddenLayer], features: Tensor | None) -> list[Tensor]:
    """The mean absolute value that the next layers read (Hu et al. 2016 count zeros, which only ReLU has)."""
    return _over_states(network, layers, features, lambda values, gradient: values.abs().mean(dim=2), by_output=False)


def _by_gradient(network: nn.Module, layers: Sequence[HiddenLayer], features: Tensor | None) -> list[Tensor]:
    """How far the outputs would move without a neuron, to first order: |activation x gradient|, summed over a channel's
    pixels before the absolute value is taken (Molchanov et al. 2017, section 2.2), here of each output in turn."""
    moved = lambda values, gradient: (values * gradient).sum(dim=2).abs()  # noqa: E731
    return _over_states(network, layers, features, moved, by_output=True)


def _over_states(
    network: nn.Module,
    layers: Sequence[HiddenLayer],
    features: Tensor | None,
    score: Callable[[Tensor, Tensor], Tensor],
    by_output: bool,
) -> list[Tensor]:
    """The mean over `features [R, ...]` of `score(values, gradient) [R, width]`, both `[R, width, elements]`.

    Summed over outputs where the gradient is that of each output in turn; else there is one sum, with a gradient of 0.
    """
    assert features is not None  # `neuron_masks` requires them
    network = copy.deepcopy(network).eval().requires_grad_(False)
    total = [torch.zeros(layer.width, device=features.device) for layer in layers]
    for part in features.split(JUDGED_ROWS):
        with torch.enable_grad():
            read, outputs = _read_values(network, layers, part.detach().clone().requires_grad_())
            for output in outputs.sum(dim=0) if by_output else [None]:
                for sums, tensors in zip(total, read, strict=True):
                    for values in tensors:  # more rows than states within a layer of quantiles
                        gradient = values.new_zeros(values.shape)
                        if output is not None:
                            (gradient,) = torch.autograd.grad(output, values, retain_graph=True, materialize_grads=True)
                        shape = (len(part), len(sums), -1)
                        sums += score(*(_elements(each, shape) for each in (values.detach(), gradient))).sum(dim=0)
    return [sums / len(features) for sums in total]


def _elements(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """As `shape [R, width, elements]`: values `[R, width * elements]`, `[R, width, ...]` or `[R * elements, width]`."""
    if len(values) == shape[0]:
        return values.reshape(shape)
    return values.unflatten(0, (shape[0], -1)).transpose(1, 2)


def _read_values(
    network: nn.Module, layers: Sequence[HiddenLayer], features: Tensor
) -> tuple[list[list[Tensor]], Tensor]:
    """What the readers of each layer read of it, every tensor once, and the outputs."""
    read: list[list[Tensor]] = [[] for _ in layers]

    def note(tensors: list[Tensor], module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not any(inputs[0] is tensor for tensor in tensors):  # two streams read the same one
            tensors.append(inputs[0])

    for tensors, layer in zip(read, layers, strict=True):
        for reader in layer.readers:
            network.get_submodule(reader).register_forward_pre_hook(partial(note, tensors))
    outputs: Tensor = network(features)
    return read, outputs


def _weight(network: nn.Module, name: str) -> Tensor:
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


# name -> (network, its hidden layers, features [R, ...] or None) to one score per neuron, `[width]` for each layer
IMPORTANCE: dict[str, Callable[[nn.Module, Sequence[HiddenLayer], Tensor | None], list[Tensor]]] = {
    "norm": _by_norm,
    "activation": _by_activation,
    "gradient": _by_gradient,
}
