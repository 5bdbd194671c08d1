"""From a function of the user's to the layers of a body: stacked layers where rlab has them, else `OwnBody`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from rlab.errors import RlabError, UsageError
from rlab.networks import memory
from rlab.networks.describe import spec_of
from rlab.networks.own import OwnBody, check_without_batches, first_line, made, plain_name, whose
from rlab.networks.policy import Policy
from rlab.networks.spaces import Space, feature_shape
from rlab.networks.spec import LayerSpec, NetworkSpec, build
from rlab.networks.stacking import stack
from rlab.types import LOCAL

ROWS = 3  # of the observations on which a body is tried


@dataclass(frozen=True)
class Own:
    """The function that makes a body, by name, and the agent's settings, which it may read."""

    name: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, config: Any) -> "Own | None":
        """The function that an agent's config names; None where it names none."""
        return None if config.network is None else cls(config.network, asdict(config))


@dataclass(frozen=True)
class Body:
    """Layers from the features of an observation to a vector of `features` numbers."""

    layers: tuple[LayerSpec, ...]
    features: int
    drawn: "Drawn | None" = None


@dataclass(frozen=True)
class Drawn:
    """Draws the first weights of a body's layers as the user's function does, instead of by the layers' own rules."""

    name: str
    given: Mapping[str, Any]

    @torch.no_grad()
    def __call__(self, network: nn.Sequential, generators: Sequence[torch.Generator]) -> None:
        words = [int(torch.randint(2**62, (), generator=generator)) for generator in generators]
        fresh = stack([_flat(made(self.name, self.given, word)) for word in words])
        ours = network[: len(fresh)]  # type: ignore[arg-type]
        for name, theirs in fresh.named_parameters():  # layers that were made noisy since have further ones
            ours.get_parameter(name).copy_(theirs)


def own_body(obs_space: Space, own: Own, renormalised: bool = False) -> Body:
    """The body that the user's function makes for these observations, tried on a few of them.

    Args:
        renormalised: the agent's own bodies have batch renormalisation, and a `NetworkSpec` may have it.

    Raises:
        UsageError: it is neither a module nor a `NetworkSpec`, does not take the observations, or cannot be one body of
            many.
    """
    shape = feature_shape(obs_space)
    given = {"obs_space": obs_space.to_json(), "shape": list(shape), "settings": _plain(own.settings)}
    found = made(own.name, given, 0)
    if isinstance(found, NetworkSpec):
        return _of_spec(found, own.name, shape, renormalised)
    if not isinstance(found, nn.Module):
        raise UsageError(
            f"the network's function {own.name!r} returned a {type(found).__name__}; it must return a torch.nn.Module "
            "for one member, or a NetworkSpec."
        )
    width, is_vector = _tried(found, own.name, shape)
    flatten = () if is_vector else (LayerSpec("flatten"),)
    if isinstance(found, nn.Sequential):
        try:
            return Body((*spec_of(_flat(found)).layers, *flatten), width, Drawn(own.name, given))
        except RlabError:
            pass  # a layer, or a setting of one, that has no stacked counterpart
    return Body((LayerSpec("own", {"builder": own.name, "given": given}), *flatten), width)


def network_notes(policy: Policy, name: str | None) -> list[str]:
    """What to tell people about a network of their own at the beginning of a run."""
    if name is None:
        return []
    found = [layer for layer in policy.network.modules() if isinstance(layer, OwnBody)]
    lines = [f"network {plain_name(name)}: stacked layers"]
    if found:
        way = "one after another, since torch.vmap does not take them" if found[0].one_by_one else "under torch.vmap"
        way = "a single member" if found[0].members == 1 else f"members run {way}"
        faster = "an nn.Sequential of Linear, Conv2d ... would be faster"
        lines = [f"network {plain_name(name)}: {found[0].what}, {way}; {faster}"]
    if name.startswith(LOCAL):
        what = "load and resume" if found else "resume"
        lines.append(f"only this process can {what} it by itself; later, give the function again: network=my_function")
    return lines


def _of_spec(spec: NetworkSpec, name: str, shape: tuple[int, ...], renormalised: bool) -> Body:
    try:
        network = build(spec, [0], trust=True).eval()
        y, _ = memory.step(network, torch.zeros(1, ROWS, *shape), memory.initial_state(network, ROWS))
    except Exception as error:
        raise UsageError(f"{whose(name)} does not take features {shape}: {first_line(error)}") from error
    if not renormalised:
        check_without_batches(network, name)
    if y.dim() < 3 or y.shape[:2] != (1, ROWS):
        raise UsageError(
            f"{whose(name)} gave {tuple(y.shape)} for {ROWS} observations of one member; expected "
            f"[1, {ROWS}, features]."
        )
    flatten = () if y.dim() == 3 else (LayerSpec("flatten"),)
    return Body((*spec.layers, *flatten), prod(y.shape[2:]))


def _tried(module: nn.Module, name: str, shape: tuple[int, ...]) -> tuple[int, bool]:
    """How many numbers come out for one observation, and whether they are a vector.

    Raises:
        UsageError: the module fails, keeps a state, mixes rows, or has a parameter that does nothing.
    """
    before = module.training
    module.eval()
    x = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(0))
    try:
        y, again, alone = module(x), module(x), module(x[:1])
    except Exception as error:
        raise UsageError(f"{whose(name)} does not take features {shape}: {first_line(error)}") from error
    if not isinstance(y, Tensor) or y.dim() < 2 or len(y) != ROWS or not y.is_floating_point():
        shape_found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise UsageError(f"{whose(name)} gave {shape_found} for {ROWS} observations; expected [{ROWS}, features].")
    if y.dtype != torch.float32:
        raise UsageError(f"{whose(name)} gave numbers of {y.dtype}; expected float32: end with .float().")
    if not torch.allclose(y, again, rtol=1e-3, atol=1e-4):
        raise UsageError(
            f"{whose(name)} gives other outputs at every call: it keeps a state, or draws random numbers outside "
            "training. Its outputs must depend on the observation alone."
        )
    if not torch.allclose(y[:1], alone, rtol=1e-3, atol=1e-4):
        raise UsageError(
            f"{whose(name)} gives other outputs for an observation when others are in the batch; each row must be "
            "computed by itself."
        )
    learned = {key: value for key, value in module.named_parameters() if value.requires_grad}
    if learned:
        found = torch.autograd.grad(y.sum(), list(learned.values()), allow_unused=True)
        idle = [key for key, gradient in zip(learned, found, strict=True) if gradient is None]
        if idle:
            raise UsageError(f"{whose(name)} has parameters that its output does not depend on: {idle[0]}.")
    module.train(before)
    return prod(y.shape[1:]), y.dim() == 2


def _flat(module: Any) -> nn.Sequential:
    """A sequence without sequences inside, and without layers that do nothing."""
    layers: list[nn.Module] = []
    for layer in module:
        if type(layer) is nn.Sequential:
            layers += _flat(layer)
        elif type(layer) is not nn.Identity:
            layers.append(layer)
    return nn.Sequential(*layers)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
