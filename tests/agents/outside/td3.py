"""Twin delayed DDPG (Fujimoto et al. 2018) as anyone may write it, on the base of `sac.py`.

rlab train td3:TD3 Pendulum-v1 --env-steps 20000 --seeds 5
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sac import TwinCritics, TwinCriticsConfig
from torch import Tensor

from rlab.learning.contract import Batch, Now, Updated
from rlab.networks.policy import build_policy
from rlab.networks.spaces import Space
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class TD3Config(TwinCriticsConfig):
    policy_delay: int = 2  # updates of the critics for each of the actor
    exploration_noise: float = 0.1  # standard deviation, in half ranges of the action
    target_noise: float = 0.2  # the same, of the actions that the targets value
    noise_clip: float = 0.5  # the most that it may be


class TD3(TwinCritics):
    """A deterministic actor that follows the first of two critics, every other update."""

    Config: ClassVar[type] = TD3Config
    heads: ClassVar[tuple[str, ...]] = ("deterministic",)
    needs_host: ClassVar[str] = "it counts updates on the host, to move its actor in every other one"

    def __init__(self, *arguments: Any, **start: Any) -> None:
        super().__init__(*arguments, **start)
        self.updates, self.continues = 0, bool(start)
        target = build_policy(self.acting.spec, self.acting.seeds, trust=True).network
        self.targets["actor"] = target.to(self.device).requires_grad_(False)

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        return {"kind": "deterministic", "noise": config.exploration_noise}

    def scheduled(self, clock: Clock) -> dict[str, float]:
        uniform = clock.env_steps < self.config.learning_starts and not self.continues
        return {**super().scheduled(clock), "explore/uniform": float(uniform)}

    def explore(self, outputs: Tensor, noise: Tensor, now: Now) -> Tensor:
        if now["explore/uniform"]:
            return self.head.denormalised(torch.erf(noise / 2**0.5))  # uniform
        return self.head.denormalised(outputs.tanh() + self.config.exploration_noise * noise)

    def update(self, batch: Batch, now: Now) -> Updated:
        config = self.config
        with torch.no_grad():
            next_action = self.targets["actor"](batch["next_obs"]).tanh()
            noise = config.target_noise * self.noise["target"].next(next_action.shape[1])
            smoothed = (next_action + noise.clamp(-config.noise_clip, config.noise_clip)).clamp(-1.0, 1.0)
        metrics = self.learn_critics(batch, smoothed, 0.0, now)
        self.updates += 1
        if self.updates % config.policy_delay == 0:
            outputs = self.actor(batch["obs"])
            q = self.networks["critics"][0](batch["obs"], outputs.tanh())
            metrics |= self.learn_actor(-q.mean(dim=(1, 2)), outputs, batch, now)
        return Updated(metrics)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.updates = state["updates"]
