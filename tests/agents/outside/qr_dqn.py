"""QR-DQN (Dabney et al. 2018): equally likely returns of every action in place of their mean, fitted as quantiles."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlab.agents.dqn import DQN, DQNConfig
from rlab.errors import UsageError
from rlab.learning.contract import Batch
from rlab.learning.returns import LOSSES, weighted_mean
from rlab.networks.spaces import Space


@dataclass(frozen=True, kw_only=True)
class QRDQNConfig(DQNConfig):
    quantiles: int = 32  # of each action's return; the paper has 200 on Atari

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantiles < 1:
            raise UsageError(f"quantiles {self.quantiles} must be 1 or more.")


class QRDQN(DQN):
    """DQN with the quantile head and the quantile regression loss."""

    Config: ClassVar[type] = QRDQNConfig
    heads: ClassVar[tuple[str, ...]] = ("quantile",)

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        return {"kind": "quantile", "quantiles": config.quantiles, "epsilon": config.epsilon_end}

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Algorithm 1: all pairs of a predicted and a target quantile."""
        outputs = self.outputs(batch)
        predicted = taken(self.head.returns(outputs), batch["action"])
        with torch.no_grad():
            best = self.head.act(batch["next_outputs"], batch.get("next_mask"))
            returns = taken(self.head.returns(batch["next_outputs"]), best)
            target = batch["reward"].unsqueeze(-1) + batch["discount"].unsqueeze(-1) * returns
        error = target.unsqueeze(-2) - predicted.unsqueeze(-1)  # [S, B, predicted, target]
        loss = quantile_loss(error, LOSSES[self.config.loss](error))
        return weighted_mean(loss, batch.get("weight")), outputs, error.mean(dim=(-2, -1))


def taken(returns: Tensor, action: Tensor) -> Tensor:
    """Of `returns [..., A, quantiles]` those of `action [...]`: `[..., quantiles]`."""
    return returns.gather(-2, action[..., None, None].expand(*action.shape, 1, returns.shape[-1])).squeeze(-2)


def quantile_loss(error: Tensor, size: Tensor) -> Tensor:
    """Equation 10, from the errors `[..., N, M]` and their Huber losses: a sum over N, a mean over M, `[...]`."""
    middle = (torch.arange(error.shape[-2], device=error.device) + 0.5) / error.shape[-2]  # the paper's tau hat
    return ((middle.unsqueeze(-1) - (error.detach() < 0).float()).abs() * size).mean(dim=-1).sum(dim=-1)
