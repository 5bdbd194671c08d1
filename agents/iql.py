"""Implicit Q-learning (Kostrikov et al. 2022): values that never use
actions outside of the data, and a policy that clones the data's actions, better ones more. Read from top to bottom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.learning.choices import Activation
from rlab.learning.cloning import (
    Cloner,
    CloningConfig,
    action_features,
    action_width,
    negative_log_likelihood,
)
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.demonstration_losses import advantage_weight, expectile
from rlab.learning.per_member import OF_OPTIMIZERS
from rlab.learning.returns import continuation, n_step_return
from rlab.learning.targets import follow
from rlab.networks.bodies import critic_like
from rlab.networks.critics import Ensemble, action_value_like, build_ensemble
from rlab.networks.policy import PolicySpec
from rlab.networks.spaces import Box, Discrete, Space
from rlab.ranges import check_not_negative, check_positive, check_positive_shares, check_shares
from rlab.search_ranges import searched


@dataclass(frozen=True, kw_only=True)
class IQLConfig(CloningConfig):
    """Settings of IQL. The clock counts updates. The paper's networks are 256 256."""

    gamma: float = searched(0.99, 0.9, 0.9999, "one_minus")  # discount per env step; Kostrikov et al. 2022, appendix B
    # of the value: 0.5 is the behaviour's own, 1 the best action's; section 5 (locomotion)
    expectile: float = searched(0.7, 0.5, 0.95, source="Kostrikov et al. 2022, section 5")
    # inverse temperature of the policy's weights: 0 is cloning; section 5 (locomotion)
    beta: float = searched(3.0, 0.5, 10.0, "log", source="Kostrikov et al. 2022, section 5")
    max_weight: float = 100.0  # that a row can have in the policy's loss; the authors' code
    # share of the Q networks that their targets take over in every update; appendix B
    target_tau: float = searched(0.005, 0.001, 0.08, "log")
    learning_rate: float = 3e-4  # of all networks; appendix B
    activation: Activation = "relu"  # after every hidden layer; appendix B

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "gamma")
        check_positive(self, "max_weight")
        if not 0.0 < self.expectile < 1.0:
            raise UsageError(f"expectile {self.expectile} must be above 0 and below 1.")
        check_not_negative(self, "beta")
        check_positive_shares(self, "target_tau")


class IQL(Cloner):
    """Implicit Q-learning: stitches the best parts of the data together and never leaves the data."""

    Config: ClassVar[type] = IQLConfig
    action_spaces: ClassVar[tuple[type, ...]] = (Discrete, Box)
    heads: ClassVar[tuple[str, ...]] = ("categorical", "gaussian", "squashed_gaussian")
    config: IQLConfig
    per_member: ClassVar[tuple[str, ...]] = (*OF_OPTIMIZERS, "gamma", "expectile", "beta", "target_tau")

    def __init__(
        self,
        config: IQLConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        super().__init__(config, obs_space, action_space, seeds, device, start)
        self._continuous = isinstance(action_space, Box)
        network = self._policy.spec.network
        self.critic = self._fresh(critic_like(network), "critic")
        if self._continuous:
            spec = action_value_like(network, action_width(action_space))
        else:
            spec = action_value_like(network, outputs=self.head.width)
        # trust: as the policy's own layers
        self.q_networks = build_ensemble(spec, seeds, "q_network", 2, trust=True).to(device)
        self.target_networks = build_ensemble(spec, seeds, "q_network", 2, trust=True).to(device).requires_grad_(False)
        self.optimizer = self._optimizer_of(self.networks.values())

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "critic": self.critic, "q_networks": self.q_networks}

    def prepare(self, batch: Batch) -> Batch:
        """What the networks see; the action as a Q network reads it."""
        rows = {**self._features(batch), "next_obs": self.preprocess(batch["next_obs"])}
        rows["reward"] = n_step_return(batch["reward"], self.config.gamma)
        rows["discount"] = continuation(batch["terminated"], self.config.gamma, batch["steps"])
        if self._continuous:
            rows["q_action"] = action_features(self.head, self._action_space, batch["action"])
        return rows

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step of all networks on prepared rows `[S, B]`; the targets of the Q networks follow.

        No two of them share a weight, so that one step down the sum of their losses is a step of each.
        """
        config = self.config
        with torch.no_grad():
            target_q = self.action_values(self.target_networks, batch).amin(dim=1)  # [S, B]
            goal = batch["reward"] + batch["discount"] * self.critic(batch["next_obs"]).squeeze(-1)  # equation 6
        value = self.critic(batch["obs"]).squeeze(-1)
        advantage = target_q - value.detach()
        weight = advantage_weight(advantage, config.beta, config.max_weight)
        outputs = self._in_training(self.actor, batch["obs"])
        surprise = negative_log_likelihood(self.head, outputs, batch["action"], batch.get("mask"))
        q = self.action_values(self.q_networks, batch)  # [S, 2, B]
        losses = {
            "loss/value": expectile(target_q - value, config.expectile).mean(dim=-1),  # equation 5
            "loss/q": (goal.unsqueeze(1) - q).square().sum(dim=1).mean(dim=-1),
            "loss/policy": (weight * surprise).mean(dim=-1),  # equation 7
        }
        norm = self.optimizer.step(torch.stack(list(losses.values())).sum(dim=0), now)
        follow(self.target_networks, self.q_networks, self.config.target_tau)
        return Updated(
            {
                **{name: loss.detach() for name, loss in losses.items()},
                "q/mean": q.detach().mean(dim=(1, 2)),
                "value/mean": value.detach().mean(dim=-1),
                "policy/weight": weight.mean(dim=-1),
                "grad/norm": norm,
            }
        )

    def action_values(self, networks: Ensemble, batch: Batch) -> Tensor:
        """The values of the data's actions by each of a member's two Q networks, `[S, 2, B]`."""
        if self._continuous:
            return networks(batch["obs"], batch["q_action"]).squeeze(-1)
        return networks(batch["obs"]).gather(-1, batch["action"][:, None, :, None].expand(-1, 2, -1, 1)).squeeze(-1)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "target_networks": self.target_networks.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.target_networks.load_state_dict(state["target_networks"])
