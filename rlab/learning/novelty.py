"""Random network distillation (Burda et al. 2019): a reward for observations that a network cannot predict yet."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlab.learning.contract import Batch, Now
from rlab.learning.novelty_config import NoveltyConfig
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.reward_scaling import RewardScaler
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Space
from rlab.networks.spec import build

CLIP = 5.0  # normalised observations are kept in +-5; section 2.4
ORTHOGONAL = 2**0.5  # scale of the first weights of both networks; the authors' code


class RandomNetworkDistillation:
    """For each of S members a network that stays as it was drawn, one that learns to give the same, and the statistics
    that bring observations and rewards to a common size.

    Statistics follow every vector step, from the first on, as the authors' do before they learn. What differs from the
    paper: rewards for novelty are added to the env's, so that one value predicts both, and a termination ends both; the
    paper has a value of their own, which goes on through endings.

    Args:
        config: of novelty.
        gamma: the discount of the returns whose deviation rewards are divided by.
        obs_space, seeds, device: of the agent.
    """

    def __init__(
        self, config: NoveltyConfig, gamma: float, obs_space: Space, seeds: Sequence[int], device: torch.device
    ) -> None:
        members = len(seeds)
        self.weight = config.novelty_weight
        self._plain = Preprocess(obs_space, "none", None, members).to(device)
        self._shape = self._plain.feature_shape
        size = torch.Size(self._shape).numel()
        # Every feature counts, also those of images and choices, which a policy's own scaling leaves alone.
        self._scaled = Preprocess(Box((size,), "float32", -torch.inf, torch.inf), "running", None, members).to(device)
        body = BodySettings(config.novelty_hidden, "relu", init="orthogonal", gain=ORTHOGONAL)
        spec = q_network_spec(obs_space, config.novelty_features, body)
        self.target, self.predictor = (
            build(spec, seeds, f"novelty {part}").to(device) for part in ("target", "predictor")
        )
        self.target.requires_grad_(False)
        settings = OptimizerSettings(learning_rate=config.novelty_learning_rate)
        self.optimizer = StackedOptimizer(settings, self.predictor.parameters(), name="novelty")
        self._returns = RewardScaler(members, gamma, device)
        self._paid = torch.zeros(members, device=device)  # the mean reward in the rows that were prepared last

    @torch.no_grad()
    def observe(self, next_obs: Tensor, valid: Tensor) -> None:
        """Fold what a vector step led to, `[S, N, *obs]`, and the return of its novelty into the statistics.

        That return goes on through the ends of episodes (section 2.3).
        """
        flat = self._plain(next_obs).flatten(2)
        self._scaled.observe(flat, valid)
        error = self.error(self._clipped(flat)).unsqueeze(-1)  # [S, N, 1]
        self._returns.observe(error, torch.zeros_like(error, dtype=torch.bool), valid.unsqueeze(-1))

    @torch.no_grad()
    def features(self, obs: Tensor) -> Tensor:
        """What both networks see of observations `[S, B, *obs]`: features less their mean, by their deviation."""
        return self._clipped(self._plain(obs).flatten(2))

    def _clipped(self, flat: Tensor) -> Tensor:
        return self._scaled(flat).clamp(-CLIP, CLIP).unflatten(-1, self._shape)

    def error(self, features: Tensor) -> Tensor:
        """How far the one network is from the other, `[S, B]`: the mean of the squared differences."""
        with torch.no_grad():
            target = self.target(features)
        difference: Tensor = self.predictor(features) - target
        return difference.square().mean(dim=-1)

    @torch.no_grad()
    def reward(self, features: Tensor, counts: Tensor) -> Tensor:
        """The reward `[S, B, n]` for the novelty of features `[S, B, n, *features]`, and 0 where `counts [S, B, n]` is
        false: the error by the deviation of its return so far."""
        error = self.error(features.flatten(1, 2)).view(counts.shape)
        reward = self._returns.scaled(error).masked_fill(~counts, 0.0)
        self._paid.copy_(reward.sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1))
        return self.weight * reward

    def update(self, features: Tensor, counts: Tensor, now: Now) -> dict[str, Tensor]:
        """A step of the network that learns, on rows `[S, B, *features]` of which those in `counts [S, B]` count;
        metrics."""
        weight = counts.to(features.dtype)
        loss = (self.error(features) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
        self.optimizer.step(loss, now)
        return {"loss/novelty": loss.detach(), "novelty/reward": self._paid.clone()}

    def state(self) -> dict[str, Any]:
        """Networks, optimizer and statistics."""
        return {
            "target": self.target.state_dict(),
            "predictor": self.predictor.state_dict(),
            "optimizer": self.optimizer.state(),
            "obs": self._scaled.state_dict(),
            "returns": self._returns.state(),
            "paid": self._paid.clone(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.target.load_state_dict(state["target"])
        self.predictor.load_state_dict(state["predictor"])
        self.optimizer.load_state(state["optimizer"])
        self._scaled.load_state_dict(state["obs"])
        self._returns.load_state(state["returns"])
        self._paid.copy_(state["paid"])


def led_to(batch: Batch) -> tuple[Tensor, Tensor]:
    """What the steps of a batch led to, `[S, X, Y, *obs]`, in the places of its rewards `[S, X, Y]`, and which of them
    count, bool: rollouts are `[S, N, T]`, sequences `[S, B, L]`, windows `[S, B, n]`."""
    reward = batch["reward"]
    if "final_row" in batch:
        following, hidden = batch["obs"][:, :, 1:], batch["final_obs"]
        flat = following.flatten(1, 2)
        # one row more than there are takes what members with fewer hidden successors have too many
        flat = torch.cat([flat, torch.zeros_like(flat[:, :1])], dim=1)
        index = batch["final_row"].view(*batch["final_row"].shape, *(1 for _ in hidden.shape[2:])).expand(hidden.shape)
        return flat.scatter(1, index, hidden)[:, :-1].view(following.shape), batch["valid"]
    if "begins" in batch:
        return batch["next_obs"], batch["valid"]
    inside = torch.arange(reward.shape[-1], device=reward.device) < batch["steps"].unsqueeze(-1)
    return batch["successors"] if "successors" in batch else batch["next_obs"].unsqueeze(2), inside
