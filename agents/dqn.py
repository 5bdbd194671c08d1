"""Deep Q-learning (Mnih et al. 2015) with the switches of its family: n-step targets, dueling heads, LayerNorm, hard
or soft target updates, Huber or squared error. Read from top to bottom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler, Streams, UniformSampler
from rlab.experience.storage import Storage
from rlab.learning.contract import Batch, Updated
from rlab.learning.demonstration_losses import conservative, large_margin
from rlab.learning.distillation import Guide
from rlab.learning.exploration import EpsilonGreedy, linear
from rlab.learning.optimizers import OptimizerSettings, Stepper
from rlab.learning.q_learning import QLearningConfig
from rlab.learning.returns import LOSSES, continuation, max_value, n_step_return, q_td_error
from rlab.learning.sparsity import GradualPruning
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory import State
from rlab.networks.own_bodies import Own
from rlab.networks.policy import Policy, PolicySpec
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Discrete, Masked, Space
from rlab.networks.spec import (
    StackedNetwork,
    build,
    copy_parameters,
    generator_states,
    in_training,
    load_generator_states,
)
from rlab.ranges import check_counts, check_not_negative
from rlab.types import Clock, crossed


@dataclass(frozen=True, kw_only=True)
class DQNConfig(QLearningConfig):
    """Settings of DQN and double DQN. Steps are env steps of one member, summed over its envs."""

    replay_capacity: int = 50_000  # transitions per member
    learning_starts: int = 500  # env steps before the first update
    learn_every: int = 8  # env steps
    updates_per_learn: int = 4  # so one update every 2 env steps
    epsilon_start: float = 1.0  # share of random actions; Mnih et al. 2015
    epsilon_end: float = 0.05  # the paper has 0.1 and evaluates at 0.05
    epsilon_fraction: float = 0.2  # of the budget, over which epsilon falls linearly
    epsilon_duration: float | None = None  # exponent of how long an exploring action is held; Dabney et al. 2021 have 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "replay_capacity", "learn_every", "updates_per_learn")
        for name in ("batch_size", "n_step"):
            if getattr(self, name) > self.replay_capacity:
                raise UsageError(f"{name} {getattr(self, name)} is more than replay_capacity {self.replay_capacity}.")
        check_not_negative(self, "learning_starts")


class DQN:
    """Deep Q-learning: off-policy, with replay and a target network."""

    Config: ClassVar[type] = DQNConfig
    data: ClassVar[str] = "replay"
    action_spaces: ClassVar[tuple[type, ...]] = (Discrete,)
    heads: ClassVar[tuple[str, ...]] = ("q",)
    guide: Guide | None = None  # a teacher, where the run has one

    def __init__(
        self,
        config: QLearningConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        assert isinstance(action_space, Discrete)  # as action_spaces says
        self.config, self.seeds, self.device = config, tuple(seeds), device
        self._obs_space, self._action_space = obs_space, action_space
        spec = start or _policy_spec(config, obs_space, action_space)
        self.preprocess = Preprocess.from_json(spec.preprocess, obs_space, len(seeds)).to(device)
        # trust: who gives a policy to begin with, or names a network, has vouched for its layers
        self.q_network = build(spec.network, seeds, "q_network", trust=True).to(device)
        target = build(spec.network, seeds, "q_network", trust=True).requires_grad_(False)
        self.target_network = target.to(device).eval()
        self._policy = Policy(spec, self.preprocess, self.q_network, seeds).eval()
        self._training_network = in_training(self.q_network)
        self.pruning = GradualPruning(config.sparsity, self.q_network)
        self.stepper = Stepper(OptimizerSettings.of(config), self.q_network.parameters())
        self.schedule = config.make_schedule()
        masked = isinstance(obs_space, Masked)
        self._exploration = EpsilonGreedy(action_space.n, seeds, config.epsilon_duration, masked)

    @staticmethod
    def head_json(config: QLearningConfig, action_space: Space) -> dict[str, Any]:
        """The policy head, as plain data."""
        return {"kind": "q", "epsilon": config.epsilon_end}

    @property
    def networks(self) -> dict[str, StackedNetwork]:
        """What is trained, by name; the first is the policy's."""
        return {"q_network": self.q_network}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin from other weights: those of `policy().state_dict()` that `tensors` names. The target follows."""
        self._policy.load_state_dict(tensors, strict=False)
        copy_parameters(self.q_network, self.target_network)

    def fields(self) -> tuple[Field, ...]:
        return Field("obs", self._obs_space.shape, self._obs_space.dtype), Field("action", (), "int64")

    def sampler(self, storage: Storage, streams: Streams) -> Sampler:
        return UniformSampler(storage, streams, self.config.n_step)

    def act(self, obs: np.ndarray, clock: Clock, state: State) -> Acted:
        with torch.inference_mode():
            tensor = torch.from_numpy(obs).to(self.device)
            q, allowed = self._policy.outputs(tensor), self.preprocess.mask(tensor)
            greedy = _only_allowed(q, allowed).argmax(dim=-1).cpu().numpy()  # [S, N, A] -> [S, N]
            mask = None if allowed is None else allowed.cpu().numpy()
            return Acted(self._exploration.choose(greedy, self.epsilon(clock), mask))

    def epsilon(self, clock: Clock) -> float:
        """The share of random actions at this time."""
        config = self.config
        return linear(config.epsilon_start, config.epsilon_end, config.epsilon_fraction, clock.progress)

    def observe(self, obs: np.ndarray, step: Step, clock: Clock) -> None:
        """Fold new observations into the running statistics; update the target network when its time has come."""
        self.preprocess.observe(obs, step.valid)
        self._follow(clock.env_steps - step.reward.shape[1], clock.env_steps)

    def _follow(self, before: int, now: int) -> None:
        """Let the target network follow where the clock went past a multiple of `target_every`."""
        if crossed(before, now, every := self.config.target_every):
            self._update_target(now // every - before // every)

    def prepare(self, batch: Batch) -> Batch:
        """All that stays the same until the next env step, for many batches at once: the target network is still."""
        gamma = self.config.gamma
        with torch.no_grad():
            next_obs = self.preprocess(batch["next_obs"])
            allowed = self.preprocess.mask(batch["next_obs"])
            prepared = {
                "obs": self.preprocess(batch["obs"]),
                "action": batch["action"],
                "reward": n_step_return(batch["reward"], gamma),
                "discount": continuation(batch["terminated"], gamma, batch["steps"]),
                "next_obs": next_obs,
                "next_q": _only_allowed(self.target_network(next_obs), allowed),
            }
            if "demonstration" in batch and self.config.demonstration_loss != "none":
                prepared["demonstration"] = batch["demonstration"]
                mask = self.preprocess.mask(batch["obs"])
                prepared |= {} if mask is None else {"mask": mask}
            if self.guide is not None:
                prepared["teacher"] = self.guide.outputs(batch["obs"])
            return prepared

    def update(self, batch: Batch, clock: Clock) -> Updated:
        """One gradient step on prepared transitions `[S, B]`."""
        self.stepper.at(clock.env_steps, self.schedule.factor(clock.progress))
        loss, q = self.loss(batch)
        metrics = {f"loss/td_{self.config.loss}": loss.detach(), "q/mean": q.detach().mean(dim=(1, 2))}
        if "demonstration" in batch:
            cloning = self.demonstration_loss(q, batch)
            loss = loss + self.config.demonstration_weight * cloning
            metrics[f"loss/{self.config.demonstration_loss}"] = cloning.detach()
        if self.guide is not None:
            guidance = self.guide.loss(q, batch["teacher"])
            loss = loss + self.guide.weight(clock) * guidance
            metrics["loss/teacher"] = guidance.detach()
        return Updated(metrics | self.pruning.step(self.stepper, loss, clock))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss per member `[S]`, averaged over its batch, and the Q values `[S, B, A]`."""
        q = self._training_network(batch["obs"])
        with torch.no_grad():
            next_value = self.next_value(batch["next_q"], batch["next_obs"])
        error = q_td_error(q, batch["action"], batch["reward"], batch["discount"], next_value)
        return LOSSES[self.config.loss](error).mean(dim=-1), q

    def demonstration_loss(self, q: Tensor, batch: Batch) -> Tensor:
        """How little `q [S, B, A]` agrees with the demonstrated actions among the rows; a mean over the batch `[S]`."""
        q = _only_allowed(q, batch.get("mask"))
        if self.config.demonstration_loss == "margin":
            error = large_margin(q, batch["action"], self.config.margin)
        else:
            error = conservative(q, batch["action"])
        return (error * batch["demonstration"]).mean(dim=-1)

    def next_value(self, next_q: Tensor, next_obs: Tensor) -> Tensor:
        """What the successor is worth, `[S, B]`, given the target network's `next_q [S, B, A]`, -inf where forbidden.

        The one thing in which the variants of DQN differ.
        """
        return max_value(next_q)

    def metrics(self, clock: Clock) -> dict[str, float]:
        rate = self.config.learning_rate * self.schedule.factor(clock.progress)
        return {"explore/epsilon": self.epsilon(clock), "optimizer/learning_rate": rate}

    def policy(self) -> Policy:
        return self._policy

    def state(self) -> dict[str, Any]:
        return {
            "policy": self._policy.state_dict(),
            "target_network": self.target_network.state_dict(),
            "optimizer": self.stepper.state(),
            "exploration": self._exploration.state(),
            "dropout": generator_states(self.q_network),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._policy.load_state_dict(state["policy"])
        self.target_network.load_state_dict(state["target_network"])
        self.stepper.load_state(state["optimizer"])
        self._exploration.load_state(state["exploration"])
        load_generator_states(self.q_network, state["dropout"])

    @torch.no_grad()
    def _update_target(self, times: int) -> None:
        if self.config.target_tau == 1.0:
            copy_parameters(self.q_network, self.target_network)
            return
        # A vector step may pass several multiples of target_every; the online weights stand still in between.
        share = 1.0 - (1.0 - self.config.target_tau) ** times
        torch._foreach_lerp_(list(self.target_network.parameters()), list(self.q_network.parameters()), share)


def _policy_spec(config: QLearningConfig, obs_space: Space, action_space: Discrete) -> PolicySpec:
    """The policy that the settings ask for."""
    own = Own.of(config)
    body = BodySettings(config.hidden, config.activation, config.layer_norm, config.dropout, config.init, own=own)
    network = q_network_spec(obs_space, action_space.n, body, config.dueling)
    preprocess = Preprocess(obs_space, config.obs_scaling, config.obs_scale, members=None).to_json()
    return PolicySpec(obs_space, action_space, preprocess, network, DQN.head_json(config, action_space))


def _only_allowed(q: Tensor, allowed: Tensor | None) -> Tensor:
    """Q values that no maximum takes where an action is not allowed; None allows all."""
    return q if allowed is None else q.masked_fill(~allowed, -torch.inf)
