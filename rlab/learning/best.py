"""Keeps, for every member, the weights that did best in evaluation during training."""

from typing import Any

import numpy as np
import torch

from rlab.learning.contract import Agent
from rlab.networks.policy import Policy, build_policy


class BestPolicy:
    """Listens to evaluations; the best of member i may come from another moment than the best of member j."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        policy = agent.policy()
        self._weights = {name: tensor.cpu().clone() for name, tensor in policy.state_dict().items()}
        self.score = np.full(len(policy.seeds), -np.inf)  # [S] mean return
        self.env_steps = np.zeros(len(policy.seeds), np.int64)  # [S] when it was reached

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        """Nothing to keep."""

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Take over the members whose mean return `[S, E]` is at least their best; later weights win a tie."""
        score = returns.mean(axis=1)
        better = score >= self.score
        self.score[better], self.env_steps[better] = score[better], env_steps
        chosen = torch.from_numpy(better)
        for name, tensor in self._agent.policy().state_dict().items():
            self._weights[name][chosen] = tensor.cpu()[chosen]

    def on_save(self, env_steps: int) -> None:
        """Nothing to write: whoever saves asks for `policy`."""

    def policy(self) -> Policy | None:
        """A policy of its own with the best weights; None before the first evaluation."""
        if not np.isfinite(self.score).all():
            return None
        live = self._agent.policy()
        policy = build_policy(live.spec, live.seeds, trust=True)  # the agent already runs these layers
        policy.load_state_dict(self._weights)
        return policy

    def state(self) -> dict[str, Any]:
        return {"weights": dict(self._weights), "score": self.score.copy(), "env_steps": self.env_steps.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._weights = dict(state["weights"])
        self.score[:], self.env_steps[:] = state["score"], state["env_steps"]
