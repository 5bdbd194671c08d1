"""Policy heads of Q-learning: what each discrete action is worth, as one number or as a distribution over returns."""

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.networks import distributions as dist
from rlab.networks.heads import Head, fitting
from rlab.networks.spaces import Discrete, Space
from rlab.types import Json


class QHead(Head):
    """`q`: one value per action, of which it takes the largest. `sample` explores with the `epsilon` of its JSON.

    Base of all heads whose outputs say what each action is worth; `values` reads it from them.
    """

    kind, distils_as = "q", "q"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        space = fitting(Discrete, action_space, self.kind)
        self.width = self.mask_width = self.num_actions = space.n
        self.space, self.start, self.epsilon = space, space.start, float(head.get("epsilon", 0.0))

    @property
    def per_action(self) -> int:
        """How many outputs describe the return of one action."""
        return self.width // self.num_actions

    @property
    def explores(self) -> bool:
        return self.epsilon > 0.0

    def sampling(self, epsilon: float | None, own_streams: bool) -> Self:
        if epsilon is None:
            if self.explores or own_streams:
                return self
            raise UsageError(
                "greedy=False: Q values are not a distribution, and this policy records no exploration to sample with; "
                "say how often an action is random: policy(obs, greedy=False, epsilon=0.05)."
            )
        if not 0.0 <= epsilon <= 1.0:
            raise UsageError(f"epsilon {epsilon} is not a probability; it must be in [0, 1].")
        again = copy.copy(self)
        again.epsilon = epsilon
        return again

    def values(self, outputs: Tensor) -> Tensor:
        """The expected return of each action, `[..., width]` to `[..., A]`."""
        return outputs

    def to_distil(self, outputs: Tensor) -> Tensor:
        return self.values(outputs)

    @property
    def of_distilled(self) -> "QHead":
        return self if type(self) is QHead else QHead({"kind": "q", "epsilon": self.epsilon}, self.space)

    def act(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        return dist.only(self.values(outputs), mask).argmax(dim=-1)

    def sample(self, outputs: Tensor, generators: Sequence[torch.Generator], mask: Tensor | None = None) -> Tensor:
        """The greedy action; with probability `epsilon` a uniform allowed one."""
        action = self.act(outputs, mask)
        allowed = torch.ones(*action.shape, self.num_actions, dtype=torch.bool) if mask is None else mask
        # [G, ...]: one generator for each leading row, so that members of a stack never share a draw
        weights = allowed.double().reshape(len(generators), -1, self.num_actions).to(generators[0].device)
        coins = [torch.rand(w.shape[0], generator=g, device=g.device) for w, g in zip(weights, generators, strict=True)]
        others = [torch.multinomial(w, 1, generator=g).squeeze(-1) for w, g in zip(weights, generators, strict=True)]
        explore = (torch.stack(coins) < self.epsilon).reshape(action.shape).to(outputs.device)
        return torch.where(explore, torch.stack(others).reshape(action.shape).to(outputs.device), action)

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start


class CategoricalValueHead(QHead):
    """`categorical_value`: a distribution over returns for each action (C51, Bellemare et al. 2017).

    Outputs are `[..., A * atoms]`, the logits of one action's atoms behind each other. The returns of the atoms are
    evenly spaced from `low` to `high`; all three are in the head's JSON.

    Raises:
        UsageError: the actions are not Discrete, or the atoms are not two or more returns that rise.
    """

    kind = "categorical_value"
    support: Tensor  # [atoms], the return of each

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        self.atoms, low, high = int(head.get("atoms", 0)), head.get("low"), head.get("high")
        if self.atoms < 2 or low is None or high is None or not low < high:
            raise UsageError(
                f"the policy head 'categorical_value' needs atoms, 2 or more, and returns low < high of the first and "
                f"last; not atoms {self.atoms}, low {low}, high {high}."
            )
        self.width = self.num_actions * self.atoms
        self._constant("support", np.linspace(low, high, self.atoms, dtype=np.float32))

    def logits(self, outputs: Tensor) -> Tensor:
        """Of each action's atoms, `[..., A, atoms]`."""
        return outputs.unflatten(-1, (self.num_actions, self.atoms))

    def values(self, outputs: Tensor) -> Tensor:
        return self.logits(outputs).softmax(dim=-1) @ self.support


class QuantileHead(QHead):
    """`quantile`: equally likely returns of each action (QR-DQN, Dabney et al. 2018), whose mean is its value.

    Outputs are `[..., A * quantiles]`, those of one action behind each other; `quantiles` is in the head's JSON.

    Raises:
        UsageError: the actions are not Discrete, or there is not one quantile or more.
    """

    kind = "quantile"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        self.quantiles = int(head.get("quantiles", 0))
        if self.quantiles < 1:
            raise UsageError(f"the policy head 'quantile' needs quantiles, 1 or more; not {self.quantiles}.")
        self.width = self.num_actions * self.quantiles

    def returns(self, outputs: Tensor) -> Tensor:
        """The quantiles of each action's return, `[..., A, quantiles]`."""
        return outputs.unflatten(-1, (self.num_actions, self.quantiles))

    def fractions(self, outputs: Tensor) -> Tensor:
        """Which quantiles these are: the middles of equal parts of [0, 1] (lemma 2), `[quantiles]`."""
        return (torch.arange(self.quantiles, device=outputs.device, dtype=outputs.dtype) + 0.5) / self.quantiles

    def values(self, outputs: Tensor) -> Tensor:
        return self.returns(outputs).mean(dim=-1)


class ImplicitQuantileHead(QHead):
    """`implicit_quantile`: returns of each action at fractions that the network names (IQN, Dabney et al. 2018b), whose
    mean is its value.

    Outputs are `[..., n * (A + 1)]`: for each of n fractions the returns of the actions, then the fraction itself, as
    an `ImplicitQuantiles` layer gives them; `points` in the head's JSON is how many there are outside of training.

    Raises:
        UsageError: the actions are not Discrete, or there is not one point or more.
    """

    kind = "implicit_quantile"

    def __init__(self, head: Json, action_space: Space) -> None:
        super().__init__(head, action_space)
        self.points = int(head.get("points", 0))
        if self.points < 1:
            raise UsageError(f"the policy head 'implicit_quantile' needs points, 1 or more; not {self.points}.")
        self.width = self.points * (self.num_actions + 1)

    @property
    def per_action(self) -> int:
        """At one fraction."""
        return 1

    def returns(self, outputs: Tensor) -> Tensor:
        """The quantiles of each action's return, `[..., A, n]`."""
        return outputs.unflatten(-1, (-1, self.num_actions + 1))[..., :-1].transpose(-1, -2)

    def fractions(self, outputs: Tensor) -> Tensor:
        """Which quantiles these are, `[..., n]`."""
        return outputs.unflatten(-1, (-1, self.num_actions + 1))[..., -1]

    def values(self, outputs: Tensor) -> Tensor:
        return self.returns(outputs).mean(dim=-1)
