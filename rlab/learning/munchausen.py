"""Munchausen reinforcement learning (Vieillard et al. 2020): the reward of an action grows by the log probability that
the agent itself gives it, and what comes next is worth more where the agent is unsure."""

from typing import Any

import torch
from torch import Tensor

from rlab.learning.per_member import over
from rlab.networks.distributions import choice_log_prob


class Munchausen:
    """The targets of equation 2, from the values of the target network. Each number may be `[S, 1]`.

    Args:
        alpha: share of the log probability that is added to the reward.
        temperature: of the softmax over values that is the policy; the paper's tau.
        clip: the lowest that temperature times log probability counts, 0 or less; the paper's l0.
    """

    def __init__(self, alpha: float | Tensor, temperature: float | Tensor, clip: float | Tensor) -> None:
        self.alpha, self.temperature, self.clip = alpha, temperature, clip

    @classmethod
    def of(cls, config: Any) -> "Munchausen | None":
        """As a `QLearningConfig` asks for it."""
        if not config.munchausen:
            return None
        return cls(config.munchausen_alpha, config.munchausen_temperature, config.munchausen_clip)

    def policy(self, q: Tensor) -> Tensor:
        """The probabilities of actions, `[..., A]`, from their values, -inf where forbidden."""
        return (q / over(self.temperature, q)).softmax(dim=-1)

    def reward(self, q: Tensor, action: Tensor) -> Tensor:
        """What is added to the reward of `action [...]` where the actions are worth `q [..., A]`."""
        bonus = over(self.temperature, action) * choice_log_prob(q / over(self.temperature, q), action)
        return over(self.alpha, action) * bonus.clamp(max=0.0).clamp(min=over(self.clip, action))

    def bonus(self, policy: Tensor) -> Tensor:
        """What is added to the mean value under `policy [..., A]`: its entropy in nats times the temperature."""
        entropy = torch.special.entr(policy).sum(dim=-1)
        return over(self.temperature, entropy) * entropy
