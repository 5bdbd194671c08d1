"""Rewards divided by the running deviation of the discounted return, so that values have a size near one."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlab.learning.inheritance import take_rows
from rlab.learning.per_member import over
from rlab.learning.policy_gradient import accumulate
from rlab.networks.outliers import Outliers

EPSILON = 1e-8  # added to the variance, as in Stable-Baselines3's VecNormalize
CLIP = 10.0  # scaled rewards are kept in +-10; "reward clipping" in Huang et al. 2022, continuous detail 9


class RewardScaler:
    """One running variance per member, over its N envs (Engstrom et al. 2020, section 3; openai/baselines).

    It lives in training alone: a policy never sees a reward.
    """

    def __init__(self, members: int, gamma: float | Tensor, device: torch.device) -> None:
        self._gamma = gamma
        self._count, self._mean, self._variance = (
            torch.full((members,), start, dtype=torch.float64, device=device) for start in (0.0, 0.0, 1.0)
        )
        self.outliers = Outliers(members).to(device)
        self._returns: Tensor | None = None  # [S, N] discounted sums of the episodes under way

    def scale(self, reward: Tensor, ended: Tensor, valid: Tensor) -> Tensor:
        """`observe` the rewards of a rollout `[S, N, T]`, then give them `scaled`; those of rows that are not
        transitions are meaningless."""
        self.observe(reward, ended, valid)
        return self.scaled(reward)

    def scaled(self, reward: Tensor) -> Tensor:
        """Rewards `[S, B, n]` by the deviation that is known now."""
        deviation = (self._variance + EPSILON).sqrt().to(reward.dtype)
        return (reward / deviation.reshape(-1, 1, 1)).clamp(-CLIP, CLIP)

    def observe(self, reward: Tensor, ended: Tensor, valid: Tensor) -> None:
        """Fold the rewards of successive vector steps `[S, N, T]` in.

        An absurd reward, which would decide the statistics for good, counts as 0 in them: see `Outliers`.

        Args:
            ended, valid: `[S, N, T]` bool; rows that ended an episode, rows that are transitions.
        """
        if self._returns is None or self._returns.shape != reward.shape[:2]:
            self._returns = reward.new_zeros(reward.shape[:2])
        mean, variance = self._mean.reshape(-1, 1, 1), self._variance.reshape(-1, 1, 1)
        rewards = reward.flatten(1).unsqueeze(-1).double()
        kept = self.outliers.keep(rewards, valid, self._count, mean, variance).unflatten(1, valid.shape[1:])
        goes_on = F.pad((~ended[..., :-1]).to(reward.dtype), (1, 0), value=1.0)  # in the row before
        carry = torch.where(valid, over(self._gamma, valid), 1.0) * goes_on  # a reset row leaves the sum as it is
        sums = accumulate(torch.where(kept, reward, 0.0).flip(-1), carry.flip(-1), self._returns).flip(-1)
        self._returns.copy_(torch.where(ended[..., -1], 0.0, sums[..., -1]))
        self._fold(sums.flatten(1).double(), kept.flatten(1).double())

    def state(self) -> dict[str, Any]:
        """The statistics, and the sums of the episodes under way."""
        statistics = {"count": self._count.clone(), "mean": self._mean.clone(), "variance": self._variance.clone()}
        return statistics if self._returns is None else {**statistics, "returns": self._returns.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        returns = state.get("returns")
        self._returns = None if returns is None else returns.clone().to(self._mean.device)
        for name in ("count", "mean", "variance"):
            getattr(self, f"_{name}").copy_(state[name])

    def inherit(self, parents: Sequence[int]) -> None:
        """Each member goes on with the statistics of its parent; the sums of its own episodes stay."""
        for statistic in (self._count, self._mean, self._variance):
            take_rows(statistic, parents)

    def cut_episodes(self) -> None:
        """Fresh episodes begin behind the rewards that were scaled last."""
        if self._returns is not None:
            self._returns.zero_()

    def _fold(self, value: Tensor, weight: Tensor) -> None:
        """Chan, Golub and LeVeque (1983), equation 2.1, per member: `value`, `weight` `[S, rows]`."""
        count = weight.sum(dim=1)
        mean = (value * weight).sum(dim=1) / count.clamp(min=1.0)
        squares = ((value - mean.unsqueeze(1)).square() * weight).sum(dim=1)
        total = (self._count + count).clamp(min=1.0)
        delta = mean - self._mean
        squares = squares + self._variance * self._count + delta.square() * self._count * count / total
        self._mean += delta * count / total
        self._variance.copy_(torch.where(count > 0, squares / total, self._variance))
        self._count += count
