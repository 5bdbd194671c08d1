"""What REINFORCE, A2C and PPO have in common: a policy and a value, acting, and turning a rollout into rows to learn
from. An agent adds its settings and its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.sequence_samplers import RolloutSampler
from rlab.experience.storage import Storage
from rlab.learning.choices import Activation, Init, LrSchedule, RewardScaling
from rlab.learning.common_config import MemoryConfig, StochasticPolicyConfig, Unread
from rlab.learning.contract import Batch, Now, Scheduled, Updated
from rlab.learning.exploration import ActionNoise
from rlab.learning.novelty_config import NoveltyConfig
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.per_member import OF_OPTIMIZERS, over, per_member
from rlab.learning.policy_and_value import PolicyAndValue, begins, successors
from rlab.learning.policy_gradient import explained_variance, gae
from rlab.learning.reward_scaling import RewardScaler
from rlab.learning.terms import LossTerms
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.heads import STOCHASTIC_HEADS, StochasticHead, build_head, stochastic_head_json
from rlab.networks.memory import State
from rlab.networks.outliers import Outliers
from rlab.networks.policy import Policy, PolicySpec
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from rlab.networks.spec import StackedNetwork, build, draws_in_training, load_members
from rlab.ranges import check_counts, check_not_negative, check_positive, check_shares
from rlab.search_ranges import chosen, searched
from rlab.types import Clock

REWARD_SCALINGS = ("none", "running")
PER_MEMBER = (*OF_OPTIMIZERS, "gamma", "gae_lambda", "value_weight", "entropy_weight", "entropy_final")
START = "state/"  # what the names of a batch that hold states begin with


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(NoveltyConfig, StochasticPolicyConfig, MemoryConfig):
    """The settings that all policy-gradient agents share; each agent states its own defaults where they differ."""

    gamma: float = searched(0.99, 0.97, 0.9999, "one_minus")  # discount per env step
    gae_lambda: float = searched(0.95, 0.8, 1.0)  # weight of longer returns in advantages; Schulman et al. 2016
    # vector steps between updates; env steps are that times num_envs
    rollout_steps: int = searched(128, 16, 256, "powers")
    learning_rate: float = searched(3e-4, 1e-5, 2e-3, "log")  # of the optimizer, for policy and value alike
    value_weight: float = 0.5  # of the value's loss beside the policy's; Mnih et al. 2016
    entropy_weight: float = searched(0.0, 1e-8, 0.1, "log")  # of the entropy in the loss, a reward for acting at random
    entropy_final: float = 1.0  # factor of entropy_weight at the end of the budget, reached linearly
    normalize_advantage: bool = False  # within each minibatch; Huang et al. 2022, detail 7
    # after every hidden layer; Andrychowicz et al. 2021, section 3.2
    activation: Activation = chosen("tanh", "relu")
    init: Init = "orthogonal"  # how the first weights are drawn; Huang et al. 2022, detail 2
    init_gain: float = 2**0.5  # scale of the hidden layers' first weights; Huang et al. 2022, detail 2
    actor_gain: float = 0.01  # scale of the policy's last layer, so that it starts near uniform; detail 2
    critic_gain: float = 1.0  # scale of the value's last layer; detail 2
    # With memory: vector steps that gradients flow back through, from a state that was acted with; None: a rollout
    sequence_length: int | None = None
    shared_body: bool = False  # one body for policy and value; Huang et al. 2022, detail 13 has two
    reward_scaling: RewardScaling = "none"  # running: divide by the deviation of the discounted return
    optimizer_eps: float | None = 1e-5  # in its denominator; Huang et al. 2022, detail 3. None: torch's default
    # clips each member's whole gradient; Huang et al. 2022, detail 11
    max_grad_norm: float | None = searched(0.5, 0.3, 2.0, "log")
    lr_schedule: LrSchedule = "linear"  # how the learning rate falls over the budget; Huang et al. 2022, detail 4

    @property
    def epochs(self) -> int:
        """How often each row of a rollout is learned from."""
        return 1

    @property
    def minibatches(self) -> int:
        """Updates in one epoch; each takes an equal share of the rollout's rows."""
        return 1

    def check_rollout(self, rows: int) -> None:
        """Raise UsageError where a rollout of so many rows cannot be cut into the minibatches."""
        if self.minibatches > rows:
            raise UsageError(
                f"minibatches {self.minibatches} is more than the {rows} rows of a rollout: "
                f"rollout_steps {self.rollout_steps} x num_envs {rows // self.rollout_steps}."
            )
        if self.normalize_advantage and rows < 2 * self.minibatches:
            raise UsageError(
                f"normalising needs two rows in a minibatch: a rollout has {rows} rows for {self.minibatches} "
                "minibatches. Raise --rollout-steps, or use --no-normalize-advantage."
            )

    def check_sequences(self, num_envs: int) -> None:
        """Raise UsageError where rollouts of so many envs have too few sequences for the minibatches, with memory."""
        count = num_envs * self.rollout_steps // (self.sequence_length or self.rollout_steps)
        if self.minibatches > count:
            raise UsageError(
                f"minibatches {self.minibatches} is more than the {count} sequences of a rollout, which a memory keeps "
                f"whole. Raise --num-envs, or lower --minibatches or --sequence-length (now "
                f"{self.sequence_length or self.rollout_steps})."
            )

    def unread(self, action_space: Space) -> Unread:
        """Also the final factor of an entropy bonus that is off, and how long sequences are without memory."""
        found = super().unread(action_space)
        if self.memory == "none" and self.network is None:
            found["sequence_length"] = "memory is none"
        if self.entropy_weight == 0.0:
            found["entropy_final"] = "entropy_weight is 0"
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "gamma", "gae_lambda")
        check_counts(self, "rollout_steps", "epochs", "minibatches", "sequence_length")
        if self.sequence_length is not None and self.rollout_steps % self.sequence_length:
            raise UsageError(
                f"sequence_length {self.sequence_length} must divide rollout_steps {self.rollout_steps} evenly."
            )
        check_not_negative(self, "value_weight", "entropy_weight", "entropy_final")
        check_positive(self, "critic_gain")
        if self.reward_scaling not in REWARD_SCALINGS:
            raise UsageError(f"reward_scaling {self.reward_scaling!r} must be one of {', '.join(REWARD_SCALINGS)}.")


class ActorCritic:
    """A policy and a value for S members, learned from rollouts. Subclasses define `update`."""

    Config: ClassVar[type] = ActorCriticConfig
    data: ClassVar[str] = "rollout"
    action_spaces: ClassVar[tuple[type, ...]] = (Discrete, MultiDiscrete, MultiBinary, Box)
    heads: ClassVar[tuple[str, ...]] = STOCHASTIC_HEADS
    learns_with_memory: ClassVar[bool] = True
    per_member: ClassVar[tuple[str, ...]] = PER_MEMBER
    terms: LossTerms

    def __init__(
        self,
        config: ActorCriticConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        self.config, self.seeds, self.device = config, tuple(seeds), device
        self._obs_space, self._action_space = obs_space, action_space
        spec = start or actor_spec(config, obs_space, action_space)
        self.head, self.preprocess, self.actor, self._policy = policy_parts(spec, seeds, device)
        if config.network is not None and start is None and draws_in_training(self.actor):
            raise UsageError(f"{type(self).__name__} learns without dropout; leave it out of the network.")
        self.model = PolicyAndValue(spec, self.actor, config.shared_body, config.critic_gain, self.seeds)
        self.critic = self.model.critic.to(device)
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = StackedOptimizer(OptimizerSettings.of(config), parameters)
        self.terms = LossTerms()
        self._noise = ActionNoise(self.head.noise, self.head.noise_width, seeds, device)
        self._rewards = RewardScaler(len(seeds), config.gamma, device) if config.reward_scaling == "running" else None
        self._explained = torch.zeros(len(seeds), device=device)  # variance of the present rollout's returns

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        """The policy head, as plain data."""
        return stochastic_head_json(action_space, config.squash)

    @property
    def networks(self) -> dict[str, StackedNetwork]:
        """What is trained, by name; the first is the policy's."""
        return {"actor": self.actor, "critic": self.critic}

    @property
    def optimizers(self) -> dict[str, StackedOptimizer]:
        return {"all": self.optimizer}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin from other weights: those of `policy().state_dict()` that `tensors` names."""
        self._policy.load_state_dict(tensors, strict=False)

    def load_critic(self, state: Mapping[str, Any], members: Sequence[int]) -> str | None:
        """Begin with the critic, and the scale of rewards, that another agent's `state()` holds.

        Member i takes those of `members[i]`. Returns the reason where it is impossible, None where it was done.
        """
        if "critic" in state and (state.get("rewards") is None) != (self._rewards is None):
            return "the existing one has learned from rewards of a different scale"
        reason = load_members(self.critic, state.get("critic", {}), members)
        if reason is None and self._rewards is not None:
            self._rewards.load_state({name: tensor[list(members)] for name, tensor in state["rewards"].items()})
        return reason

    def fields(self) -> tuple[Field, ...]:
        obs, action = self._obs_space, self._action_space
        state = self.model.initial_state(1).items()  # the one that every row was acted on with
        further = *(Field(name, tuple(value.shape[2:]), "float32") for name, value in state), *self.terms.fields()
        return Field("obs", obs.shape, obs.dtype), Field("action", action.shape, action.dtype), *further

    def sampler(self, storage: Storage, draws: Draws) -> RolloutSampler:
        config = self.config
        if self.model.has_memory:
            config.check_sequences(storage.num_envs)
        return RolloutSampler(storage, draws, config.rollout_steps, config.epochs, config.minibatches)

    def initial_state(self, rows: int) -> State:
        """What an episode begins with: the policy's state and those of a critic of its own and of loss terms; `{}`
        without memory."""
        return self.model.initial_state(rows) | self.terms.initial_state(rows)

    def scheduled(self, clock: Clock) -> Scheduled:
        """The learning rate and the weight of the entropy bonus, by when the rollout that ends now began: the last one
        still learns something."""
        config = self.config
        progress = max(0.0, clock.env_steps - clock.per_step * config.rollout_steps) / clock.total_env_steps
        entropy = per_member(config, lambda each: each.entropy_weight * (1.0 + (each.entropy_final - 1.0) * progress))
        rates = {**self.optimizer.scheduled(clock, progress), **self.terms.scheduled(clock)}
        return {"entropy weight": entropy, "rollout began": progress, **rates}

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        """Sampled actions `[S, N, *action]` for observations `[S, N, *obs]`."""
        with torch.no_grad():
            noise, (said, after) = self._noise.next(obs.shape[1]), self.terms.act(obs, state)
            if not self.model.has_memory:
                return Acted(self.head.act(self._policy.outputs(obs), self.preprocess.mask(obs), noise), said, after)
            outputs, following = self.model.act(self.preprocess(obs), state)
            own = {name: state[name] for name in following}
            return Acted(self.head.act(outputs, self.preprocess.mask(obs), noise), own | said, following | after)

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        """Nothing to follow: statistics stand still until a rollout has been learned from."""

    def value(self, obs: Tensor) -> Tensor:
        """What each member thinks observations `[S, B, *obs]` are worth, `[S, B]`, in units of the scaled reward;
        without memory."""
        return self.model.value(self.preprocess(obs))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The policy's outputs `[S, B, width]` and the values `[S, B]` of a minibatch, as `prepare` gave it."""
        if not self.model.has_memory:
            return self.model.forward(batch["obs"])
        return self.model.unroll(batch["obs"].flatten(1, 2), _start(batch), batch["begins"])

    def outputs(self, batch: Batch) -> Tensor:
        """The policy's outputs alone."""
        if not self.model.has_memory:
            outputs: Tensor = self.actor(batch["obs"])
            return outputs
        return self.model.unroll_policy(batch["obs"].flatten(1, 2), _start(batch), batch["begins"])

    def rows(self, batch: Batch) -> Batch:
        """A minibatch with all but what `forward` reads as rows `[S, B, ...]`: sequences lie one behind the other."""
        if not self.model.has_memory:
            return batch
        return {n: v if n in ("obs", "begins") or n.startswith(START) else v.flatten(1, 2) for n, v in batch.items()}

    def prepare(self, batch: Batch) -> Batch:
        """A rollout as rows `[S, N * T, ...]` that know their advantage and what their value should have been.

        With memory they are sequences `[S, N * T / L, L, ...]` of one env each, which minibatches do not cut, with the
        state that they begin with.

        The networks and the observations' statistics stand still while a rollout is collected and learned from, so
        that values and probabilities found here are the ones that the actions were chosen with.
        """
        reward, terminated, truncated = batch["reward"], batch["terminated"], batch["truncated"]
        if self._rewards is not None:
            reward = self._rewards.scale(reward, terminated | truncated, batch["valid"])
        with torch.no_grad():
            features, value, next_value = (self._remembered if self.model.has_memory else self._values)(batch)
            advantage, target = self.advantage(reward, value, next_value, terminated, truncated)
        rows = {"obs": features, "action": batch["action"].flatten(1, 2)}
        rows |= {"weight": self.weight(batch).to(reward.dtype).flatten(1)}
        rows |= {"advantage": advantage.flatten(1), "target": target.flatten(1), "value": value.flatten(1)}
        obs = batch["obs"][:, :, :-1].flatten(1, 2)
        mask = self.preprocess.mask(obs)
        rows |= {} if mask is None else {"mask": mask}
        said = {field.name: batch[field.name].flatten(1, 2) for field in self.terms.fields()}
        rows |= self.terms.prepare({"obs": obs, **said})
        self._explained.copy_(explained_variance(rows["value"], rows["target"], rows["weight"]))
        return self._sequences(rows, batch) if self.model.has_memory else rows

    def advantage(
        self, reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How much better than expected each row `[S, N, T]` went, and what its value should have been."""
        gamma, gae_lambda = over(self.config.gamma, reward), over(self.config.gae_lambda, reward)
        advantage = gae(reward, value, next_value, terminated, truncated, gamma, gae_lambda)
        return advantage, advantage + value

    def weight(self, batch: Batch) -> Tensor:
        """Which rows `[S, N, T]` of a rollout are learned from."""
        return batch["valid"]

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on rows `[S, B]` of the rollout under way; it ends with `learned`."""
        raise NotImplementedError

    def learned(self, metrics: dict[str, Tensor]) -> Updated:
        """What an update reports."""
        found = {name: value.detach() for name, value in metrics.items()}
        return Updated({**found, "value/explained_variance": self._explained.clone()})

    def rollout_learned(self, batch: Batch) -> None:
        """Fold the observations of a rollout into the running statistics."""
        self.preprocess.observe(batch["obs"][:, :, :-1], batch["valid"])

    def cut_episodes(self) -> None:
        """No discounted sum of rewards goes on into the next rollout."""
        if self._rewards is not None:
            self._rewards.cut_episodes()

    @property
    def reward_outliers(self) -> Outliers | None:
        """Rewards that were left out of the statistics that scale them; None where they are not scaled."""
        return None if self._rewards is None else self._rewards.outliers

    def policy(self) -> Policy:
        return self._policy

    def state(self) -> dict[str, Any]:
        """All but the rollout under way, which storage keeps."""
        return {
            "policy": self._policy.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizer": self.optimizer.state(),
            "noise": self._noise.state(),
            "rewards": None if self._rewards is None else self._rewards.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state(state["optimizer"])
        self._noise.load_state(state["noise"])
        if self._rewards is not None:
            self._rewards.load_state(state["rewards"])

    def _values(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The features of each row `[S, N * T, ...]`, the value of its observation and of its true successor
        `[S, N, T]`."""
        num_envs = batch["valid"].shape[1]  # of [S, N, T]
        features = self.preprocess(batch["obs"].flatten(1, 2))  # [S, N * (T + 1), ...]
        values = self.model.value(features).unflatten(1, (num_envs, -1))
        value, next_value = values[:, :, :-1], values[:, :, 1:]
        if batch["final_row"].shape[1]:
            hidden = self.value(batch["final_obs"])  # [S, K]
            # one column more than there are rows takes what members with fewer finals have too many
            flat = torch.cat([next_value.flatten(1), next_value.new_zeros(len(next_value), 1)], dim=1)
            next_value = flat.scatter(1, batch["final_row"], hidden)[:, :-1].reshape(value.shape)
        rows = features.unflatten(1, (num_envs, -1))[:, :, :-1].flatten(1, 2)  # without the one behind the last
        return rows, value, next_value

    def _remembered(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """As `_values`, with the states that were acted with: what follows a row is seen in the state behind it, also
        where the next row begins an episode."""
        features = self.preprocess(batch["obs"][:, :, :-1].flatten(1, 2))
        state = {name: batch[name].flatten(1, 2) for name in self.model.initial_state(1)}
        value, state = self.model.step_value(features, state)
        next_value, _ = self.model.step_value(self.preprocess(successors(batch)), state)
        shape = batch["valid"].shape
        return features, value.reshape(shape), next_value.reshape(shape)

    def _sequences(self, rows: Batch, batch: Batch) -> Batch:
        """Rows `[S, N * T, ...]` of a rollout as sequences of L vector steps."""
        length = self.config.sequence_length or self.config.rollout_steps
        rows = {"begins": begins(batch).flatten(1), **rows}
        sequences = {name: value.unflatten(1, (-1, length)) for name, value in rows.items()}
        state = {START + name: batch[name][:, :, ::length].flatten(1, 2) for name in self.model.initial_state(1)}
        return {**sequences, **state}


def _start(batch: Batch) -> State:
    """The state that the sequences of a minibatch begin with."""
    return {name.removeprefix(START): value for name, value in batch.items() if name.startswith(START)}


def policy_parts(
    spec: PolicySpec, seeds: Sequence[int], device: torch.device
) -> tuple[StochasticHead, Preprocess, StackedNetwork, Policy]:
    """A stochastic policy with fresh weights, and the head, the input and the network that it consists of."""
    head = build_head(spec.head, spec.action_space, trust=True).to(device)  # as the network below
    assert isinstance(head, StochasticHead)  # all of STOCHASTIC_HEADS are
    preprocess = Preprocess.from_json(spec.preprocess, spec.obs_space, len(seeds)).to(device)
    actor = build(spec.network, seeds, "actor", trust=True).to(device)
    return head, preprocess, actor, Policy(spec, preprocess, actor, seeds).eval()


def actor_spec(config: Any, obs_space: Space, action_space: Space) -> PolicySpec:
    """The policy that settings such as `ActorCriticConfig`'s ask for."""
    head = stochastic_head_json(action_space, config.squash)
    body = BodySettings.of(config, gain=config.init_gain)
    log_std = config.log_std_init if isinstance(action_space, Box) else None
    width = build_head(head, action_space).width
    network = actor_network_spec(obs_space, width, body, config.actor_gain, log_std)
    preprocess = Preprocess(obs_space, config.obs_scaling, config.obs_scale, members=None).to_json()
    return PolicySpec(obs_space, action_space, preprocess, network, head)
