"""Each member's best weights so far: the best of member i may come from another moment than the best of member j."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.learning.contract import Agent
from rlab.networks.policy import Policy, build_policy


class BestWeights:
    """The best weights of S members, on the CPU; a higher score is better."""

    def __init__(self, members: int) -> None:
        self.score = np.full(members, -np.inf)  # [S]
        self.reached_at = np.zeros(members, np.int64)  # [S] on the clock of the caller
        self.weights: dict[str, Tensor] = {}  # [S, ...] each; empty before the first `take`

    def take(self, better: np.ndarray, score: np.ndarray, weights: Mapping[str, Tensor], now: int) -> None:
        """Keep the weights `[S, ...]`, which have the score `[S]`, of the members where `better [S]` is true; at the
        first call those of all members, so that each has some."""
        self.score[better], self.reached_at[better] = score[better], now
        if not self.weights:
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        elif better.any():
            chosen = torch.from_numpy(better)
            for name, tensor in weights.items():
                mask = chosen.view(-1, *[1] * (tensor.dim() - 1))
                self.weights[name] = torch.where(mask, tensor.detach().cpu(), self.weights[name])

    def state(self) -> dict[str, Any]:
        return {"weights": dict(self.weights), "score": self.score.copy(), "reached_at": self.reached_at.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.weights = dict(state["weights"])
        self.score[:], self.reached_at[:] = state["score"], state["reached_at"]


class BestPolicy:
    """A listener that keeps the weights with the highest mean return in evaluations during training."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.kept = BestWeights(len(agent.policy().seeds))

    def on_metrics(self, env_steps: int, metrics: Any) -> None: ...

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Take over the members whose mean return `[S, E]` is at least their best; later weights win a tie. The best of
        a member that was dropped, whose returns are NaN, stay."""
        score = returns.mean(axis=1)
        self.kept.take(score >= self.kept.score, score, self._agent.policy().state_dict(), env_steps)

    def on_save(self, env_steps: int) -> None: ...

    def policy(self) -> Policy | None:
        """A new policy with the best weights; None before the first evaluation."""
        if not self.kept.weights:
            return None
        live = self._agent.policy()
        policy = build_policy(live.spec, live.seeds, trust=True)  # the agent already runs these layers
        policy.load_state_dict(self.kept.weights)
        return policy
