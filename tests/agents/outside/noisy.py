"""NoisyNet-DQN (Fortunato et al. 2018): weights with learned noise explore, so that epsilon is 0 by default."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from rlab.agents.dqn import DQN, DQNConfig
from rlab.experience.env_contract import Acted
from rlab.learning.contract import Batch, Now
from rlab.networks.layers import StackedLinear, linear_settings
from rlab.networks.merging import changed
from rlab.networks.policy import PolicySpec


class NoisyLinear(StackedLinear):
    """Noise of `noise * f(e_in) f(e_out)` on each weight and `bias_noise * f(e_out)` on each bias in training, drawn
    anew at every call, for each member by itself; in evaluation a linear layer. Equations 10 and 11."""

    def __init__(self, members: int, in_features: int, out_features: int, **settings: Any) -> None:
        super().__init__(members, in_features, out_features, **settings)
        self.draws: Any = None  # `build` gives it some `rlab.draws.Draws`
        self.noise = torch.nn.Parameter(torch.full_like(self.weight, 0.5 / in_features**0.5))  # the paper's sigma
        self.bias_noise = torch.nn.Parameter(torch.full_like(self.bias, 0.5 / in_features**0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        drawn = self.draws.to(x.device).normal(sum(self.weight.shape[1:])).unsqueeze(1)  # [S, 1, in + out]
        before, after = (drawn.sign() * drawn.abs().sqrt()).split(self.weight.shape[1:], dim=-1)
        weight = self.weight + self.noise * before.transpose(1, 2) * after
        return torch.baddbmm(self.bias + self.bias_noise * after, x, weight)

    settings = linear_settings

    @staticmethod
    def merges_to(args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "linear", dict(args)

    def unstack(self, member: int) -> torch.nn.Linear:
        return self.merge().unstack(member)

    def merge(self) -> StackedLinear:
        plain = StackedLinear(*self.weight.shape, self.init, self.gain).to(self.weight)
        plain.load_state_dict(self.state_dict(), strict=False)
        return plain


@dataclass(frozen=True, kw_only=True)
class NoisyDQNConfig(DQNConfig):
    epsilon_start: float = 0.0  # share of random actions beside the noise
    epsilon_end: float = 0.0


class NoisyDQN(DQN):
    """DQN that acts and learns with noise on its linear layers, and whose targets have noise of their own."""

    Config: ClassVar[type] = NoisyDQNConfig

    def __init__(self, *given: Any, start: PolicySpec | None = None) -> None:
        super().__init__(*given, start=noisy(start or self.policy_spec(*given[:3])))

    def act(self, obs: Any, now: Now, state: Any) -> Acted:
        self.q_network.train()
        acted = super().act(obs, now, state)
        self.q_network.eval()
        return acted

    def prepare(self, batch: Batch) -> Batch:
        self.target_network.train()
        prepared = super().prepare(batch)
        self.target_network.eval()
        return prepared


def noisy(spec: PolicySpec) -> PolicySpec:
    """The policy with noisy layers in the place of its linear ones."""
    kind = f"{__name__}:NoisyLinear"
    return replace(spec, network=changed(spec.network, lambda _, x: replace(x, kind=kind) if x.kind == "linear" else x))
