"""An existing policy for new spaces: which of its layers fit, and which must be replaced by fresh ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from rlab.errors import UsageError
from rlab.networks.continuous_heads import GaussianHead
from rlab.networks.heads import build_head
from rlab.networks.images import image_parts
from rlab.networks.layers import ACTIVATIONS
from rlab.networks.merging import merged_spec, named_layers
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Box, Discrete, Masked, Space, choices, feature_shape, leaves
from rlab.networks.spec import LayerSpec, NetworkSpec
from rlab.networks.value_heads import ImplicitQuantileHead, QHead
from rlab.types import Json

IMPLICIT = "implicit_quantiles"
OUTPUT_KINDS = ("linear", "dueling", IMPLICIT)  # what can be the last layer with weights of a policy, before `log_std`
NORMS = ("layer_norm", "batch_renorm")
WEIGHTLESS = (*ACTIVATIONS, "dropout", "flatten", "pick", "pick_image")


@dataclass(frozen=True)
class Refit:
    """A policy for new spaces, and which of its layers come from the source.

    Names are those of the state dict: `network.4`, `network.3.value.0`, `preprocess`.
    """

    spec: PolicySpec
    kept: tuple[str, ...]  # layers with weights that are taken over
    fresh: dict[str, str]  # layer -> why it starts fresh: "5 inputs instead of 4"

    @property
    def replaced(self) -> tuple[str, ...]:
        """The fresh layers with the reasons, to be printed."""
        return tuple(f"{name} ({why})" for name, why in self.fresh.items())


def refit_policy(
    source: PolicySpec,
    obs_space: Space,
    action_space: Space,
    head: Json,
    heads: Sequence[str],
    log_std: float | None = None,
    output_gain: float | None = None,
) -> Refit:
    """The source's policy for these spaces, with as many of its layers as fit. Adapters are merged.

    Args:
        head: the policy head that the agent would use, as plain data.
        heads: the kinds of head that it can learn with. The source's is kept if it is one of these, with its output
            layer, where the actions have the same meaning; the epsilon of Q values is always the agent's.
        log_std: initial value of log standard deviations that do not depend on the observation, for a fresh output
            layer. None: as in the source.
        output_gain: of a fresh output layer's initial weights. None: the source's.

    Raises:
        UsageError: the bodies have nothing in common (a vector against an image), an image is too small for the
            convolutions, the head does not suit the actions, or a foreign layer cannot be adapted.
    """
    spec = _without_deviations(replace(source, network=merged_spec(source.network)), head)
    walk = _Walk(_changed_features(spec.obs_space, obs_space))
    kept_head = {**spec.head, **(head if spec.head["kind"] == head["kind"] else _epsilon(head))}
    reason = _new_output(spec, action_space, head, kept_head, heads)
    if reason is None:
        layers, head = walk.through(spec.network.layers), kept_head
    else:
        built = build_head(head, action_space, trust=True)  # the agent that names it runs already
        output = _Output(built.width, reason, output_gain)
        if isinstance(built, QHead):
            points = built.points if isinstance(built, ImplicitQuantileHead) else 0
            output = replace(output, actions=built.num_actions, per_action=built.per_action, points=points)
        deviations = _initial_log_std(spec, log_std) if isinstance(built, GaussianHead) else None
        layers = _with_output(walk, spec.network.layers, output, deviations)
    network = NetworkSpec(layers)
    preprocess, why = _new_preprocess(spec, obs_space)
    if why is not None:
        walk.fresh["preprocess"] = why
    names = [name for name, layer in named_layers(network) if layer.kind not in WEIGHTLESS]
    return Refit(
        PolicySpec(obs_space, action_space, preprocess, network, dict(head)),
        tuple(name for name in names if name not in walk.fresh),
        walk.fresh,
    )


@dataclass(frozen=True)
class _Output:
    """What a fresh output layer must give."""

    width: int
    reason: str
    gain: float | None  # of its initial weights; None: as the layer in its place
    actions: int = 0  # of Q values: how many there are
    per_action: int = 1  # how many outputs describe one of them: the width of the value stream of `dueling`
    points: int = 0  # how many quantiles a layer of implicit quantiles gives; 0 for any other layer


@dataclass
class _Walk:
    """Follows the features through the layers and records the layers that cannot stay.

    `shape` is the shape of the next layer's input, None where that is the same as in the source.
    """

    shape: tuple[int, ...] | None
    fresh: dict[str, str] = field(default_factory=dict)
    last: str = ""  # the last layer with weights that it came through

    def through(self, layers: Sequence[LayerSpec], prefix: str = "network") -> tuple[LayerSpec, ...]:
        """The layers with inputs that fit."""
        return tuple(self.step(f"{prefix}.{index}", layer) for index, layer in enumerate(layers))

    def step(self, name: str, layer: LayerSpec) -> LayerSpec:
        """One layer with an input that fits; what normalises its outputs goes with the layer with weights before it."""
        if layer.kind in NORMS:
            return self._norm(name, layer)
        if layer.kind not in WEIGHTLESS:
            self.last = name
        if self.shape is None or (layer.kind in WEIGHTLESS and layer.kind != "flatten"):
            return layer
        if layer.kind == "flatten":
            self.shape = (prod(self.shape),)
            return layer
        if layer.kind == "linear":
            layer, self.shape = self._fitted(name, layer, "in_features", "inputs"), None
            return layer
        if layer.kind == "conv2d":
            return self._convolution(name, layer)
        if layer.kind == "dueling":
            return self._streams(name, layer)
        raise UsageError(f"{name} is a {layer.kind}: rlab cannot fit that to features of another shape, {self.shape}.")

    def to_output(self, layers: Sequence[LayerSpec], output: _Output, prefix: str) -> tuple[LayerSpec, ...]:
        """As `through`, with the last layer that has weights fresh; of `dueling`, that of each stream."""
        last = max((index for index, layer in enumerate(layers) if layer.kind not in WEIGHTLESS), default=0)
        name, layer = f"{prefix}.{last}", layers[last]
        if layer.kind not in OUTPUT_KINDS:
            raise UsageError(f"{name}, the output layer, is a {layer.kind}; rlab can replace a linear layer only.")
        if (layer.kind == IMPLICIT) != (output.points > 0):
            raise UsageError(
                f"{name}, the output layer, is a {layer.kind}; rlab cannot put a layer of another kind in its place, "
                "and iqn needs one of its own. Train from scratch, or start from a run with the same value_head."
            )
        before = self.through(layers[:last], prefix)
        fresh = {"linear": self._output, "dueling": self._streams, IMPLICIT: self._quantiles}[layer.kind]
        return (*before, fresh(name, layer, output), *layers[last + 1 :])

    def _quantiles(self, name: str, layer: LayerSpec, output: _Output) -> LayerSpec:
        """Returns of other actions; the embedding of quantiles stays."""
        layer = self.step(name, layer)
        inner = replace(output, width=output.actions, points=0)
        values = self.to_output(layer.args["values"], inner, f"{name}.values")
        return LayerSpec(layer.kind, {**layer.args, "values": values, "points": output.points})

    def _output(self, name: str, layer: LayerSpec, output: _Output) -> LayerSpec:
        layer = self.step(name, layer)
        inputs = [self.fresh[name]] if name in self.fresh else []
        self.fresh[name] = " and ".join([*inputs, output.reason])
        gain = {} if output.gain is None else {"gain": output.gain}
        return LayerSpec(layer.kind, {**layer.args, "out_features": output.width, **gain})

    def _norm(self, name: str, layer: LayerSpec) -> LayerSpec:
        if self.shape is not None:
            return self._fitted(name, layer, "features", "inputs")
        if self.last in self.fresh:
            self.fresh[name] = f"after {self.last}"
        return layer

    def _convolution(self, name: str, layer: LayerSpec) -> LayerSpec:
        assert self.shape is not None
        channels, height, width = self.shape
        kernel, stride = layer.args["kernel_size"], layer.args.get("stride", 1)
        if min(height, width) < kernel:
            raise UsageError(f"{name}, a {kernel}x{kernel} convolution, does not fit an image of {height}x{width}.")
        self.shape = (channels,)
        layer = self._fitted(name, layer, "in_channels", "input channels")
        self.shape = (layer.args["out_channels"], (height - kernel) // stride + 1, (width - kernel) // stride + 1)
        return layer

    def _streams(self, name: str, layer: LayerSpec, output: _Output | None = None) -> LayerSpec:
        """Each stream of `dueling` sees the same; its value is as wide as one action (Wang et al. 2016, equation 9)."""
        streams, shape = {}, self.shape
        for key, value in layer.args.items():
            self.shape, prefix = shape, f"{name}.{key}"
            if output is None:
                streams[key] = self.through(value, prefix)
            else:
                one = replace(output, width=output.per_action) if key == "value" else output
                streams[key] = self.to_output(value, one, prefix)
        return LayerSpec(layer.kind, streams)

    def _fitted(self, name: str, layer: LayerSpec, size: str, what: str) -> LayerSpec:
        """The layer, fresh where its input has another size."""
        assert self.shape is not None
        new, old = self.shape[-1], layer.args[size]
        if new == old:
            return layer
        self.fresh[name] = f"{new} {what} instead of {old}"
        return LayerSpec(layer.kind, {**layer.args, size: new})


def _epsilon(head: Json) -> dict[str, Any]:
    """The part of the head of Q values that belongs to the agent."""
    return {"epsilon": head["epsilon"]} if "epsilon" in head else {}


def _changed_features(old: Space, new: Space) -> tuple[int, ...] | None:
    """The shape of the new features; None where it is the old one."""
    before, now = feature_shape(old), feature_shape(new)
    if len(before) != len(now):
        kinds = {1: "a vector", 3: "an image"}
        raise UsageError(
            f"the source sees {kinds[len(before)]}, {old}, and the new observations are {kinds[len(now)]}, {new}: "
            "no layer of its body fits."
        )
    if image_parts(old) != image_parts(new):
        raise UsageError(f"the source has a branch for each image of {old}; those of {new} are others, and do not fit.")
    return None if before == now else now


def _new_output(
    source: PolicySpec, action_space: Space, head: Json, kept_head: Json, heads: Sequence[str]
) -> str | None:
    """Why the output layer cannot stay; None where it can, with the policy head `kept_head`.

    It stays where each output keeps its meaning: bounds of a Box may differ, since outputs are in units in which [-1,
    1] is the Box, and so may the first integer of discrete actions. The settings of a head may ask for another number
    of outputs, such as more quantiles of each return.
    """
    if source.head["kind"] not in heads:
        return f"head {head['kind']} instead of {source.head['kind']}"
    old = source.action_space
    if type(old) is type(action_space) and old.shape == action_space.shape and choices(old) == choices(action_space):
        # trust: the policy was opened already, and its head with it
        before, now = (build_head(each, action_space, trust=True).width for each in (source.head, kept_head))
        return None if before == now else f"{now} outputs of the policy head instead of {before}"
    if isinstance(old, Discrete) and isinstance(action_space, Discrete):
        return f"{action_space.n} actions instead of {old.n}"
    return f"actions {action_space} instead of {old}"


def _without_deviations(source: PolicySpec, head: Json) -> PolicySpec:
    """A squashed normal policy as the deterministic one of its means, where that is the `head` that is wanted and its
    deviations are a layer of their own."""
    layers = source.network.layers
    if (source.head["kind"], head["kind"], layers[-1].kind) != ("squashed_gaussian", "deterministic", "log_std"):
        return source
    return replace(source, network=replace(source.network, layers=layers[:-1]), head=dict(head))


def _initial_log_std(source: PolicySpec, wanted: float | None) -> float | None:
    """Where the log standard deviations of a fresh output begin; None where the network gives them."""
    last = source.network.layers[-1]
    if wanted is None and last.kind == "log_std":
        return float(last.args.get("initial", 0.0))
    return wanted


def _with_output(
    walk: _Walk, layers: Sequence[LayerSpec], output: _Output, log_std: float | None
) -> tuple[LayerSpec, ...]:
    """The layers with fresh outputs, followed by fresh deviations where `log_std` is given."""
    below = layers[:-1] if layers[-1].kind == "log_std" else layers
    if log_std is None:
        return walk.to_output(below, output, "network")
    means = output.width // 2
    found = walk.to_output(below, replace(output, width=means), "network")
    walk.fresh[f"network.{len(found)}"] = output.reason
    return (*found, LayerSpec("log_std", {"features": means, "initial": log_std}))


def _new_preprocess(source: PolicySpec, obs_space: Space) -> tuple[dict[str, Any], str | None]:
    """How the new observations are scaled, and why that is not as before (None: it is)."""
    old = source.preprocess
    if obs_space == source.obs_space or old["scaling"] == "none":
        return old, None
    inner = obs_space.obs if isinstance(obs_space, Masked) else obs_space
    if not any(isinstance(leaf, Box) and not leaf.is_image for leaf in leaves(inner)):
        return {"scaling": "none", "scale": None}, f"no {old['scaling']} scaling: the new observations hold no numbers"
    fresh = {"running": "running statistics from nothing", "fixed": "fixed scaling by the new space's bounds"}
    return {"scaling": old["scaling"], "scale": None}, f"{fresh[old['scaling']]}: the observation space is another"
