"""Soft actor-critic (Haarnoja et al. 2018b) as anyone may write it: several networks, each with its optimizer.

rlab train sac:SAC Pendulum-v1 --env-steps 20000 --seeds 5
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler, UniformSampler
from rlab.experience.storage import Storage
from rlab.learning.choices import Activation
from rlab.learning.common_config import NetworkConfig
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.exploration import ActionNoise
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.returns import continuation, n_step_return, squared
from rlab.learning.targets import follow
from rlab.learning.terms import LossTerms
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.critics import action_value_spec, build_ensemble
from rlab.networks.heads import build_head
from rlab.networks.memory import State
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Space
from rlab.networks.spec import copy_parameters, load_members
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class SACConfig(NetworkConfig):
    replay_capacity: int = 100_000  # transitions per member
    batch_size: int = 128  # transitions per update and member
    learning_starts: int = 500  # env steps before the first update
    learn_every: int = 1  # env steps between rounds of updates
    updates_per_learn: int = 1
    gamma: float = 0.99  # discount per env step
    target_tau: float = 0.005  # share of the networks that their targets take over each time
    activation: Activation = "relu"


class SAC:
    """Soft actor-critic with twin critics and an automatic entropy temperature."""

    Config: ClassVar[type] = SACConfig
    heads: ClassVar[tuple[str, ...]] = ("squashed_gaussian",)
    data: ClassVar[str] = "replay"
    action_spaces: ClassVar[tuple[type[Space], ...]] = (Box,)
    networks: dict[str, Any]
    optimizers: dict[str, StackedOptimizer]
    terms: LossTerms

    def __init__(self, config: Any, obs_space: Space, action_space: Space, seeds: Any, device: Any, start: Any = None):
        self.config, self.device, self.terms = config, device, LossTerms()
        body = BodySettings.of(config)
        if start is None:
            head, scaling = self.head_json(config, action_space), (config.obs_scaling, config.obs_scale)
            network = actor_network_spec(obs_space, build_head(head, action_space).width, body)
            start = PolicySpec(obs_space, action_space, Preprocess(obs_space, *scaling, None).to_json(), network, head)
        self.acting = build_policy(start, seeds, trust=True).to(device)
        self.head, self.preprocess, self.actor = self.acting.head, self.acting.preprocess, self.acting.network
        critic = action_value_spec(obs_space, self.head.size, body)
        critics, targets = (build_ensemble(critic, seeds, "critic", 2, trust=True).to(device) for _ in range(2))
        self.networks = {"actor": self.actor, "critics": critics}
        self.targets: dict[str, nn.Module] = {"critics": targets.requires_grad_(False)}
        settings = OptimizerSettings.of(config)
        parts = [(name, network.parameters()) for name, network in self.networks.items()]
        self.optimizers = {name: StackedOptimizer(settings, part, len(seeds), name) for name, part in parts}
        log = self.networks["temperature"] = nn.ParameterList([torch.zeros(len(seeds), 1)]).to(device)
        self.optimizers["temperature"] = StackedOptimizer(settings, log, name="temperature")
        kind = ("normal", self.head.size, seeds, device)
        self.noise = {use: ActionNoise(*kind, use) for use in ("actions", "target", "update")}

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        return {"kind": "squashed_gaussian"}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        self.acting.load_state_dict(tensors, strict=False)
        for name, target in self.targets.items():
            copy_parameters(self.networks[name], target)

    def fields(self) -> tuple[Field, ...]:
        obs, action = self.acting.spec.obs_space, self.acting.spec.action_space
        return Field("obs", obs.shape, obs.dtype), Field("action", action.shape, action.dtype)

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        return UniformSampler(storage, draws)

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        with torch.no_grad():
            outputs = self.acting.outputs(obs)
            return Acted(self.head.act(outputs, noise=self.noise["actions"].next(obs.shape[1])))

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        self.preprocess.observe(obs, step.valid)

    def prepare(self, batch: Batch) -> Batch:
        rows = {name: self.preprocess(batch[name]) for name in ("obs", "next_obs")}
        rows["action"] = self.head.normalised(batch["action"])
        rows["reward"] = n_step_return(batch["reward"], self.config.gamma)
        rows["discount"] = continuation(batch["terminated"], self.config.gamma, batch["steps"])
        return rows | self.terms.prepare(batch)

    def learn_critics(self, batch: Batch, next_action: Tensor, bonus: Any, now: Now) -> dict[str, Tensor]:
        """A step of both critics towards the smaller of their targets' values of `next_action [S, B, d]`."""
        next_value = self.targets["critics"](batch["next_obs"], next_action).squeeze(-1).amin(dim=1) + bonus
        goal = batch["reward"] + batch["discount"] * next_value  # [S, B], without gradients
        q = self.networks["critics"](batch["obs"], batch["action"]).squeeze(-1)  # [S, 2, B]
        loss = squared(goal.unsqueeze(1) - q).sum(dim=1).mean(dim=-1)
        self.optimizers["critics"].step(loss, now)
        return {"loss/critics": loss.detach(), "q/mean": q.detach().mean(dim=(1, 2))}

    def learn_actor(self, loss: Tensor, outputs: Tensor, batch: Batch, now: Now) -> dict[str, Tensor]:
        """A step of the actor down `loss [S]` and the terms that rlab has added; the targets follow."""
        whole, metrics = self.terms.add_to(loss, outputs, batch, now)
        self.optimizers["actor"].step(whole, now)
        for name, target in self.targets.items():
            follow(target, self.networks[name], self.config.target_tau)
        return {"loss/actor": loss.detach(), **metrics}

    def scheduled(self, clock: Clock) -> dict[str, float]:
        return dict(ChainMap(*(part.scheduled(clock) for part in (self.terms, *self.optimizers.values()))))

    def policy(self) -> Policy:
        return self.acting

    def modules(self) -> dict[str, nn.Module]:
        others = dict(list(self.networks.items())[1:])
        return {"policy": self.acting, "others": nn.ModuleDict(others), "targets": nn.ModuleDict(self.targets)}

    def load_critic(self, state: Mapping[str, Any], members: Sequence[int]) -> str | None:
        return load_members(self.modules()["others"], state.get("others", {}), members)

    def state(self) -> dict[str, Any]:
        parts = {name: part.state() for name, part in (self.optimizers | self.noise).items()}
        return parts | {name: module.state_dict() for name, module in self.modules().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(state[name])
        for name, part in (self.optimizers | self.noise).items():
            part.load_state(state[name])

    def sample(self, outputs: Tensor, use: str) -> tuple[Tensor, Tensor]:
        """Actions `[S, B, d]` in units in which [-1, 1] is the Box, and their log densities, with gradients."""
        action = self.head.act(outputs, noise=self.noise[use].next(outputs.shape[1]))
        return self.head.normalised(action), self.head.log_prob(outputs, action)

    def update(self, batch: Batch, now: Now) -> Updated:
        log_alpha = self.networks["temperature"][0]  # [S, 1]
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_action, log_prob = self.sample(self.actor(batch["next_obs"]), "target")
        metrics = self.learn_critics(batch, next_action, -alpha * log_prob, now)
        outputs = self.actor(batch["obs"])
        action, log_prob = self.sample(outputs, "update")
        q = self.networks["critics"](batch["obs"], action).squeeze(-1).amin(dim=1)
        metrics |= self.learn_actor((alpha * log_prob - q).mean(dim=-1), outputs, batch, now)
        entropy = -log_prob.detach().mean(dim=-1)  # [S]; the one to keep is -d
        self.optimizers["temperature"].step(log_alpha[:, 0] * (entropy + action.shape[-1]), now)
        return Updated({**metrics, "policy/temperature": alpha[:, 0], "policy/entropy": entropy})
