"""Bodies and heads: which layers suit which observations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlab.errors import UsageError, unknown
from rlab.networks.bounds import MIN_SIDE
from rlab.networks.images import ImagePart, image_parts
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.memory_bodies import MemorySettings
from rlab.networks.merging import changed, merged_spec
from rlab.networks.own_bodies import Body, Own, own_body
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Space, feature_shape
from rlab.networks.spec import LayerSpec, NetworkSpec

VECTOR_HIDDEN = (64, 64)
NATURE_MIN_SIDE = 36  # pixels; with less, the third convolution has nothing to look at
BRANCH_WIDTHS = (256, 128)  # behind the convolutions of a large or small image among other parts; SB3 has 256


@dataclass(frozen=True)
class BodySettings:
    """The part of an agent's config that describes its networks."""

    hidden: tuple[int, ...] | None = None  # widths; None: 64 64 for vectors, 512 or 128 after convolutions
    activation: str = "relu"
    layer_norm: bool = False  # after every hidden linear layer, before the activation
    batch_renorm: bool = False  # before every linear layer, the first and the last among them; as in CrossQ
    dropout: float = 0.0  # share of hidden units set to zero in training, behind the activation
    dropout_first: bool = False  # before layer_norm and the activation instead; as in DroQ
    init: str = "pytorch"
    gain: float = 1.0  # of the initial weights of hidden layers
    own: Own | None = None  # a function of the user's makes the body; its layers stand in the place of all the above
    memory: MemorySettings | None = None  # what remembers, behind all the above

    @classmethod
    def of(cls, config: Any, **others: Any) -> "BodySettings":
        """Those of an agent's config, `rlab.learning.common_config.NetworkConfig`, and the `others`."""
        found = {"own": Own.of(config), "memory": MemorySettings.of(config), **others}
        return cls(config.hidden, config.activation, config.layer_norm, init=config.init, **found)


def mlp_spec(features: int, outputs: int, body: BodySettings, output_gain: float = 1.0) -> NetworkSpec:
    """`features` numbers to `outputs` numbers through hidden layers, 64 64 where the settings name no widths.

    Raises:
        UsageError: a setting is out of range.
    """
    check_settings(body)
    hidden, width = hidden_layers(features, VECTOR_HIDDEN if body.hidden is None else body.hidden, body)
    return NetworkSpec((*hidden, linear_layer(width, outputs, body.init, output_gain)))


def hidden_layers(
    features: int, widths: Sequence[int], body: BodySettings, renormalised: bool = False
) -> tuple[list[LayerSpec], int]:
    """Linear layers, each with what follows it by the settings, and the width of the last.

    Args:
        renormalised: the features come out of such layers.
    """
    fresh = body.batch_renorm and not renormalised
    layers: list[LayerSpec] = [LayerSpec("batch_renorm", {"features": features})] if fresh else []
    for width in widths:
        layers.append(linear_layer(features, width, body.init, body.gain))
        dropout = [LayerSpec("dropout", {"p": body.dropout})] if body.dropout else []
        layers += dropout if body.dropout_first else []
        if body.layer_norm:
            layers.append(LayerSpec("layer_norm", {"features": width}))
        layers.append(LayerSpec(body.activation))
        layers += [] if body.dropout_first else dropout
        if body.batch_renorm:
            layers.append(LayerSpec("batch_renorm", {"features": width}))
        features = width
    return layers, features


def linear_layer(in_features: int, out_features: int, init: str = "pytorch", gain: float = 1.0) -> LayerSpec:
    """A linear layer whose weights are drawn as `init` says, orthogonal ones with this gain."""
    return LayerSpec("linear", {"in_features": in_features, "out_features": out_features, **_weights(init, gain)})


def q_network_spec(
    obs_space: Space,
    num_actions: int,
    body: BodySettings,
    dueling: bool = False,
    per_action: int = 1,
    implicit: Mapping[str, int] | None = None,
) -> NetworkSpec:
    """One Q value per action, or `per_action` numbers that describe its return, those of one action behind each other.

    With `dueling` the last hidden layer is split in two streams, one for the value and one for the advantages, each as
    wide as that layer (Wang et al. 2016, figure 1). What remembers comes before the streams.

    Args:
        implicit: the settings of an `ImplicitQuantiles` layer, whose returns are made of the last hidden layer and what
            follows (Dabney et al. 2018b, section 3); None: there is none.

    Raises:
        UsageError: no body suits the observation space, or a setting is out of range.
    """
    before, hidden = entrance(obs_space, body)
    inside = 1 if dueling or implicit is not None else 0  # hidden layers that belong to the last layer
    trunk, features = _trunk(before.features, hidden[: len(hidden) - inside], body)
    ends = []
    for outputs in (per_action, num_actions * per_action) if dueling else (num_actions * per_action,):
        stream, width = hidden_layers(features, hidden[len(hidden) - inside :], body, renormalised=True)
        ends.append((*stream, linear_layer(width, outputs, body.init)))
    last = (LayerSpec("dueling", {"value": ends[0], "advantage": ends[1]}),) if dueling else ends[0]
    if implicit is not None:
        embedding = linear_layer(implicit["cosines"], features, body.init), LayerSpec("relu")
        last = (LayerSpec("implicit_quantiles", {"embedding": embedding, "values": last, **implicit}),)
    return NetworkSpec((*before.layers, *trunk, *last), before.drawn)


def noisy_policy(spec: PolicySpec, config: Any) -> PolicySpec:
    """The policy with noise on the weights of all its linear layers, where the settings ask for it.

    Convolutions have none (Fortunato et al. 2018, section 3.2), nor have modules of the user's own.
    """
    if not config.noisy:
        return spec

    def noisy(_: str, layer: LayerSpec) -> LayerSpec:
        return (
            LayerSpec("noisy_linear", {**layer.args, "sigma": config.noisy_sigma}) if layer.kind == "linear" else layer
        )

    return replace(spec, network=changed(spec.network, noisy))


def actor_network_spec(
    obs_space: Space, width: int, body: BodySettings, output_gain: float = 0.01, log_std: float | None = None
) -> NetworkSpec:
    """The `width` outputs that a policy head reads.

    Args:
        output_gain: of the last layer's initial weights; small, so that a policy starts out near uniform, or with means
            near 0 (Andrychowicz et al. 2021, section 3.2).
        log_std: where given, the second half of the outputs are log standard deviations that start here and that no
            observation changes.

    Raises:
        UsageError: no body suits the observation space, or a setting is out of range.
    """
    if log_std is None:
        return _with_output(obs_space, width, body, output_gain)
    means = width // 2
    spec = _with_output(obs_space, means, body, output_gain)
    return replace(spec, layers=(*spec.layers, LayerSpec("log_std", {"features": means, "initial": log_std})))


def critic_like(actor: NetworkSpec, output_gain: float = 1.0) -> NetworkSpec:
    """One output, the value of the observation, from a body like that of `actor`, without its adapters."""
    layers = merged_spec(actor).layers
    last = max(index for index, layer in enumerate(layers) if layer.kind in ("linear", "dueling"))
    return NetworkSpec((*layers[:last], *critic_head_spec(actor, output_gain).layers), actor.drawn)


def critic_head_spec(actor: NetworkSpec, output_gain: float = 1.0) -> NetworkSpec:
    """One output, the value, from the features that the last layer of `actor` reads; a dueling one has its stream."""
    last = next(layer for layer in reversed(merged_spec(actor).layers) if layer.kind in ("linear", "dueling"))
    if last.kind == "dueling":
        return NetworkSpec(last.args["value"])
    return NetworkSpec((linear_layer(last.args["in_features"], 1, last.args["init"], output_gain),))


def _with_output(obs_space: Space, outputs: int, body: BodySettings, gain: float) -> NetworkSpec:
    before, hidden = entrance(obs_space, body)
    trunk, features = _trunk(before.features, hidden, body)
    layers = (*before.layers, *trunk, linear_layer(features, outputs, body.init, gain))
    return NetworkSpec(layers, before.drawn)


def _trunk(features: int, widths: Sequence[int], body: BodySettings) -> tuple[list[LayerSpec], int]:
    """Hidden layers and behind them what remembers (Hausknecht and Stone 2015, figure 2), and the width of the last."""
    layers, width = hidden_layers(features, widths, body)
    return (layers, width) if body.memory is None else ([*layers, *body.memory.layers(width)], body.memory.size)


def entrance(obs_space: Space, body: BodySettings) -> tuple[Body, tuple[int, ...]]:
    """What comes before the hidden layers, convolutions or a body of the user's own; and the widths of those layers."""
    check_settings(body)
    if body.own is not None:
        return own_body(obs_space, body.own, body.batch_renorm), ()
    shape = feature_shape(obs_space)
    if len(shape) == 1:
        images, widths = image_parts(obs_space), VECTOR_HIDDEN if body.hidden is None else body.hidden
        if not images:
            return Body((), shape[0]), widths
        branches, features = _branches(images, shape[0], body)
        return Body((branches,), features), widths
    channels, height, width = shape
    if min(height, width) < MIN_SIDE:
        raise UsageError(
            f"an image of {height}x{width} is too small for a 3x3 convolution. "
            "Flatten it with --wrapper FlattenObservation."
        )
    layers, features = _convolutions(channels, height, width, body)
    default = (512,) if min(height, width) >= NATURE_MIN_SIDE else (128,)
    return Body(tuple(layers), features), default if body.hidden is None else body.hidden


def _convolutions(channels: int, height: int, width: int, body: BodySettings) -> tuple[list[LayerSpec], int]:
    """From an image to a vector, and how long that is."""
    large, small = [(32, 8, 4), (64, 4, 2), (64, 3, 1)], [(16, 3, 1)]  # Mnih et al. 2015, Methods; as in MinAtar
    plan = large if min(height, width) >= NATURE_MIN_SIDE else small  # Young and Tian 2019, section 3
    layers: list[LayerSpec] = []
    for out_channels, kernel, stride in plan:
        args = {"in_channels": channels, "out_channels": out_channels, "kernel_size": kernel, "stride": stride}
        layers += [LayerSpec("conv2d", {**args, **_weights(body.init, body.gain)}), LayerSpec(body.activation)]
        channels, height, width = out_channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return [*layers, LayerSpec("flatten")], channels * height * width


def _branches(images: tuple[ImagePart, ...], size: int, body: BodySettings) -> tuple[LayerSpec, int]:
    """A branch for each image in a vector of `size` features, one for all other features, and how many come out."""
    branches: list[tuple[LayerSpec, ...]] = []
    others, begin, features = [], 0, 0
    for image in images:
        height, width, channels = image.box.image_size
        pixels = {"first": image.first, "shape": image.box.shape, "channels": image.box.channels}
        convolutions, flat = _convolutions(channels, height, width, body)
        out = BRANCH_WIDTHS[0] if min(height, width) >= NATURE_MIN_SIDE else BRANCH_WIDTHS[1]
        joined = [linear_layer(flat, out, body.init, body.gain), LayerSpec(body.activation)]
        branches.append((LayerSpec("pick_image", pixels), *convolutions, *joined))
        others.append((begin, image.first))
        begin, features = image.first + height * width * channels, features + out
    ranges = tuple((first, last) for first, last in (*others, (begin, size)) if first < last)
    if ranges:
        branches.append((LayerSpec("pick", {"ranges": ranges}),))
        features += sum(last - first for first, last in ranges)
    return LayerSpec("branches", {"branches": tuple(branches)}), features


def _weights(init: str, gain: float) -> dict[str, str | float]:
    """How a layer's initial weights are drawn; a gain of 1 is left out."""
    return {"init": init} if gain == 1.0 else {"init": init, "gain": gain}


def check_settings(body: BodySettings) -> None:
    """Refuse settings that no body can be built of.

    Raises:
        UsageError: one is out of its range, or names an activation that is not there.
    """
    if body.activation not in ACTIVATIONS:
        raise unknown("activation", body.activation, ACTIVATIONS)
    if not 0.0 <= body.dropout < 1.0:
        raise UsageError(f"dropout {body.dropout} must be a share in [0, 1).")
    if not 0.0 < body.gain < float("inf"):
        raise UsageError(f"gain {body.gain} of the hidden layers must be above 0.")
    if any(width < 1 for width in body.hidden or ()):
        raise UsageError(f"hidden widths {body.hidden} must all be 1 or more.")
