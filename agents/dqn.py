"""Deep Q-learning (Mnih et al. 2015) with the switches of its family: n-step targets, dueling heads, LayerNorm, hard
or soft target updates, Huber or squared error, Munchausen targets, prioritised replay, noisy layers, memory. Read from
top to bottom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.learning.contract import Batch, Now, Scheduled, Updated
from rlab.learning.demonstration_losses import DemonstrationTerm
from rlab.learning.exploration import EpsilonGreedy
from rlab.learning.munchausen import Munchausen
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.per_member import first_of, per_member
from rlab.learning.q_learning import PER_MEMBER, EpsilonConfig, QLearningConfig
from rlab.learning.replay_settings import ReplaySettings, replay_schedule, weighed
from rlab.learning.replayed_rows import ReplayedRows
from rlab.learning.replayed_windows import ReplayedWindows
from rlab.learning.returns import greedy_policy, weighted_mean
from rlab.learning.sequence_config import SequenceConfig
from rlab.learning.targets import follow, share_due
from rlab.learning.terms import LossTerms
from rlab.learning.value_losses import value_loss
from rlab.networks.bodies import BodySettings, noisy_policy, q_network_spec
from rlab.networks.distributions import only
from rlab.networks.heads import build_head
from rlab.networks.memory import State
from rlab.networks.noisy import Noise
from rlab.networks.policy import Policy, PolicySpec
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Discrete, Space
from rlab.networks.spec import (
    StackedNetwork,
    build,
    copy_parameters,
    draw_states,
    load_draw_states,
)
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class DQNConfig(EpsilonConfig, ReplaySettings, SequenceConfig):
    """Settings of DQN and double DQN. Steps are env steps of one member, summed over its envs."""

    def begins_uniformly(self, env_steps: int) -> bool:
        """With noisy layers until learning starts: a fresh network that noise moves does the same almost everywhere. An
        episode of CartPole is then 9 steps of one action, and 22 of uniform ones; some that learned from the former
        stayed at 120 steps for ever."""
        return self.noisy and env_steps < self.learning_starts

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory != "none" and self.hindsight != "none":
            raise UsageError(
                f"--hindsight {self.hindsight} gives single transitions other goals, and --memory {self.memory} learns "
                "from sequences: leave one of them out."
            )


class DQN:
    """Deep Q-learning: off-policy, with replay and a target network."""

    Config: ClassVar[type] = DQNConfig
    data: ClassVar[str] = "replay"
    action_spaces: ClassVar[tuple[type, ...]] = (Discrete,)
    heads: ClassVar[tuple[str, ...]] = ("q", "categorical_value", "quantile", "implicit_quantile")
    learns_with_memory: ClassVar[bool] = True
    per_member: ClassVar[tuple[str, ...]] = PER_MEMBER
    terms: LossTerms

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
        self._obs_space, self._begins_fresh = obs_space, start is None
        spec = noisy_policy(start or self.policy_spec(first_of(config), obs_space, action_space), config)
        self.preprocess = Preprocess.from_json(spec.preprocess, obs_space, len(seeds)).to(device)
        # trust: the layers of a given policy or network were checked where it was opened
        self.q_network = build(spec.network, seeds, "q_network", trust=True).to(device)
        target = build(spec.network, seeds, "target_network", trust=True).requires_grad_(False)
        self.target_network = target.to(device).eval()
        copy_parameters(self.q_network, self.target_network)
        self._policy = Policy(spec, self.preprocess, self.q_network, seeds).eval()
        self.head: Any = self._policy.head
        self.value_loss = value_loss(self.head, config)
        self.munchausen = Munchausen.of(config)
        self.target_policy = greedy_policy if self.munchausen is None else self.munchausen.policy
        reading = ReplayedWindows if self.learns_with_memory and self._policy.has_memory else ReplayedRows
        self.replayed = reading(config, self._policy, self.target_network)
        self.noise, self.target_noise = Noise(self.q_network), Noise(self.target_network)
        self.optimizer = StackedOptimizer(OptimizerSettings.of(config), self.q_network.parameters())
        self.terms = LossTerms(*DemonstrationTerm.of(config, self._policy))
        self.exploration = EpsilonGreedy(action_space.n, seeds, config.epsilon_duration, device)

    @classmethod
    def policy_spec(cls, config: Any, obs_space: Space, action_space: Discrete) -> PolicySpec:
        """The policy that the settings ask for, as plain data."""
        head = cls.head_json(config, action_space)
        built: Any = build_head(head, action_space, trust=True)  # the agent that names it runs already
        body = BodySettings.of(config, dropout=config.dropout)
        network = q_network_spec(obs_space, action_space.n, body, config.dueling, built.per_action, config.implicit)
        preprocess = Preprocess(obs_space, config.obs_scaling, config.obs_scale, members=None).to_json()
        return PolicySpec(obs_space, action_space, preprocess, network, head)

    @staticmethod
    def head_json(config: QLearningConfig, action_space: Space) -> dict[str, Any]:
        """The policy head, as plain data."""
        return {**config.value_head_json, "epsilon": config.epsilon(progress=1.0)}

    @property
    def networks(self) -> dict[str, StackedNetwork]:
        """What is trained, by name; the first is the policy's."""
        return {"q_network": self.q_network}

    @property
    def optimizers(self) -> dict[str, StackedOptimizer]:
        return {"q_network": self.optimizer}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin from other weights: those of `policy().state_dict()` that `tensors` names. The target follows."""
        self._policy.load_state_dict(tensors, strict=False)
        copy_parameters(self.q_network, self.target_network)

    def fields(self) -> tuple[Field, ...]:
        obs = Field("obs", self._obs_space.shape, self._obs_space.dtype)
        return obs, Field("action", (), "int64"), *self.replayed.fields(), *self.terms.fields()

    def initial_state(self, rows: int) -> State:
        """What an episode begins with: the policy's state and those of loss terms; `{}` without memory."""
        return self._policy.initial_state(rows) | self.terms.initial_state(rows)

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        sampler = self.replayed.sampler(storage, draws)
        sampler.draws_ahead &= not self.noise.layers  # noise is drawn anew for the targets of every update
        return sampler

    def scheduled(self, clock: Clock) -> Scheduled:
        """How much is explored, the learning rate, how far the target network follows in this step of the clock."""
        config = self.config
        share = per_member(config, lambda each: share_due(clock, each.target_every, each.target_tau))
        rates = {**self.optimizer.scheduled(clock), **self.terms.scheduled(clock), **replay_schedule(config, clock)}
        uniform = self._begins_fresh and config.begins_uniformly(clock.env_steps)
        epsilon = per_member(config, lambda each: 1.0 if uniform else each.epsilon(clock.progress))
        return {"explore/epsilon": epsilon, "target share": share, **rates}

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        with torch.no_grad(), self.noise:
            outputs, following = self._policy.step(obs, state)
            said, after = self.terms.act(obs, state)
            allowed = self.preprocess.mask(obs)
            greedy = self.head.act(outputs, allowed)  # [S, N]
            action = self.exploration.choose(greedy, now["explore/epsilon"], allowed)
            own = {name: state[name] for name in following}
            return Acted(action, {**self.replayed.extras(own), **said}, following | after)

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        """Fold new observations into the running statistics; update the target network when its time has come."""
        self.preprocess.observe(obs, step.valid)
        follow(self.target_network, self.q_network, now["target share"])

    def prepare(self, batch: Batch) -> Batch:
        """All that stays the same until the next env step, for many batches at once: the target network is still."""
        with torch.no_grad(), self.target_noise:
            prepared = self.replayed.prepare(batch, self.terms, of_target=self.munchausen is not None)
            if self.munchausen is not None:  # of a window of several steps the first reward alone grows
                q = only(self.head.values(prepared.pop("target_outputs")), prepared.get("mask"))
                prepared["reward"] = prepared["reward"] + self.munchausen.reward(q, prepared["action"])
            return prepared

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on prepared transitions `[S, B]`, or windows of them."""
        rows = self.replayed.rows(weighed(batch, now))  # [S, R]
        loss, outputs, error = self.loss(rows)
        q = self.head.values(outputs.detach())
        metrics = {f"loss/td_{self.value_loss.name}": loss.detach(), "q/mean": q.mean(dim=(1, 2))}
        loss, more = self.terms.add_to(loss, outputs, rows, now)
        norm = self.optimizer.step(loss, now)
        more |= self.value_loss.metrics(rows)
        return Updated({**metrics, **more, "grad/norm": norm}, self.replayed.feedback(error.detach(), rows))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss per member `[S]`, a mean over rows, what the network says of them, and the TD errors `[S, R]`."""
        outputs = self.replayed.outputs(batch)
        with torch.no_grad(), self.noise:
            next_policy = self.next_policy(self.next_q(batch), batch)
            next_bonus = None if self.munchausen is None else self.munchausen.bonus(next_policy)
        rows, error = self.value_loss(outputs, batch, next_policy, next_bonus)
        return weighted_mean(rows, batch.get("weight")), outputs, error

    def next_q(self, batch: Batch) -> Tensor:
        """The target network's values of what can be done next `[S, B, A]`, -inf where forbidden."""
        return only(self.head.values(batch["next_outputs"]), batch.get("next_mask"))

    def next_policy(self, next_q: Tensor, batch: Batch) -> Tensor:
        """The probabilities of what is done next, `[S, B, A]`, given the target network's `next_q [S, B, A]`, -inf
        where forbidden.

        The one thing in which the variants of DQN differ.
        """
        return self.target_policy(next_q)

    def policy(self) -> Policy:
        return self._policy

    def state(self) -> dict[str, Any]:
        return {
            "policy": self._policy.state_dict(),
            "target_network": self.target_network.state_dict(),
            "optimizer": self.optimizer.state(),
            "exploration": self.exploration.state(),
            "dropout": draw_states(self.q_network),
            "target_dropout": draw_states(self.target_network),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._policy.load_state_dict(state["policy"])
        self.target_network.load_state_dict(state["target_network"])
        self.optimizer.load_state(state["optimizer"])
        self.exploration.load_state(state["exploration"])
        load_draw_states(self.q_network, state["dropout"])
        load_draw_states(self.target_network, state["target_dropout"])
