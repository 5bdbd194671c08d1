"""Policy heads: what a network's outputs say about actions.

A head is pure functions of tensors on their trailing dimensions. `act` draws nothing: a sample is the action that
perturbed outputs make the most likely, and the perturbation is passed in as noise, so that acting compiles and exports.
Actions have the form in which replay keeps them and agents learn from them; `to_env` gives what `env.step` takes.
"""

from collections.abc import Sequence
from math import prod
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlab.errors import UsageError, unknown
from rlab.networks import distributions as dist
from rlab.networks.bounds import inner_bounds, is_bound
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from rlab.types import Json

LOG_STD = (-10.0, 5.0)  # where log standard deviations are kept; float32 does not resolve actions any finer
EDGE = 1.0 - 1e-6  # the furthest from 0 that a tanh is inverted at
NODES = 16  # of the squashed Gaussian's entropy: 2e-5 nats off at standard deviation 1, 0.004 at 2, 0.06 at 4

AnySpace = TypeVar("AnySpace", Box, Discrete, MultiBinary, MultiDiscrete)


class Head(nn.Module):
    """What every head offers. It is a module so that its constants move along to a device; it has no parameters and
    nothing in the state dict.

    `width` is the number of network outputs, `mask_width` the bits of an action mask, None where the head takes none.
    A mask is bool `[..., mask_width]`, true where an action is allowed, and allows one action or more in each row.
    """

    width: int
    mask_width: int | None

    def act(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The greedy action: `outputs [..., width]` to `[..., *action]`.

        Raises:
            UsageError: a mask is given, and these actions take none.
        """
        raise NotImplementedError

    def sample(self, outputs: Tensor, generators: Sequence[torch.Generator], mask: Tensor | None = None) -> Tensor:
        """Actions as in training, drawn from one generator per member.

        `outputs` are `[S, B, width]` for S generators, `[B, width]` for one.
        """
        raise NotImplementedError

    def to_env(self, action: Tensor) -> Tensor:
        """What `env.step` accepts of an action that `act` or `sample` gave."""
        return action

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values), persistent=False)


class StochasticHead(Head):
    """A head whose outputs are the parameters of a distribution over actions.

    `noise` is the kind of noise that `act` wants, a name of `draw_noise`, and `noise_width` how many numbers of it.
    """

    noise: str
    noise_width: int

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """An action `[..., *action]`: a sample with `noise [..., noise_width]`, without it what noise of 0 gives."""
        raise NotImplementedError

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """The log probability (or density) `[...]` of actions as `act` gave them, in nats; -inf for a forbidden one."""
        raise NotImplementedError

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The entropy `[...]` of the action, in nats."""
        raise NotImplementedError

    def sample(self, outputs: Tensor, generators: Sequence[torch.Generator], mask: Tensor | None = None) -> Tensor:
        lead = outputs.shape[:-1]
        shape = (lead.numel() // len(generators), self.noise_width)
        noise = torch.stack([draw_noise(self.noise, shape, generator) for generator in generators])
        return self.act(outputs, mask, noise.reshape(*lead, self.noise_width).to(outputs.device))


class QHead(Head):
    """`q`: one value per action, of which it takes the largest. `sample` explores with the `epsilon` of its JSON."""

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__()
        space = _fitting(Discrete, action_space, "q")
        self.width = self.mask_width = space.n
        self.start, self.epsilon = space.start, float(head.get("epsilon", 0.0))

    def act(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.only(outputs, mask).argmax(dim=-1)

    def sample(self, outputs: Tensor, generators: Sequence[torch.Generator], mask: Tensor | None = None) -> Tensor:
        """The largest allowed value; at the recorded epsilon a uniform allowed action."""
        action = self.act(outputs, mask)
        allowed = torch.ones_like(outputs, dtype=torch.bool) if mask is None else mask
        # [G, ...]: one generator for each leading row, so that members of a stack never share a draw
        weights = allowed.double().reshape(len(generators), -1, self.width).to(generators[0].device)
        coins = [torch.rand(w.shape[0], generator=g, device=g.device) for w, g in zip(weights, generators, strict=True)]
        others = [torch.multinomial(w, 1, generator=g).squeeze(-1) for w, g in zip(weights, generators, strict=True)]
        explore = (torch.stack(coins) < self.epsilon).reshape(action.shape).to(outputs.device)
        return torch.where(explore, torch.stack(others).reshape(action.shape).to(outputs.device), action)

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start


class CategoricalHead(StochasticHead):
    """`categorical`: one logit per action. Actions are int64 `[...]`, counted from 0.

    The largest logit after Gumbel noise is a sample of the softmax (Gumbel 1954).
    """

    noise = "gumbel"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__()
        space = _fitting(Discrete, action_space, "categorical")
        self.width = self.noise_width = self.mask_width = space.n
        self.start = space.start

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        return dist.only(outputs if noise is None else outputs + noise, mask).argmax(dim=-1)

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.choice_log_prob(dist.only(outputs, mask), action)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.choice_entropy(outputs, mask)

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start


class MultiCategoricalHead(StochasticHead):
    """`multi_categorical`: independent choices, their logits (and the bits of a mask) one choice after another.

    Actions are int64 of the space's shape, counted from 0. A choice of which a mask allows nothing may take anything.
    """

    noise = "gumbel"
    start: Tensor  # [*action]
    place: Tensor  # [k, n]: where among the outputs the n-th logit of each choice is; 0 behind the last
    real: Tensor  # [k, n]: false behind the last

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__()
        space = _fitting(MultiDiscrete, action_space, "multi_categorical")
        self.width = self.noise_width = self.mask_width = sum(space.nvec)
        self.shape = space.shape
        sizes, column = np.array(space.nvec)[:, None], np.arange(max(space.nvec))
        real = column < sizes
        self._constant("place", np.where(real, np.cumsum(sizes)[:, None] - sizes + column, 0))
        self._constant("real", real)
        self._constant("start", np.array(space.start, np.int64).reshape(space.shape))

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        logits = (outputs if noise is None else outputs + noise)[..., self.place]  # [..., k, n]
        action = dist.only(logits, self._allowed(mask)).argmax(dim=-1)
        return action.reshape(*outputs.shape[:-1], *self.shape)

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        choices = action.reshape(*outputs.shape[:-1], len(self.place))
        return dist.choice_log_prob(dist.only(outputs[..., self.place], self._allowed(mask)), choices).sum(dim=-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.choice_entropy(outputs[..., self.place], self._allowed(mask)).sum(dim=-1)

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start

    def _allowed(self, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self.real
        bits = mask[..., self.place] & self.real
        return bits | (self.real & ~bits.any(dim=-1, keepdim=True))


class BernoulliHead(StochasticHead):
    """`bernoulli`: one logit per bit, independent of each other. Actions are int8 of the space's shape."""

    noise, mask_width = "logistic", None

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__()
        self.shape = _fitting(MultiBinary, action_space, "bernoulli").shape
        self.width = self.noise_width = prod(self.shape)

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        _refuse(mask)
        bits = (outputs if noise is None else outputs + noise) > 0
        return bits.to(torch.int8).reshape(*outputs.shape[:-1], *self.shape)

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        _refuse(mask)
        sign = 2 * action.reshape(outputs.shape).to(outputs.dtype) - 1
        return F.logsigmoid(sign * outputs).sum(dim=-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        _refuse(mask)
        return (F.softplus(outputs) - outputs * outputs.sigmoid()).sum(dim=-1)


class GaussianHead(StochasticHead):
    """`gaussian`: a normal variable per element, clipped to the bounds. Actions are float32 in the env's units.

    Outputs are the means and then the log standard deviations, in units in which [-1, 1] is the Box; an element without
    two finite bounds keeps its own unit. `log_prob` is that of the clipped variable: inside the bounds the density with
    respect to those units, at a bound the log of the whole mass beyond it (Fujita and Maeda 2018).
    `entropy` is the normal's before clipping.

    Raises:
        UsageError: the space is no Box of floats, or leaves nothing to choose.
    """

    kind, noise, mask_width = "gaussian", "normal", None
    low: Tensor  # [d], float32: the outermost numbers inside the bounds, in the env's units
    high: Tensor
    middle: Tensor  # [d]: action = middle + scale * value in normalised units
    scale: Tensor
    edge_low: Tensor  # [d]: the bounds in normalised units
    edge_high: Tensor

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__()
        space = _fitting(Box, action_space, self.kind)
        if space.dtype not in ("float16", "float32", "float64"):
            raise UsageError(f"actions {space} have no policy head: a Box of floats has, and so do discrete spaces.")
        self.shape, self.env_dtype, self.noise_width = space.shape, getattr(torch, space.dtype), prod(space.shape)
        self.width = 2 * self.noise_width
        exact = [np.broadcast_to(np.asarray(bound, np.float64), self.noise_width) for bound in (space.low, space.high)]
        low, high = inner_bounds(exact[0], exact[1], f"actions {space}")
        self.bounded = is_bound(exact[0], space.dtype) & is_bound(exact[1], space.dtype)
        unit_low, unit_high = np.where(self.bounded, low, -1.0), np.where(self.bounded, high, 1.0)
        middle, scale = unit_low / 2 + unit_high / 2, unit_high / 2 - unit_low / 2  # halves first: sums may overflow
        constants = {"low": low, "high": high, "middle": middle, "scale": scale}
        constants |= {"edge_low": (low - middle) / scale, "edge_high": (high - middle) / scale}
        for name, values in constants.items():
            self._constant(name, values.astype(np.float32))

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        mean, log_std = self._normal(outputs, mask)
        value = mean if noise is None else mean + log_std.exp() * noise
        # Clipped in float32, so that log_prob finds the bounds again by comparing.
        action = (self.middle + self.scale * self._bend(value)).float().clamp(self.low, self.high)
        return action.reshape(*outputs.shape[:-1], *self.shape)

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        mean, log_std = self._normal(outputs, mask)
        flat = action.reshape(mean.shape)
        at_low, at_high = flat <= self.low, flat >= self.high
        density = dist.normal_log_density(self._normalised(flat).to(mean.dtype), mean, log_std)
        # Away from the bounds their place is taken by 0: an infinite number would make NaN of the gradient.
        edge = self.edge_low.where(at_low, self.edge_high.where(at_high, torch.zeros_like(self.edge_low)))
        beyond = (edge - mean) * (-log_std).exp()
        mass = dist.normal_log_mass_below(torch.where(at_low, beyond, -beyond))
        return torch.where(at_low | at_high, mass, density).sum(dim=-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        _, log_std = self._normal(outputs, mask)
        return dist.normal_entropy(log_std).sum(dim=-1)

    def to_env(self, action: Tensor) -> Tensor:
        converted: Tensor = action.to(self.env_dtype)
        return converted

    def _bend(self, value: Tensor) -> Tensor:
        return value

    def _normal(self, outputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The means and the log standard deviations, `[..., d]` each."""
        _refuse(mask)
        mean, log_std = outputs.split(self.noise_width, dim=-1)
        return mean, log_std.clamp(*LOG_STD)

    def _normalised(self, flat: Tensor) -> Tensor:
        return (flat - self.middle) / self.scale


class SquashedGaussianHead(GaussianHead):
    """`squashed_gaussian`: a normal variable per element through tanh, then scaled to the bounds (Haarnoja et al. 2018,
    appendix C). Without noise `act` gives the squashed mean.

    Outputs, units and actions are those of `GaussianHead`. An action at a bound, where rounding may put it, counts as
    one at `EDGE`. `entropy` is that of the squashed variable, by Gauss-Hermite quadrature.

    Raises:
        UsageError: as `GaussianHead`, or an element lacks a bound.
    """

    kind = "squashed_gaussian"
    nodes: Tensor  # [NODES], of a standard normal variable
    weights: Tensor  # [NODES], with the sum 1

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        if not self.bounded.all():
            raise UsageError(f"actions {action_space} cannot be squashed: each element needs two finite bounds.")
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self._constant("nodes", nodes.astype(np.float32))
        self._constant("weights", (weights / weights.sum()).astype(np.float32))

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        mean, log_std = self._normal(outputs, mask)
        squashed = self._normalised(action.reshape(mean.shape)).to(mean.dtype).clamp(-EDGE, EDGE)
        value = squashed.atanh()
        return (dist.normal_log_density(value, mean, log_std) - dist.log_tanh_slope(value)).sum(dim=-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        mean, log_std = self._normal(outputs, mask)
        value = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self.nodes  # [..., d, NODES]
        return super().entropy(outputs) + (dist.log_tanh_slope(value) * self.weights).sum(dim=(-2, -1))

    def _bend(self, value: Tensor) -> Tensor:
        return value.tanh()


# kind of head -> class, called as `kind(head as JSON, action space)`
HEADS: dict[str, type[Head]] = {
    "q": QHead,
    "categorical": CategoricalHead,
    "multi_categorical": MultiCategoricalHead,
    "bernoulli": BernoulliHead,
    "gaussian": GaussianHead,
    "squashed_gaussian": SquashedGaussianHead,
}
STOCHASTIC_HEADS = tuple(kind for kind, head in HEADS.items() if issubclass(head, StochasticHead))


def build_head(head: Json, action_space: Space) -> Head:
    """The head that `head["kind"]` names, for these actions.

    Raises:
        UsageError: the kind is not known, or does not suit the actions.
    """
    if head["kind"] not in HEADS:
        raise unknown("policy head", head["kind"], HEADS)
    return HEADS[head["kind"]](head, action_space)


def stochastic_head_json(action_space: Space, squash: bool) -> dict[str, str]:
    """The head that an actor-critic agent uses for these actions; `squash` concerns a Box alone.

    Raises:
        UsageError: no head suits the actions.
    """
    kinds = {
        Discrete: "categorical",
        MultiDiscrete: "multi_categorical",
        MultiBinary: "bernoulli",
        Box: "squashed_gaussian" if squash else "gaussian",
    }
    for space, kind in kinds.items():
        if isinstance(action_space, space):
            return {"kind": kind}
    raise UsageError(f"actions {action_space} have no policy head; Discrete, MultiDiscrete, MultiBinary and Box have.")


def draw_noise(kind: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Float32 numbers of the distribution `gumbel`, `logistic` or `normal` in its standard form, on the generator's
    device."""
    if kind == "normal":
        return torch.randn(shape, generator=generator, device=generator.device)
    # In double precision, since float32 would cut the tails off at probabilities of 6e-8.
    uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
    uniform.clamp_(min=torch.finfo(torch.float64).tiny)  # it may be 0, and is never 1
    noise = {"gumbel": lambda u: -(-u.log()).log(), "logistic": torch.logit}[kind](uniform)
    return noise.float()


def _fitting(kind: type[AnySpace], space: Space, head: str) -> AnySpace:
    if not isinstance(space, kind):
        raise UsageError(f"the policy head {head!r} is for {kind.__name__} actions, not {space}.")
    return space


def _refuse(mask: Tensor | None) -> None:
    if mask is not None:
        raise UsageError("only Discrete and MultiDiscrete actions take a mask.")
