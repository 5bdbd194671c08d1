"""Bodies and heads: which layers suit which observations."""

from dataclasses import dataclass

from rlab.errors import UsageError, unknown
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.spaces import Box, Space
from rlab.networks.spec import LayerSpec, NetworkSpec

NATURE_MIN_SIDE = 36  # pixels; with less, the third convolution has nothing to look at


@dataclass(frozen=True)
class BodySettings:
    """What an agent's config says about its networks."""

    hidden: tuple[int, ...] | None = None  # widths; None: 64 64 for vectors, 512 or 128 after convolutions
    activation: str = "relu"
    layer_norm: bool = False  # after every hidden linear layer, before the activation
    dropout: float = 0.0  # share of hidden units set to zero in training
    init: str = "pytorch"


def q_network_spec(obs_space: Space, num_actions: int, body: BodySettings, dueling: bool = False) -> NetworkSpec:
    """One Q value per action.

    With `dueling` the last hidden layer is split in two streams, one for the value and one for the advantages, each as
    wide as that layer (Wang et al. 2016, figure 1).

    Raises:
        UsageError: no body suits the observation space, or a setting is out of range.
    """
    convolutions, features, hidden = _entrance(obs_space, body)
    if not dueling:
        trunk, features = _mlp(features, hidden, body)
        return NetworkSpec((*convolutions, *trunk, _linear(features, num_actions, body)))
    trunk, features = _mlp(features, hidden[:-1], body)
    streams = []
    for outputs in (1, num_actions):
        stream, width = _mlp(features, hidden[-1:], body)
        streams.append((*stream, _linear(width, outputs, body)))
    head = LayerSpec("dueling", {"value": streams[0], "advantage": streams[1]})
    return NetworkSpec((*convolutions, *trunk, head))


def _entrance(obs_space: Space, body: BodySettings) -> tuple[tuple[LayerSpec, ...], int, tuple[int, ...]]:
    """The convolutions, if any; the features behind them; the hidden widths that follow."""
    _check(body)
    if not isinstance(obs_space, Box) or len(obs_space.shape) not in (1, 3):
        # Not the space itself: it may state one bound per element.
        found = f"{obs_space.dtype} of shape {obs_space.shape}" if isinstance(obs_space, Box) else str(obs_space)
        raise UsageError(
            f"no network body for observations {found}; vectors and images (channels last, uint8 or bool) have one. "
            "Flatten others with --wrapper FlattenObservation."
        )
    if not obs_space.is_image:
        if len(obs_space.shape) == 3:
            raise UsageError(
                f"a 3-D observation of {obs_space.dtype} is no image; images are uint8 or bool, channels last. "
                "Flatten it with --wrapper FlattenObservation."
            )
        return (), obs_space.shape[0], (64, 64) if body.hidden is None else body.hidden
    height, width, channels = obs_space.shape
    if min(height, width) >= NATURE_MIN_SIDE:
        plan, last = [(32, 8, 4), (64, 4, 2), (64, 3, 1)], (512,)  # Mnih et al. 2015, Methods
    elif min(height, width) >= 3:
        plan, last = [(16, 3, 1)], (128,)  # Young and Tian 2019 (MinAtar), section 3
    else:
        raise UsageError(
            f"an image of {height}x{width} is too small for a 3x3 convolution. "
            "Flatten it with --wrapper FlattenObservation."
        )
    layers: list[LayerSpec] = []
    for out_channels, kernel, stride in plan:
        args = {"in_channels": channels, "out_channels": out_channels, "kernel_size": kernel, "stride": stride}
        layers += [LayerSpec("conv2d", {**args, "init": body.init}), LayerSpec(body.activation)]
        channels, height, width = out_channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    layers.append(LayerSpec("flatten"))
    return tuple(layers), channels * height * width, last if body.hidden is None else body.hidden


def _mlp(features: int, widths: tuple[int, ...], body: BodySettings) -> tuple[list[LayerSpec], int]:
    layers: list[LayerSpec] = []
    for width in widths:
        layers.append(_linear(features, width, body))
        if body.layer_norm:
            layers.append(LayerSpec("layer_norm", {"features": width}))
        layers.append(LayerSpec(body.activation))
        if body.dropout:
            layers.append(LayerSpec("dropout", {"p": body.dropout}))
        features = width
    return layers, features


def _linear(in_features: int, out_features: int, body: BodySettings) -> LayerSpec:
    return LayerSpec("linear", {"in_features": in_features, "out_features": out_features, "init": body.init})


def _check(body: BodySettings) -> None:
    if body.activation not in ACTIVATIONS:
        raise unknown("activation", body.activation, ACTIVATIONS)
    if not 0.0 <= body.dropout < 1.0:
        raise UsageError(f"dropout {body.dropout} must be a share in [0, 1).")
    if any(width < 1 for width in body.hidden or ()):
        raise UsageError(f"hidden widths {body.hidden} must all be 1 or more.")
