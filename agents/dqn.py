"""Deep Q-learning (Mnih et al. 2015) with the switches of its family: n-step targets, dueling heads, LayerNorm, hard
or soft target updates, Huber or squared error. Read from top to bottom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError, unknown
from rlab.experience.contract import Step
from rlab.experience.lanes import Field
from rlab.learning.contract import Batch
from rlab.learning.exploration import EpsilonGreedy, linear
from rlab.learning.optimizers import OptimizerSettings, Stepper
from rlab.learning.returns import LOSSES, continuation, max_value, n_step_return, q_td_error
from rlab.learning.schedules import Schedule
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import Policy, PolicySpec
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Discrete, Masked, Space
from rlab.networks.spec import build, copy_parameters, generator_states, load_generator_states
from rlab.types import Clock, crossed


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Settings of DQN and double DQN. Steps are env steps of one member, summed over its envs."""

    gamma: float = 0.99  # discount per env step; Mnih et al. 2015, Extended Data Table 1
    learning_rate: float = 1e-3  # differs from the paper: Adam on small networks instead of RMSProp on images
    batch_size: int = 64  # transitions per update and member
    replay_capacity: int = 50_000  # transitions per member
    learning_starts: int = 500  # env steps before the first update
    learn_every: int = 8  # env steps
    updates_per_learn: int = 4  # so one update every 2 env steps
    n_step: int = 1  # transitions per return; Sutton and Barto 2018, chapter 7
    loss: str = "huber"  # huber or squared; Huber is the paper's error clipping
    target_every: int = 250  # env steps between target updates
    target_tau: float = 1.0  # share of the online weights that the target takes over; 1 is a hard copy
    epsilon_start: float = 1.0  # share of random actions; Mnih et al. 2015
    epsilon_end: float = 0.05  # the paper has 0.1 and evaluates at 0.05
    epsilon_fraction: float = 0.2  # of the budget, over which epsilon falls linearly
    epsilon_duration: float | None = None  # exponent of how long an exploring action is held; Dabney et al. 2021 have 2
    hidden: tuple[int, ...] | None = None  # widths; None: 64 64 for vectors, 512 or 128 after convolutions
    activation: str = "relu"  # relu, tanh, elu, gelu, silu or leaky_relu
    layer_norm: bool = True  # after every hidden layer; Ba et al. 2016. The paper's DQN has none
    dropout: float = 0.0  # share of hidden units set to zero in updates
    init: str = "pytorch"  # pytorch, orthogonal, xavier or he
    dueling: bool = False  # Wang et al. 2016
    obs_scaling: str = "none"  # none, fixed (divide by obs_scale) or running (mean and deviation per member)
    obs_scale: tuple[float, ...] | None = None  # one divisor per component; None: the space's finite bounds
    optimizer: str = "adam"  # sgd, momentum, adagrad, adadelta, rmsprop, adam, adamw or radam
    optimizer_eps: float | None = 1.5e-4  # Hessel et al. 2018, table 1; None: torch's default
    weight_decay: float = 0.0  # decoupled for adamw, added to the gradient otherwise
    l1: float = 0.0  # weight of the sum of absolute parameters
    max_grad_norm: float | None = 10.0  # per member; Stable-Baselines3's default. None: no clipping
    lr_schedule: str = "constant"  # constant, linear, cosine or step
    lr_final: float = 0.05  # factor at the end of linear and cosine; factor of each step of step
    lr_warmup_fraction: float = 0.0  # of the budget
    lr_steps: int = 3  # stretches of the step schedule

    def __post_init__(self) -> None:
        _check(self)


class DQN:
    """Deep Q-learning: off-policy, with replay and a target network."""

    Config: ClassVar[type] = DQNConfig
    data: ClassVar[str] = "replay"
    action_spaces: ClassVar[tuple[type, ...]] = (Discrete,)

    def __init__(
        self, config: DQNConfig, obs_space: Space, action_space: Space, seeds: Sequence[int], device: torch.device
    ) -> None:
        assert isinstance(action_space, Discrete)  # as action_spaces says
        self.config, self.seeds, self.device = config, tuple(seeds), device
        self._obs_space, self._action_space = obs_space, action_space
        body = BodySettings(config.hidden, config.activation, config.layer_norm, config.dropout, config.init)
        network = q_network_spec(obs_space, action_space.n, body, config.dueling)
        self.preprocess = Preprocess(obs_space, config.obs_scaling, config.obs_scale, len(seeds)).to(device)
        self.q_network = build(network, seeds, "q_network").to(device)
        self.target_network = build(network, seeds, "q_network").to(device).requires_grad_(False).eval()
        self._policy = Policy(self._policy_spec(network), self.preprocess, self.q_network, seeds).eval()
        self.stepper = Stepper(
            OptimizerSettings(
                config.optimizer,
                config.learning_rate,
                config.weight_decay,
                config.l1,
                config.optimizer_eps,
                config.max_grad_norm,
            ),
            self.q_network.parameters(),
        )
        self.schedule = Schedule(config.lr_schedule, config.lr_final, config.lr_warmup_fraction, config.lr_steps)
        masked = isinstance(obs_space, Masked)
        self._exploration = EpsilonGreedy(action_space.n, seeds, config.epsilon_duration, masked)

    def fields(self) -> tuple[Field, Field]:
        return Field("obs", self._obs_space.shape, self._obs_space.dtype), Field("action", (), "int64")

    def act(self, obs: np.ndarray, clock: Clock) -> np.ndarray:
        with torch.inference_mode():
            tensor = torch.from_numpy(obs).to(self.device)
            q, allowed = self._policy.outputs(tensor), self.preprocess.mask(tensor)
            greedy = _only_allowed(q, allowed).argmax(dim=-1).cpu().numpy()  # [S, N, A] -> [S, N]
            mask = None if allowed is None else allowed.cpu().numpy()
            return self._exploration.choose(greedy, self.epsilon(clock), mask)

    def epsilon(self, clock: Clock) -> float:
        """The share of random actions at this time."""
        config = self.config
        return linear(config.epsilon_start, config.epsilon_end, config.epsilon_fraction, clock.progress)

    def observe(self, obs: np.ndarray, step: Step, clock: Clock) -> None:
        """Fold new observations into the running statistics; update the target network when its time has come."""
        self.preprocess.observe(obs, step.valid)
        before, every = clock.env_steps - step.reward.shape[1], self.config.target_every
        if crossed(before, clock.env_steps, every):
            self._update_target(clock.env_steps // every - before // every)

    def prepare(self, batch: Batch) -> Batch:
        """All that stays the same until the next env step, for many batches at once: the target network is still."""
        gamma = self.config.gamma
        with torch.no_grad():
            next_obs = self.preprocess(batch["next_obs"])
            allowed = self.preprocess.mask(batch["next_obs"])
            return {
                "obs": self.preprocess(batch["obs"]),
                "action": batch["action"],
                "reward": n_step_return(batch["reward"], gamma),
                "discount": continuation(batch["terminated"], gamma, batch["steps"]),
                "next_obs": next_obs,
                "next_q": _only_allowed(self.target_network(next_obs), allowed),
            }

    def update(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """One gradient step on prepared transitions `[S, B]`."""
        self.stepper.set_learning_rate_factor(self.schedule.factor(clock.progress))
        loss, q = self.loss(batch)
        norm = self.stepper.step(loss)
        return {f"loss/td_{self.config.loss}": loss.detach(), "q/mean": q.detach().mean(dim=(1, 2)), "grad/norm": norm}

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss per member `[S]`, averaged over its batch, and the Q values `[S, B, A]`."""
        q = self._training_network(batch["obs"])
        with torch.no_grad():
            next_value = self.next_value(batch["next_q"], batch["next_obs"])
        error = q_td_error(q, batch["action"], batch["reward"], batch["discount"], next_value)
        return LOSSES[self.config.loss](error).mean(dim=-1), q

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

    def _training_network(self, obs: Tensor) -> Tensor:
        """The online network with its dropout on; everywhere else it is off."""
        if self.config.dropout == 0.0:
            q: Tensor = self.q_network(obs)
            return q
        self.q_network.train()
        q = self.q_network(obs)
        self.q_network.eval()
        return q

    @torch.no_grad()
    def _update_target(self, times: int) -> None:
        if self.config.target_tau == 1.0:
            copy_parameters(self.q_network, self.target_network)
            return
        online = [p.detach() for p in self.q_network.parameters()]
        # A vector step may pass several multiples of target_every; the online weights stand still in between.
        share = 1.0 - (1.0 - self.config.target_tau) ** times
        torch._foreach_lerp_(list(self.target_network.parameters()), online, share)

    def _policy_spec(self, network: Any) -> PolicySpec:
        head = {"kind": "q", "epsilon": self.config.epsilon_end}
        return PolicySpec(self._obs_space, self._action_space, self.preprocess.to_json(), network, head)


def _only_allowed(q: Tensor, allowed: Tensor | None) -> Tensor:
    """Q values that no maximum takes where an action is not allowed; None allows all."""
    return q if allowed is None else q.masked_fill(~allowed, -torch.inf)


def _check(config: DQNConfig) -> None:
    if config.loss not in LOSSES:
        raise unknown("loss", config.loss, LOSSES)
    for name in ("batch_size", "replay_capacity", "learn_every", "updates_per_learn", "n_step", "target_every"):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} {getattr(config, name)} must be 1 or more.")
    for name in ("gamma", "epsilon_start", "epsilon_end", "epsilon_fraction"):
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise UsageError(f"{name} {getattr(config, name)} must be in [0, 1].")
    if not 0.0 < config.target_tau <= 1.0:
        raise UsageError(f"target_tau {config.target_tau} must be in (0, 1]; 1 is a hard copy.")
    for name in ("batch_size", "n_step"):
        if getattr(config, name) > config.replay_capacity:
            raise UsageError(f"{name} {getattr(config, name)} is more than replay_capacity {config.replay_capacity}.")
    if config.epsilon_duration is not None and config.epsilon_duration <= 1.0:
        raise UsageError(f"epsilon_duration {config.epsilon_duration} must be above 1; None: one step.")
    if config.learning_starts < 0:
        raise UsageError(f"learning_starts {config.learning_starts} must be 0 or more.")
