"""From a member's modules to the operations of `graph`."""

from collections.abc import Callable
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from rlab.compression.export.graph import OBS, Graph, InexpressibleError, Tracer, Value
from rlab.compression.export.member_step import parts_of, state_size
from rlab.compression.export.memory_tracing import trace_step
from rlab.compression.linear_units import opened
from rlab.compression.quantized_layers import HalfConv2d, HalfLinear, QuantizedConv2d, QuantizedLayer, QuantizedLinear
from rlab.compression.sparse_layers import (
    SparseConv2d,
    SparseLayer,
    SparseLinear,
    SparseQuantizedConv2d,
    SparseQuantizedLinear,
)
from rlab.networks.attention import Residual
from rlab.networks.batch_renorm import BatchRenorm
from rlab.networks.bounds import FIRST
from rlab.networks.branches import Branches, Dueling, Pick, PickImage
from rlab.networks.continuous_heads import BoxHead, DeterministicHead, GaussianHead, SquashedGaussianHead
from rlab.networks.heads import BernoulliHead, CategoricalHead, Head, MultiCategoricalHead
from rlab.networks.implicit_quantiles import ImplicitQuantiles
from rlab.networks.layers import ACTIVATIONS, LogStd
from rlab.networks.merging import merged
from rlab.networks.policy import MemberPolicy
from rlab.networks.preprocess import Numbers, OneHot, Preprocess
from rlab.networks.spaces import Masked
from rlab.networks.value_heads import CategoricalValueHead, ImplicitQuantileHead, QHead, QuantileHead

WEIGHT_KINDS = {8: "int8", 4: "int4", 2: "int2"}


@runtime_checkable
class TraceableLayer(Protocol):
    """A layer from outside rlab, as one member has it, that can express its forward in these operations."""

    def trace(self, tracer: Tracer, x: str) -> str:
        """Note the operations down; gives the name of the output."""
        ...


@runtime_checkable
class TraceableHead(Protocol):
    """A policy head from outside rlab that can express the choice of its greedy action in these operations."""

    def trace(self, tracer: Tracer, outputs: str, mask: str | None) -> str:
        """Note the operations down; gives the name of the action, as `env.step` takes it."""
        ...


def trace(member: MemberPolicy) -> Graph:
    """The whole policy of one member, greedy actions. Adapters are merged; dropout does nothing.

    Raises:
        InexpressibleError: a layer or the policy head cannot be expressed in these operations.
    """
    space, inner = member.spec.obs_space, member.preprocess.obs_space
    tracer = Tracer(Value(space.shape, space.dtype), state_size(member))
    mask = None
    if isinstance(inner, Masked):
        mask = tracer.slice(OBS, space.shape[0] - inner.size, space.shape[0])
    network, features = opened(merged(member.network)), _features(tracer, member.preprocess)
    outputs, state = trace_step(tracer, network, parts_of(member), features, trace_network)
    return tracer.finished(outputs, trace_action(tracer, member.head, outputs, mask), state)


# ---- features ----


def _features(tracer: Tracer, preprocess: Preprocess) -> str:
    """What `Preprocess.forward` computes."""
    space, image = preprocess.obs_space, preprocess.image
    if image is not None:
        pixels = tracer.reshape(tracer.slice(OBS, 0, prod(image.shape)) if image is not space else OBS, image.shape)
        scaled = _divided(tracer, _float(tracer, pixels), preprocess.divide)
        return scaled if image.channels == FIRST else _channels_first(tracer, scaled)
    steps = preprocess.scaling_steps()
    # The numbers alone are centred, in float64 as they come; for all other features the mean is 0.
    mean = next((numbers for operation, numbers in steps if operation == "centre"), None)
    flat, feature, parts = tracer.reshape(OBS, (tracer.values[OBS].size,)), 0, []
    for part in preprocess.parts:
        parts.append(_part(tracer, part, flat, mean, feature))
        feature += tracer.values[parts[-1]].size
    x = tracer.concat(parts)
    for operation, numbers in steps:
        if operation == "clip":
            x = _clipped(tracer, x, *(np.array(bound, np.float32) for bound in (-numbers, numbers)))
        elif operation != "centre":
            x = tracer.with_constant(operation, x, numbers)
    return x


def _part(tracer: Tracer, part: nn.Module, flat: str, mean: Any, feature: int) -> str:
    """The features, from number `feature` on, that one part of a vector gives."""
    if isinstance(part, OneHot):
        constants = [tracer.constant(each) for each in (part.element.expand(part.value.shape), part.value)]
        return tracer.add("one_hot", (flat, *constants), part.value.shape)
    assert isinstance(part, Numbers)
    numbers, size = tracer.slice(flat, part.first, part.last), part.last - part.first
    if part.divide is not None:
        return _divided(tracer, _float(tracer, numbers), part.divide)
    if mean is None:
        return _float(tracer, numbers)
    return tracer.add("centre", (numbers, tracer.constant(mean[feature : feature + size])), (size,))


def _divided(tracer: Tracer, x: str, divide: Any) -> str:
    return tracer.with_constant("divide", x, divide.divisor)


def _channels_first(tracer: Tracer, x: str) -> str:
    height, width, channels = tracer.values[x].shape
    return tracer.add("channels_first", (x,), (channels, height, width))


def _float(tracer: Tracer, x: str) -> str:
    return tracer.cast(x, "float32")


def _clipped(tracer: Tracer, x: str, low: np.ndarray | Tensor, high: np.ndarray | Tensor) -> str:
    return tracer.add("clip", (x, tracer.constant(low), tracer.constant(high)), tracer.values[x].shape)


# ---- network ----


def trace_network(tracer: Tracer, layer: nn.Module, x: str) -> str:
    """Note what one plain layer, or a sequence of them, makes of `x`."""
    # By its very type: a class derived from a known layer may have another forward.
    if type(layer) is nn.Sequential:
        for inner in layer:
            x = trace_network(tracer, inner, x)
        return x
    if type(layer) in LAYERS:
        return LAYERS[type(layer)](tracer, layer, x)
    if isinstance(layer, TraceableLayer):
        return layer.trace(tracer, x)
    raise InexpressibleError(type(layer).__name__)


def _linear(tracer: Tracer, layer: Any, x: str) -> str:
    shape = tracer.values[x].shape
    weight, bias = _weight(tracer, layer), layer.bias
    out_features, in_features = tracer.constants[weight].values.shape
    if bias is None or shape[-1:] != (in_features,) or len(shape) > 2:
        raise InexpressibleError(f"{layer} on an input of shape {shape}")
    inputs = (_entering(tracer, layer, x), weight, tracer.constant(bias))
    return tracer.add("linear", inputs, (*shape[:-1], out_features))


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
    if isinstance(layer, QuantizedLayer):
        integers, scale = layer.quantized_weight()
        return tracer.constant(integers, WEIGHT_KINDS[layer.bits], scale, sparse)
    weight = layer.stored() if sparse else layer.weight
    if weight.dtype == torch.bfloat16:
        return tracer.constant(weight.view(torch.uint16), "bfloat16", sparse=sparse)
    return tracer.constant(weight, sparse=sparse)


def _entering(tracer: Tracer, layer: Any, x: str) -> str:
    """The input that is multiplied with the weights: x itself, or x rounded to u8 and back."""
    if not isinstance(layer, QuantizedLayer) or layer.activations == "none":
        return x
    if layer.activations == "dynamic":
        return tracer.unary("round_dynamic", x)
    scale, zero_point = tracer.constant(layer.input_scale), tracer.constant(layer.input_zero_point)
    return tracer.add("round_static", (x, scale, zero_point), tracer.values[x].shape)


def _layer_norm(tracer: Tracer, layer: Any, x: str) -> str:
    shape = tracer.values[x].shape
    if tuple(layer.normalized_shape) != shape[-1:] or len(shape) > 2 or layer.weight is None or layer.bias is None:
        raise InexpressibleError(f"{layer} on an input of shape {shape}")
    inputs = (x, tracer.constant(layer.weight), tracer.constant(layer.bias))
    return tracer.add("layer_norm", inputs, shape, epsilon=layer.eps)


def _batch_renorm(tracer: Tracer, layer: Any, x: str) -> str:
    """What it computes in evaluation."""
    centred = tracer.with_constant("subtract", x, layer.mean)
    return tracer.with_constant("add", tracer.with_constant("multiply", centred, layer.scale()), layer.bias)


def _dueling(tracer: Tracer, layer: Any, x: str) -> str:
    value, advantage = trace_network(tracer, layer.value, x), trace_network(tracer, layer.advantage, x)
    shape, n = tracer.values[advantage].shape, tracer.values[value].size
    if n > 1:
        return _dueling_by_itself(tracer, value, advantage, n)
    total = tracer.add("add", (advantage, value), shape)  # the second may be one number
    return tracer.add("subtract", (total, tracer.add("mean", (advantage,), (1,))), shape)


def _dueling_by_itself(tracer: Tracer, value: str, advantage: str, n: int) -> str:
    """Each of n numbers joined with those of the actions."""
    actions = [tracer.slice(advantage, i, i + n) for i in range(0, tracer.values[advantage].size, n)]
    total = actions[0]
    for other in actions[1:]:
        total = tracer.add("add", (total, other), (n,))
    mean = tracer.with_constant("multiply", total, np.array([1.0 / len(actions)], np.float32))
    rest = tracer.add("subtract", (value, mean), (n,))
    return tracer.concat([tracer.add("add", (each, rest), (n,)) for each in actions])


def _implicit_quantiles(tracer: Tracer, layer: ImplicitQuantiles, x: str) -> str:
    """Its network once for each fraction, whose embeddings are constants outside of training."""
    fractions = layer.middles(torch.zeros(()))
    with torch.no_grad():
        embedded = layer.embedded(fractions)  # [n, D]
    entering = [tracer.add("multiply", (x, tracer.constant(each)), tracer.values[x].shape) for each in embedded]
    before = len(tracer.operations)
    returns = [trace_network(tracer, layer.values, entering[0])]
    noted = tracer.operations[before:]
    returns += [tracer.again(noted, entering[0], other) for other in entering[1:]]
    shape = (tracer.values[returns[0]].size + 1,)
    ends = zip(returns, fractions.unsqueeze(-1), strict=True)
    return tracer.concat([tracer.add("append", (each, tracer.constant(end)), shape) for each, end in ends])


def _residual(tracer: Tracer, layer: Any, x: str) -> str:
    return tracer.add("add", (trace_network(tracer, layer.body, x), x), tracer.values[x].shape)


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
    **dict.fromkeys((nn.Linear, HalfLinear, QuantizedLinear, SparseLinear, SparseQuantizedLinear), _linear),
    **dict.fromkeys((nn.Conv2d, HalfConv2d, QuantizedConv2d, SparseConv2d, SparseQuantizedConv2d), _conv2d),
    nn.LayerNorm: _layer_norm,
    BatchRenorm: _batch_renorm,
    Dueling: _dueling,
    ImplicitQuantiles: _implicit_quantiles,
    Residual: _residual,
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
    """As `Graph.quantized`, for networks with foreign layers too."""
    layers = [layer for layer in network.modules() if isinstance(layer, QuantizedLayer)]
    if any(layer.activations != "none" for layer in layers):
        return "activations"
    return "weights" if layers else "none"


# ---- action ----


def trace_action(tracer: Tracer, head: Head, outputs: str, mask: str | None) -> str:
    """Note what `head.to_env(head.act(outputs, mask))` computes.

    Raises:
        InexpressibleError: the head is not one that the operations can express.
    """
    # By the very type, as for layers.
    if type(head) in HEADS:
        return HEADS[type(head)](tracer, head, outputs, mask)
    if isinstance(head, TraceableHead):
        return head.trace(tracer, outputs, mask)
    raise InexpressibleError(type(head).__name__, "policy head")


def _index(tracer: Tracer, head: Any, outputs: str, mask: str | None) -> str:
    return _choice(tracer, outputs, mask, (head.mask_width,), (), np.asarray(head.start, np.int64))


def _atoms(tracer: Tracer, head: CategoricalValueHead, outputs: str, mask: str | None) -> str:
    probability = tracer.unary("softmax", outputs, size=head.atoms)
    return _weighed(tracer, head, probability, np.kron(np.eye(head.num_actions), head.support.cpu().numpy()), mask)


def _quantiles(tracer: Tracer, head: QuantileHead, outputs: str, mask: str | None) -> str:
    share = np.full((1, head.quantiles), 1.0 / head.quantiles)
    return _weighed(tracer, head, outputs, np.kron(np.eye(head.num_actions), share), mask)


def _implicit(tracer: Tracer, head: ImplicitQuantileHead, outputs: str, mask: str | None) -> str:
    one = np.eye(head.num_actions, head.num_actions + 1) / head.points  # without the fraction
    return _weighed(tracer, head, outputs, np.tile(one, head.points), mask)


def _weighed(tracer: Tracer, head: QHead, x: str, weight: np.ndarray, mask: str | None) -> str:
    """The best by the values `weight @ x`."""
    constants = tracer.constant(weight.astype(np.float32)), tracer.constant(np.zeros(head.num_actions, np.float32))
    return _index(tracer, head, tracer.add("linear", (x, *constants), (head.num_actions,)), mask)


def _indices(tracer: Tracer, head: MultiCategoricalHead, outputs: str, mask: str | None) -> str:
    sizes = tuple(head.real.sum(dim=-1).tolist())
    return _choice(tracer, outputs, mask, sizes, head.shape, head.start.cpu().numpy())


def _bits(tracer: Tracer, head: BernoulliHead, outputs: str, mask: str | None) -> str:
    return tracer.reshape(tracer.add("positive", (outputs,), (head.width,), "int8"), head.shape)


def _means(tracer: Tracer, head: BoxHead, outputs: str, mask: str | None) -> str:
    return _numbers(tracer, head, tracer.slice(outputs, 0, head.size))


def _squashed(tracer: Tracer, head: BoxHead, outputs: str, mask: str | None) -> str:
    return _numbers(tracer, head, tracer.unary("tanh", tracer.slice(outputs, 0, head.size)))


def _numbers(tracer: Tracer, head: BoxHead, value: str) -> str:
    """From units in which [-1, 1] is the Box to an action within its bounds."""
    scaled = tracer.with_constant("multiply", value, head.scale)
    clipped = _clipped(tracer, tracer.with_constant("add", scaled, head.middle), head.low, head.high)
    return tracer.cast(tracer.reshape(clipped, head.shape), str(head.env_dtype).removeprefix("torch."))


def _choice(
    tracer: Tracer, outputs: str, mask: str | None, sizes: tuple[int, ...], shape: tuple[int, ...], start: np.ndarray
) -> str:
    inputs = (outputs,) if mask is None else (outputs, mask)
    chosen = tracer.add("choose", inputs, shape, "int64", sizes=sizes)
    return tracer.with_constant("add", chosen, start, "int64")


# class of a policy head -> what notes down how it chooses
HEADS: dict[type[Head], Callable[[Tracer, Any, str, str | None], str]] = {
    QHead: _index,
    CategoricalValueHead: _atoms,
    QuantileHead: _quantiles,
    ImplicitQuantileHead: _implicit,
    CategoricalHead: _index,
    MultiCategoricalHead: _indices,
    BernoulliHead: _bits,
    GaussianHead: _means,
    SquashedGaussianHead: _squashed,
    DeterministicHead: _squashed,
}
