"""Policy heads for continuous actions: a Box of floats."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.networks import distributions as dist
from rlab.networks.bounds import inner_bounds, is_bound
from rlab.networks.heads import Head, StochasticHead, fitting, refuse_mask, standard_noise
from rlab.networks.spaces import Box, Space
from rlab.types import Json

LOG_STD = (-10.0, 5.0)  # where log standard deviations are kept; float32 does not resolve actions any finer
EDGE = 1.0 - 1e-6  # the furthest from 0 that a tanh is inverted at
NODES = 16  # of the squashed Gaussian's entropy: 2e-5 nats off at standard deviation 1, 0.004 at 2, 0.06 at 4


class BoxHead(Head):
    """Base of heads for continuous actions, float32 in the env's units.

    Outputs are in units in which [-1, 1] is the Box; an element without two finite bounds keeps its own unit.

    Raises:
        UsageError: the space is not a Box of floats, or leaves nothing to choose.
    """

    kind, mask_width = "box", None
    low: Tensor  # [d], float32: the outermost numbers inside the bounds, in the env's units
    high: Tensor
    middle: Tensor  # [d]: action = middle + scale * value in normalised units
    scale: Tensor
    edge_low: Tensor  # [d]: the bounds in normalised units
    edge_high: Tensor

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        space = fitting(Box, action_space, self.kind)
        if space.dtype not in ("float16", "float32", "float64"):
            raise UsageError(f"actions {space} have no policy head: a Box of floats has, and so do discrete spaces.")
        self.shape, self.env_dtype, self.size = space.shape, getattr(torch, space.dtype), prod(space.shape)
        exact = [np.broadcast_to(np.asarray(bound, np.float64), self.size) for bound in (space.low, space.high)]
        low, high = inner_bounds(exact[0], exact[1], f"actions {space}")
        self.bounded = is_bound(exact[0], space.dtype) & is_bound(exact[1], space.dtype)
        unit_low, unit_high = np.where(self.bounded, low, -1.0), np.where(self.bounded, high, 1.0)
        middle, scale = unit_low / 2 + unit_high / 2, unit_high / 2 - unit_low / 2  # halves first: sums may overflow
        constants = {"low": low, "high": high, "middle": middle, "scale": scale}
        constants |= {"edge_low": (low - middle) / scale, "edge_high": (high - middle) / scale}
        for name, values in constants.items():
            self._constant(name, values.astype(np.float32))

    def to_env(self, action: Tensor) -> Tensor:
        converted: Tensor = action.to(self.env_dtype)
        return converted

    def normalised(self, action: Tensor) -> Tensor:
        """Actions `[..., *action]` as a vector `[..., d]` in units in which [-1, 1] is the Box."""
        lead = action.shape[: action.dim() - len(self.shape)]
        return self._normalised(action.reshape(*lead, self.size).float())

    def denormalised(self, value: Tensor) -> Tensor:
        """From normalised units `[..., d]` to an action within the bounds, `[..., *action]`."""
        # Clipped in float32, so that log_prob finds the bounds again by comparing.
        action = (self.middle + self.scale * value).float().clamp(self.low, self.high)
        return action.reshape(*value.shape[:-1], *self.shape)

    @property
    def half_range(self) -> Tensor:
        return self.scale

    def _normalised(self, flat: Tensor) -> Tensor:
        return (flat - self.middle) / self.scale

    def _require_bounds(self, action_space: Space) -> None:
        if not self.bounded.all():
            raise UsageError(f"actions {action_space} cannot be squashed: each element needs two finite bounds.")


class GaussianHead(BoxHead, StochasticHead):
    """`gaussian`: a normal variable per element, clipped to the bounds. Actions are float32 in the env's units.

    Outputs are the means and then the log standard deviations, in units in which [-1, 1] is the Box; an element without
    two finite bounds keeps its own unit. `log_prob` is that of the clipped variable: inside the bounds the density with
    respect to those units, at a bound the log of the whole mass beyond it (Fujita and Maeda 2018).
    `entropy` is the normal's before clipping.

    Raises:
        UsageError: as `BoxHead`.
    """

    kind, distils_as, noise = "gaussian", "gaussian", "normal"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        self.noise_width = self.size
        self.width = 2 * self.size

    def act(self, outputs: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        mean, log_std = self._normal(outputs, mask)
        value = mean if noise is None else mean + log_std.exp() * noise
        return self.denormalised(self._bend(value))

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

    def _bend(self, value: Tensor) -> Tensor:
        return value

    def _normal(self, outputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The means and the log standard deviations, `[..., d]` each."""
        refuse_mask(mask)
        mean, log_std = outputs.split(self.size, dim=-1)
        return mean, log_std.clamp(*LOG_STD)


class SquashedGaussianHead(GaussianHead):
    """`squashed_gaussian`: a normal variable per element through tanh, then scaled to the bounds (Haarnoja et al. 2018,
    appendix C). Without noise `act` gives the squashed mean.

    Outputs, units and actions are those of `GaussianHead`. An action at a bound, where rounding may put it, counts as
    one at `EDGE`. `entropy` is that of the squashed variable, by Gauss-Hermite quadrature.

    Raises:
        UsageError: as `GaussianHead`, or an element lacks a bound.
    """

    kind, distils_as = "squashed_gaussian", "squashed_gaussian"
    nodes: Tensor  # [NODES], of a standard normal variable
    weights: Tensor  # [NODES], with the sum 1

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        self._require_bounds(action_space)
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self._constant("nodes", nodes.astype(np.float32))
        self._constant("weights", (weights / weights.sum()).astype(np.float32))

    def log_prob(self, outputs: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        mean, log_std = self._normal(outputs, mask)
        squashed = self._normalised(action.reshape(mean.shape)).to(mean.dtype).clamp(-EDGE, EDGE)
        value = squashed.atanh()
        return (dist.normal_log_density(value, mean, log_std) - dist.log_tanh_slope(value)).sum(dim=-1)

    def sample_with_density(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[..., d]` in units in which [-1, 1] is the Box, and their log densities `[...]` with respect to
        those units; the gradient flows through both. No tanh is inverted, so that actions near a bound are exact too.

        Args:
            noise: standard normal, `[..., d]`.
        """
        mean, log_std = self._normal(outputs, None)
        value = mean + log_std.exp() * noise
        density = -noise.square() / 2 - log_std - dist.HALF_LOG_TWO_PI
        return value.tanh(), (density - dist.log_tanh_slope(value)).sum(dim=-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        mean, log_std = self._normal(outputs, mask)
        value = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self.nodes  # [..., d, NODES]
        return super().entropy(outputs) + (dist.log_tanh_slope(value) * self.weights).sum(dim=(-2, -1))

    def _bend(self, value: Tensor) -> Tensor:
        return value.tanh()


class DeterministicHead(BoxHead):
    """`deterministic`: one number per element through tanh, scaled to the bounds (DDPG, Lillicrap et al. 2016; TD3).

    `act` passes the gradient on to the outputs. `sample` adds normal noise to the action before it is clipped: its
    standard deviation is the `noise` of the head's JSON, in units in which [-1, 1] is the Box.

    Raises:
        UsageError: as `BoxHead`, or an element lacks a bound, or the noise is below 0.
    """

    kind, distils_as = "deterministic", "deterministic"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        self._require_bounds(action_space)
        self.width, self.deviation = self.size, float(head.get("noise", 0.0))
        if not 0.0 <= self.deviation < float("inf"):
            raise UsageError(f"the noise {self.deviation} of the policy head 'deterministic' must be 0 or more.")

    @property
    def explores(self) -> bool:
        return self.deviation > 0.0

    def act(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        refuse_mask(mask)
        return self.denormalised(outputs.tanh())

    def sample(self, outputs: Tensor, generators: Sequence[torch.Generator], mask: Tensor | None = None) -> Tensor:
        refuse_mask(mask)
        noise = standard_noise("normal", outputs.shape[:-1], self.size, generators)
        return self.denormalised(outputs.tanh() + self.deviation * noise.to(outputs.device))
