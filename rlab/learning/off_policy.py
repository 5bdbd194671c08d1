"""What SAC, TD3 and their relatives have in common: a policy, an ensemble of critics with slow copies, acting, and
turning rows of replay into what they learn from. An agent adds its settings, how it explores and its update."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.learning.action_values import critic_errors
from rlab.learning.choices import Activation, Init
from rlab.learning.common_config import Unread
from rlab.learning.contract import Batch, Now, Scheduled, updates_in_round
from rlab.learning.demonstration_losses import CloningTerm
from rlab.learning.exploration import UniformActions
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.per_member import OF_OPTIMIZERS, first_of
from rlab.learning.replay_settings import ReplaySettings, replay_sampler, replay_schedule, weighed
from rlab.learning.returns import continuation, n_step_return, squared, weighted_mean
from rlab.learning.targets import follow
from rlab.learning.terms import LossTerms
from rlab.networks.bodies import BodySettings, actor_network_spec
from rlab.networks.critics import Ensemble, action_value_spec, build_ensemble
from rlab.networks.heads import build_head
from rlab.networks.memory import State
from rlab.networks.policy import Policy, PolicySpec, build_policy
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Discrete, Space
from rlab.networks.spec import (
    copy_parameters,
    draw_states,
    draws_in_training,
    in_training,
    load_draw_states,
    load_members,
)
from rlab.ranges import check_counts, check_not_negative, check_positive_shares, check_shares
from rlab.search_ranges import chosen, searched, unsearched
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(ReplaySettings):
    """Settings that all off-policy actor-critics share; each states its own defaults where they differ.

    The numbers are SAC's (Haarnoja et al. 2018b, table 1), which TD3's authors took over in their code. Steps are env
    steps of one member, summed over its envs.
    """

    gamma: float = searched(0.99, 0.9, 0.9999, "one_minus")  # discount per env step; Haarnoja et al. 2018b, table 1
    learning_rate: float = 3e-4  # of all networks; Haarnoja et al. 2018b, table 1
    # transitions per update and member; Haarnoja et al. 2018b, table 1
    batch_size: int = searched(256, 64, 1024, "powers")
    replay_capacity: int = 1_000_000  # transitions per member; Haarnoja et al. 2018b, table 1
    learning_starts: int = 1_000  # env steps of uniform actions before updates; Fujimoto et al. 2018, section 6
    learn_every: int = 1  # env steps between rounds of updates
    updates_per_learn: int = unsearched(1)  # updates in a round
    utd: int | None = None  # updates per env step: a round then has learn_every times as many; Chen et al. 2021
    n_step: int = 1  # transitions per return; Sutton and Barto 2018, chapter 7
    # share of the networks that their targets take over each time; Haarnoja et al. 2018b
    target_tau: float = searched(0.005, 0.001, 0.08, "log")
    # updates of the critics for each of the policy; None: those of one env step; Fujimoto et al. 2018, section 5.2
    policy_delay: int | None = 1
    # of hidden layers, behind convolutions; Haarnoja et al. 2018b, table 1
    hidden: tuple[int, ...] | None = chosen((256, 256), (64, 64), (400, 300))
    critic_hidden: tuple[int, ...] | None = None  # of those of the critics; None: as wide as the policy's
    activation: Activation = "relu"  # after every hidden layer; Haarnoja et al. 2018b, table 1
    init: Init = "pytorch"  # how the first weights are drawn; as in the code of TD3's authors

    cloning_weight: float = 0.0  # of demonstrated actions' loss beside the policy's; 0: none; Nair et al. 2018

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "gamma")
        check_not_negative(self, "cloning_weight")
        check_counts(self, "batch_size", "utd", "n_step", "policy_delay")
        check_positive_shares(self, "target_tau")

    def unread(self, action_space: Space) -> Unread:
        """Also the updates of a round, where utd says how many there are."""
        found = super().unread(action_space)
        if self.utd is not None:
            found["updates_per_learn"] = f"utd {self.utd} says how many updates there are"
        return found


class OffPolicy:
    """An actor and critics for S members, learned from replay. Subclasses define `head_json`, `explore` and `update`.

    Continuous actions are in units in which [-1, 1] is the space wherever a critic sees them; choices are columns of
    what a critic gives.
    """

    Config: ClassVar[type] = OffPolicyConfig
    data: ClassVar[str] = "replay"
    action_spaces: ClassVar[tuple[type, ...]] = (Box,)
    needs_bounds: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]]
    num_critics: int = 2
    slow_copies: ClassVar[bool] = True  # whether the critics learn from copies of themselves that follow them
    networks: dict[str, nn.Module]
    optimizers: dict[str, StackedOptimizer]
    per_member: ClassVar[tuple[str, ...]] = (
        *OF_OPTIMIZERS,
        *("gamma", "n_step", "target_tau", "cloning_weight", "priority_beta"),
    )
    terms: LossTerms

    def __init__(
        self,
        config: OffPolicyConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
        start: PolicySpec | None = None,
    ) -> None:
        self.config, self.seeds, self.device = config, tuple(seeds), device
        self._obs_space, self._action_space = obs_space, action_space
        self._begins_fresh = start is None
        self._check_bounds()
        # trust: the layers of a given policy or network were checked where it was opened
        spec = start or self.policy_spec(first_of(config), obs_space, action_space)
        self._policy = build_policy(spec, seeds, trust=True)
        self._policy.to(device)
        self.head: Any = self._policy.head
        self.preprocess, self.actor = self._policy.preprocess, self._policy.network
        if config.network is not None and start is None and draws_in_training(self.actor):
            raise UsageError(f"{type(self).__name__} learns without dropout; leave it out of the network.")
        self.critics = self._ensemble("critic")
        if self.slow_copies:
            self.target_critics = self._ensemble("target critic").requires_grad_(False)
            copy_parameters(self.critics, self.target_critics)
        self.networks = {"actor": self.actor, "critics": self.critics}
        settings = self.optimizer_settings(config)
        self.optimizers = {
            "actor": StackedOptimizer(settings, self.actor.parameters()),
            "critics": StackedOptimizer(settings, self.critics.parameters(), len(self.seeds), "critics"),
        }
        self.terms = LossTerms(*CloningTerm.of(config, self._policy))
        self.updates = 0  # see `moves_policy`
        self._uniform = UniformActions(self.head, action_space, seeds, device)

    def _check_bounds(self) -> None:
        """Refuse a Box without bounds: neither uniform actions nor a tanh make sense there."""
        space = self._action_space
        if not isinstance(space, Box):
            return
        head: Any = build_head({"kind": "gaussian"}, space)
        if not head.bounded.all():
            first = int(np.flatnonzero(~head.bounded)[0])
            low, high = (np.broadcast_to(bound, head.size)[first] for bound in (space.low, space.high))
            limits = ", the limits of float numbers, which stand for no bound" if np.isfinite([low, high]).all() else ""
            raise UsageError(
                f"{type(self).__name__} needs two finite bounds for each number of an action, and number {first} of "
                f"{space} has {low:g} to {high:g}{limits}: use ppo or a2c, or bound the env's actions in a wrapper of "
                "your own."
            )

    @staticmethod
    def optimizer_settings(config: Any) -> OptimizerSettings:
        """How the policy and the critics are stepped."""
        return OptimizerSettings.of(config)

    @staticmethod
    def actor_body(config: Any) -> BodySettings:
        """The hidden layers of the policy."""
        return BodySettings.of(config)

    @staticmethod
    def critic_body(config: Any) -> BodySettings:
        """The hidden layers of a critic."""
        body = BodySettings.of(config)
        return body if config.critic_hidden is None else replace(body, hidden=config.critic_hidden)

    def _ensemble(self, use: str) -> Ensemble:
        """The critics: Q(s, a) of a Box, the values of all actions of choices."""
        choices = isinstance(self._action_space, Discrete)
        width, outputs = (0, self.head.width) if choices else (self.head.size, 1)
        spec = action_value_spec(self._obs_space, width, self.critic_body(self.config), outputs)
        return build_ensemble(spec, self.seeds, use, self.num_critics, trust=True).to(self.device)

    @classmethod
    def policy_spec(cls, config: Any, obs_space: Space, action_space: Space) -> PolicySpec:
        """The policy that the settings ask for, as plain data."""
        head = cls.head_json(config, action_space)
        width = build_head(head, action_space, trust=True).width
        network = actor_network_spec(obs_space, width, cls.actor_body(config), output_gain=1.0)
        preprocess = Preprocess(obs_space, config.obs_scaling, config.obs_scale, members=None).to_json()
        return PolicySpec(obs_space, action_space, preprocess, network, head)

    @staticmethod
    def head_json(config: Any, action_space: Space) -> dict[str, Any]:
        """The policy head, as plain data."""
        raise NotImplementedError

    @property
    def targets(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Slow copies by name, each with the network that it follows."""
        return {"target_critics": (self.target_critics, self.critics)} if self.slow_copies else {}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin from other weights: those of `policy().state_dict()` that `tensors` names. Targets follow."""
        self._policy.load_state_dict(tensors, strict=False)
        for target, network in self.targets.values():
            copy_parameters(network, target)

    def load_critic(self, state: Mapping[str, Any], members: Sequence[int]) -> str | None:
        """Begin with the critics that another agent's `state()` holds; `load_weights` follows."""
        return load_members(self.critics, state.get("critics", {}), members)

    def fields(self) -> tuple[Field, ...]:
        obs, action = self._obs_space, self._action_space
        return Field("obs", obs.shape, obs.dtype), Field("action", action.shape, action.dtype)

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        return replay_sampler(self.config, storage, draws)

    def scheduled(self, clock: Clock) -> Scheduled:
        """Whether actions are uniform, the learning rates, the weights of loss terms and of transitions."""
        begins = self._begins_fresh and clock.env_steps < self.config.learning_starts
        found: dict[str, float | np.ndarray] = {"explore/uniform": float(begins)}
        found |= replay_schedule(self.config, clock) | self.terms.scheduled(clock)
        for optimizer in self.optimizers.values():
            found |= optimizer.scheduled(clock)
        return found

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        """Uniform actions until learning starts, then what `explore` gives."""
        with torch.no_grad():
            allowed = self.preprocess.mask(obs)
            chosen = self.explore(self._policy.outputs(obs), allowed)
            return Acted(self._uniform.instead_of(chosen, now["explore/uniform"], allowed))

    def explore(self, outputs: Tensor, allowed: Tensor | None) -> Tensor:
        """Exploring actions for the policy's outputs, in the env's units."""
        raise NotImplementedError

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        self.preprocess.observe(obs, step.valid)

    def prepare(self, batch: Batch) -> Batch:
        """What the networks see; a time limit is not an ending."""
        gamma = self.config.gamma
        rows = {name: self.preprocess(batch[name]) for name in ("obs", "next_obs")}
        for name, given in (("mask", "obs"), ("next_mask", "next_obs")):
            if (allowed := self.preprocess.mask(batch[given])) is not None:
                rows[name] = allowed
        choices = isinstance(self._action_space, Discrete)
        rows["action"] = batch["action"] if choices else self.head.normalised(batch["action"])
        rows["reward"] = n_step_return(batch["reward"], gamma)
        rows["discount"] = continuation(batch["terminated"], gamma, batch["steps"])
        if "weight" in batch:  # of a sampler that does not draw uniformly
            rows["weight"] = batch["weight"]
        return rows | self.terms.prepare(batch)

    def moves_policy(self) -> bool:
        """Whether the present update is one that moves the policy too: every `update_period`-th is. Called once in it.

        Called as it is an update counts itself; in a program it is of a known kind, and the loop counts.
        """
        number = self.updates + 1
        if not torch.compiler.is_compiling():
            self.updates = number
        return number % self.update_period == 0

    @property
    def update_period(self) -> int:
        """Every so many updates one moves the policy too."""
        config = self.config
        if config.policy_delay is not None:
            return config.policy_delay
        return max(1, round(updates_in_round(config) / config.learn_every))

    def q_values(self, critics: Callable[..., Tensor], obs: Tensor, action: Tensor | None = None) -> Tensor:
        """What each critic of a member says of continuous actions `[S, B, d]`: `[S, C, B]`; of all choices, where no
        action is given: `[S, C, B, A]`."""
        values: Tensor = critics(obs) if action is None else critics(obs, action).squeeze(-1)
        return values

    def step_critics(self, q: Tensor, batch: Batch, next_value: Tensor, now: Now) -> tuple[dict[str, Tensor], Tensor]:
        """A step of all critics, whose values of the rows' actions are `q [S, C, B]`, towards the targets that
        `next_value [S, B]` gives; metrics, and the mean absolute errors `[S, B]` for the sampler."""
        errors = critic_errors(q, batch["reward"], batch["discount"], next_value)
        loss = weighted_mean(squared(errors).sum(dim=1), weighed(batch, now).get("weight"))
        norm = self.optimizers["critics"].step(loss, now)
        metrics = {"loss/critics": loss.detach(), "q/mean": q.detach().mean(dim=(1, 2)), "grad/critics_norm": norm}
        return metrics, errors.detach().abs().mean(dim=1)

    def step_actor(self, loss: Tensor, outputs: Tensor, batch: Batch, now: Now) -> dict[str, Tensor]:
        """A step of the policy's network, which gave `outputs`, down `loss [S]` and the terms from outside."""
        whole, metrics = self.terms.add_to(loss, outputs, batch, now)
        norm = self.optimizers["actor"].step(whole, now)
        return {"loss/actor": loss.detach(), **metrics, "grad/norm": norm}

    def learning_actor(self, obs: Tensor) -> Tensor:
        """The outputs of the policy's network for an update that moves it, in training mode unless it stands still."""
        learns = self.optimizers["actor"].learning()
        outputs: Tensor = (in_training(self.actor) if learns else self.actor)(obs)
        return outputs

    def follow_targets(self) -> None:
        """All targets take over their share."""
        for target, network in self.targets.values():
            follow(target, network, self.config.target_tau)

    def policy(self) -> Policy:
        return self._policy

    def _modules(self) -> dict[str, nn.Module]:
        """All networks by the names that `state` has for them."""
        others = {name: network for name, network in self.networks.items() if name != "actor"}
        return {"policy": self._policy, **others, **{name: target for name, (target, _) in self.targets.items()}}

    def _parts(self) -> dict[str, Any]:
        """All else with a state of its own: optimizers and draws."""
        return {f"{name} optimizer": optimizer for name, optimizer in self.optimizers.items()} | {
            "uniform actions": self._uniform
        }

    def state(self) -> dict[str, Any]:
        modules = self._modules()
        return {
            **{name: module.state_dict() for name, module in modules.items()},
            **{name: part.state() for name, part in self._parts().items()},
            "dropout": {name: draw_states(module) for name, module in modules.items()},
            "updates": self.updates,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
            load_draw_states(module, state["dropout"][name])
        for name, part in self._parts().items():
            part.load_state(state[name])
        self.updates = state["updates"]
