"""Rewards divided by the running deviation of the discounted return, so that values have a size near one."""

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-8  # added to the variance, as in Stable-Baselines3's VecNormalize
CLIP = 10.0  # scaled rewards are kept in +-10; "reward clipping" in Huang et al. 2022, continuous detail 9


class RewardScaler:
    """One running variance per member, over its N envs (Engstrom et al. 2020, section 3; openai/baselines).

    It lives in training alone: a policy never sees a reward.
    """

    def __init__(self, members: int, gamma: float, device: torch.device) -> None:
        self._gamma = gamma
        self._count, self._mean, self._variance = (
            torch.full((members,), start, dtype=torch.float64, device=device) for start in (0.0, 0.0, 1.0)
        )
        self._returns: Tensor | None = None  # [S, N] discounted sums of the episodes under way

    def scale(self, reward: Tensor, ended: Tensor, valid: Tensor) -> Tensor:
        """Fold the rewards of a rollout `[S, N, T]` in, then scale all of them by what is known now.

        Args:
            ended, valid: `[S, N, T]` bool; rows that ended an episode, rows that are transitions.

        Returns:
            the scaled rewards `[S, N, T]`; those of rows that are not transitions are meaningless.
        """
        running = self._returns if self._returns is not None else reward.new_zeros(reward.shape[:2])
        sums = []
        for reward_t, ended_t, valid_t in zip(reward.unbind(-1), ended.unbind(-1), valid.unbind(-1), strict=True):
            running = torch.where(valid_t, self._gamma * running + reward_t, running)
            sums.append(running)
            running = torch.where(ended_t, 0.0, running)
        self._returns = running
        self._fold(torch.stack(sums, dim=-1).flatten(1).double(), valid.flatten(1).double())
        deviation = (self._variance + EPSILON).sqrt().to(reward.dtype)
        return (reward / deviation.reshape(-1, 1, 1)).clamp(-CLIP, CLIP)

    def state(self) -> dict[str, Any]:
        """The statistics; the sums of episodes under way are not kept, a resumed run begins fresh ones."""
        return {"count": self._count.clone(), "mean": self._mean.clone(), "variance": self._variance.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self._returns = None
        for name in ("count", "mean", "variance"):
            getattr(self, f"_{name}").copy_(state[name])

    def _fold(self, value: Tensor, weight: Tensor) -> None:
        """Chan, Golub and LeVeque (1983), equation 2.1, per member: `value`, `weight` `[S, rows]`."""
        count = weight.sum(dim=1)
        mean = (value * weight).sum(dim=1) / count.clamp(min=1.0)
        squares = ((value - mean.unsqueeze(1)).square() * weight).sum(dim=1)
        total = (self._count + count).clamp(min=1.0)
        delta = mean - self._mean
        squares = squares + self._variance * self._count + delta.square() * self._count * count / total
        self._mean += delta * count / total
        self._variance = torch.where(count > 0, squares / total, self._variance)
        self._count += count
