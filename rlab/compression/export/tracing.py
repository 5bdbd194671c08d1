"""From a member's modules to the operations of `graph`."""

from collections.abc import Callable
from itertools import groupby
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab.compression.export.graph import OBS, Graph, InexpressibleError, Tracer, Value
from rlab.compression.quantized_layers import HalfConv2d, HalfLinear, QuantizedConv2d, QuantizedLinear
from rlab.compression.sparse_layers import (
    SparseConv2d,
    SparseLayer,
    SparseLinear,
    SparseQuantizedConv2d,
    SparseQuantizedLinear,
)
from rlab.networks import heads
from rlab.networks.bounds import FIRST
from rlab.networks.branches import Branches, Dueling, Pick, PickImage
from rlab.networks.images import pixel_divisor
from rlab.networks.layers import ACTIVATIONS, LogStd
from rlab.networks.merging import merged
from rlab.networks.policy import MemberPolicy
from rlab.networks.preprocess import CLIP, EPSILON, Preprocess, kind_of
from rlab.networks.spaces import Box, Discrete, Leaf, Masked, MultiDiscrete, choices, leaf_features, leaves

WEIGHT_KINDS = {8: "int8", 4: "int4", 2: "int2"}


def trace(member: MemberPolicy) -> Graph:
    """The whole policy of one member, greedy actions. Adapters are merged; dropout does nothing.

    Raises:
        InexpressibleError: a layer of the network is none that the operations can say.
    """
    space, inner = member.spec.obs_space, member.preprocess.obs_space
    tracer = Tracer(Value(space.shape, space.dtype))
    mask = None
    if isinstance(inner, Masked):
        first = space.shape[0] - inner.size
        mask = tracer.slice(OBS, first, space.shape[0])
    outputs = trace_network(tracer, merged(member.network), _features(tracer, member.preprocess))
    return tracer.finished(outputs, _action(tracer, member.head, outputs, mask))


# ---- features ----


def _features(tracer: Tracer, preprocess: Preprocess) -> str:
    """What `Preprocess.forward` computes."""
    space = preprocess.obs_space
    inner = space.obs if isinstance(space, Masked) else space
    if isinstance(inner, Box) and inner.is_image:
        pixels = tracer.reshape(tracer.slice(OBS, 0, prod(inner.shape)) if inner is not space else OBS, inner.shape)
        scaled = _scaled_pixels(tracer, pixels, [inner])
        return scaled if inner.channels == FIRST else _channels_first(tracer, scaled)
    if preprocess.wide:
        vector = _vector(tracer, list(leaves(inner)), preprocess.mean)
        deviation = (preprocess.variance + EPSILON).sqrt().float()
        return _normalised(tracer, tracer.with_constant("divide", vector, deviation))
    vector = _vector(tracer, list(leaves(inner)))
    if preprocess.scaling == "fixed":
        return tracer.with_constant("multiply", vector, preprocess.factor)
    if preprocess.scaling == "running":
        centred = tracer.with_constant("subtract", vector, preprocess.mean.float())
        deviation = (preprocess.variance + EPSILON).sqrt().float()
        return _normalised(tracer, tracer.with_constant("divide", centred, deviation))
    return vector


def _normalised(tracer: Tracer, x: str) -> str:
    return _clipped(tracer, x, np.array(-CLIP, np.float32), np.array(CLIP, np.float32))


def _vector(tracer: Tracer, found: list[Leaf], mean: Tensor | None = None) -> str:
    """The features of the leaves of a vector, neighbours of one kind at once; numbers less their `mean [F]`, in
    float64, where one is given (it is 0 for all others)."""
    flat, first, parts = tracer.reshape(OBS, (tracer.values[OBS].size,)), 0, []
    feature = 0
    for kind, group in groupby(found, kind_of):
        alike = list(group)
        last = first + sum(prod(leaf.shape) for leaf in alike)
        if kind == "integers":
            parts.append(_one_hot(tracer, flat, first, alike))
        else:
            numbers = tracer.slice(flat, first, last)
            images = [leaf for leaf in alike if isinstance(leaf, Box)]
            if kind == "pixels":
                parts.append(_scaled_pixels(tracer, numbers, images))
            elif mean is None:
                parts.append(_float(tracer, numbers))
            else:
                own = tracer.constant(mean[feature : feature + last - first])
                parts.append(tracer.add("centre", (numbers, own), (last - first,)))
        first, feature = last, feature + sum(map(leaf_features, alike))
    return tracer.concat(parts)


def _scaled_pixels(tracer: Tracer, x: str, images: list[Box]) -> str:
    """What `_Divide` of `preprocess` computes."""
    numbers, divisor = _float(tracer, x), pixel_divisor(images)
    if divisor.ndim:
        return tracer.with_constant("divide", numbers, divisor.reshape(tracer.values[x].shape))
    return numbers if divisor == 1.0 else tracer.with_constant("divide", numbers, divisor)


def _channels_first(tracer: Tracer, x: str) -> str:
    height, width, channels = tracer.values[x].shape
    return tracer.add("channels_first", (x,), (channels, height, width))


def _float(tracer: Tracer, x: str) -> str:
    return tracer.cast(x, "float32")


def _one_hot(tracer: Tracer, flat: str, first: int, integers: list[Leaf]) -> str:
    """One feature for each value that each of the integers from element `first` on can have."""
    element, value = [], []
    for leaf in integers:
        starts = leaf.start if isinstance(leaf, MultiDiscrete) else (leaf.start,) if isinstance(leaf, Discrete) else ()
        for n, start in zip(choices(leaf), starts, strict=True):
            element.append(np.full(n, first))
            value.append(np.arange(start, start + n))
            first += 1
    constants = [tracer.constant(np.concatenate(part).astype(np.int64)) for part in (element, value)]
    return tracer.add("one_hot", (flat, *constants), (sum(map(len, element)),))


def _clipped(tracer: Tracer, x: str, low: np.ndarray | Tensor, high: np.ndarray | Tensor) -> str:
    return tracer.add("clip", (x, tracer.constant(low), tracer.constant(high)), tracer.values[x].shape)


# ---- network ----


def trace_network(tracer: Tracer, layer: nn.Module, x: str) -> str:
    """Note what one plain layer, or a sequence of them, makes of `x`."""
    # By the very type: a class derived from a known layer may have another forward.
    if type(layer) is nn.Sequential:
        for inner in layer:
            x = trace_network(tracer, inner, x)
        return x
    if type(layer) not in LAYERS:
        raise InexpressibleError(type(layer).__name__)
    return LAYERS[type(layer)](tracer, layer, x)


def _linear(tracer: Tracer, layer: Any, x: str) -> str:
    shape = tracer.values[x].shape
    weight, bias = _weight(tracer, layer), layer.bias
    out_features, in_features = tracer.constants[weight].values.shape
    if bias is None or shape != (in_features,):
        raise InexpressibleError(f"{layer} on an input of shape {shape}")
    return tracer.add("linear", (_entering(tracer, layer, x), weight, tracer.constant(bias)), (out_features,))


def _conv2d(tracer: Tracer, layer: Any, x: str) -> str:
    stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else layer.stride
    shape = tracer.values[x].shape
    weight, bias = _weight(tracer, layer), layer.bias
    out_channels, in_channels, kernel, _ = tracer.constants[weight].values.shape
    if isinstance(layer, nn.Conv2d) and repr(layer) != repr(nn.Conv2d(in_channels, out_channels, kernel, stride)):
        raise InexpressibleError(f"{layer}, which has more settings than kernel and stride")
    if len(shape) != 3 or shape[0] != in_channels:
        raise InexpressibleError(f"{layer} on an input of shape {shape}")
    sides = [(side - kernel) // stride + 1 for side in shape[1:]]
    inputs = (_entering(tracer, layer, x), weight, tracer.constant(bias))
    return tracer.add("conv2d", inputs, (out_channels, *sides), stride=stride)


def _weight(tracer: Tracer, layer: Any) -> str:
    """The weights in the form in which the layer holds them; those of a sparse one with their zeros."""
    sparse = isinstance(layer, SparseLayer)
    if isinstance(layer, QuantizedLinear | QuantizedConv2d):
        integers, scale = layer.quantized_weight()
        return tracer.constant(integers, WEIGHT_KINDS[layer.bits], scale, sparse)
    weight = layer.stored() if sparse else layer.weight
    if weight.dtype == torch.bfloat16:
        return tracer.constant(weight.view(torch.uint16), "bfloat16", sparse=sparse)
    return tracer.constant(weight, sparse=sparse)


def _entering(tracer: Tracer, layer: Any, x: str) -> str:
    """What the layer's weights meet: x itself, or as u8 can say it."""
    if not isinstance(layer, QuantizedLinear | QuantizedConv2d) or layer.activations == "none":
        return x
    if layer.activations == "dynamic":
        return tracer.unary("round_dynamic", x)
    scale, zero_point = tracer.constant(layer.input_scale), tracer.constant(layer.input_zero_point)
    return tracer.add("round_static", (x, scale, zero_point), tracer.values[x].shape)


def _layer_norm(tracer: Tracer, layer: Any, x: str) -> str:
    shape = tracer.values[x].shape
    if tuple(layer.normalized_shape) != shape or len(shape) != 1 or layer.weight is None or layer.bias is None:
        raise InexpressibleError(f"{layer} on an input of shape {shape}")
    inputs = (x, tracer.constant(layer.weight), tracer.constant(layer.bias))
    return tracer.add("layer_norm", inputs, shape, epsilon=layer.eps)


def _dueling(tracer: Tracer, layer: Any, x: str) -> str:
    value, advantage = trace_network(tracer, layer.value, x), trace_network(tracer, layer.advantage, x)
    shape = tracer.values[advantage].shape
    total = tracer.add("add", (advantage, value), shape)  # the second may be one number
    return tracer.add("subtract", (total, tracer.add("mean", (advantage,), (1,))), shape)


def _branches(tracer: Tracer, layer: Any, x: str) -> str:
    return tracer.concat([trace_network(tracer, branch, x) for branch in layer.branches])


def _pick(tracer: Tracer, layer: Any, x: str) -> str:
    return tracer.concat([tracer.slice(x, first, last) for first, last in layer.ranges])


def _pick_image(tracer: Tracer, layer: Any, x: str) -> str:
    pixels = tracer.slice(x, layer.first, layer.first + prod(layer.shape))
    image = tracer.reshape(pixels, layer.shape)
    return image if layer.channels == FIRST else _channels_first(tracer, image)


def _flatten(tracer: Tracer, layer: Any, x: str) -> str:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise InexpressibleError(repr(layer))
    return tracer.reshape(x, (tracer.values[x].size,))


def _log_std(tracer: Tracer, layer: Any, x: str) -> str:
    return tracer.add("append", (x, tracer.constant(layer.log_std)), (2 * tracer.values[x].size,))


def _activation(tracer: Tracer, layer: Any, x: str) -> str:
    if isinstance(layer, nn.GELU) and layer.approximate != "none":
        raise InexpressibleError(repr(layer))
    name = next(name for name, kind in ACTIVATIONS.items() if type(layer) is kind)
    if isinstance(layer, nn.ELU):
        return tracer.unary(name, x, alpha=float(layer.alpha))
    if isinstance(layer, nn.LeakyReLU):
        return tracer.unary(name, x, alpha=float(layer.negative_slope))
    return tracer.unary(name, x)


def _nothing(tracer: Tracer, layer: Any, x: str) -> str:
    return x


# plain layer -> what notes it down
LAYERS: dict[type[nn.Module], Callable[[Tracer, Any, str], str]] = {
    nn.Linear: _linear,
    HalfLinear: _linear,
    QuantizedLinear: _linear,
    SparseLinear: _linear,
    SparseQuantizedLinear: _linear,
    nn.Conv2d: _conv2d,
    HalfConv2d: _conv2d,
    QuantizedConv2d: _conv2d,
    SparseConv2d: _conv2d,
    SparseQuantizedConv2d: _conv2d,
    nn.LayerNorm: _layer_norm,
    Dueling: _dueling,
    Branches: _branches,
    Pick: _pick,
    PickImage: _pick_image,
    LogStd: _log_std,
    nn.Flatten: _flatten,
    nn.Dropout: _nothing,
    nn.Identity: _nothing,
    **dict.fromkeys(ACTIVATIONS.values(), _activation),
}


def quantized_kind(network: nn.Module) -> str:
    """What `Graph.quantized` says, of networks with foreign layers too."""
    layers = [layer for layer in network.modules() if isinstance(layer, QuantizedLinear | QuantizedConv2d)]
    if any(layer.activations != "none" for layer in layers):
        return "activations"
    return "weights" if layers else "none"


# ---- action ----


def _action(tracer: Tracer, head: heads.Head, outputs: str, mask: str | None) -> str:
    """What `head.to_env(head.act(outputs, mask))` computes."""
    if isinstance(head, heads.QHead | heads.CategoricalHead):
        return _choice(tracer, outputs, mask, (head.width,), (), np.asarray(head.start, np.int64))
    if isinstance(head, heads.MultiCategoricalHead):
        sizes = tuple(head.real.sum(dim=-1).tolist())
        return _choice(tracer, outputs, mask, sizes, head.shape, head.start.cpu().numpy())
    if isinstance(head, heads.BernoulliHead):
        return tracer.reshape(tracer.add("positive", (outputs,), (head.width,), "int8"), head.shape)
    assert isinstance(head, heads.GaussianHead)  # there are no other heads
    mean = tracer.slice(outputs, 0, head.noise_width)
    bent = tracer.unary("tanh", mean) if isinstance(head, heads.SquashedGaussianHead) else mean
    scaled = tracer.with_constant("multiply", bent, head.scale)
    clipped = _clipped(tracer, tracer.with_constant("add", scaled, head.middle), head.low, head.high)
    return tracer.cast(tracer.reshape(clipped, head.shape), str(head.env_dtype).removeprefix("torch."))


def _choice(
    tracer: Tracer, outputs: str, mask: str | None, sizes: tuple[int, ...], shape: tuple[int, ...], start: np.ndarray
) -> str:
    inputs = (outputs,) if mask is None else (outputs, mask)
    chosen = tracer.add("choose", inputs, shape, "int64", sizes=sizes)
    return tracer.with_constant("add", chosen, start, "int64")
