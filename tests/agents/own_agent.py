"""An agent of one's own in one file: expected SARSA, for envs with vectors as observations and discrete actions.

    rlab train own_agent:ExpectedSarsa CartPole-v1 --seeds 5

Expected SARSA (van Seijen et al. 2009) learns what its own exploring behaviour is worth: where Q-learning bootstraps
from the best next action, it takes the mean over the actions that it would really choose. That is `next_value`.
All S members of a run learn at once: every tensor leads with S, and numbers never mix across S.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler, UniformSampler
from rlab.experience.storage import Storage
from rlab.learning.contract import Batch, Now, Updated
from rlab.learning.exploration import EpsilonGreedy
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.returns import continuation, n_step_return, q_td_error, squared
from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.memory import State
from rlab.networks.policy import Policy, PolicySpec
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Discrete, Space
from rlab.networks.spec import StackedNetwork, build
from rlab.types import Clock


@dataclass(frozen=True, kw_only=True)
class ExpectedSarsaConfig:
    """Every field becomes a flag: `--learning-rate 0.01`. The first six are what the training loop reads."""

    replay_capacity: int = 10_000  # transitions per member
    batch_size: int = 64  # transitions per update and member
    n_step: int = 1  # transitions per return
    learning_starts: int = 200  # env steps before the first update
    learn_every: int = 8  # env steps between rounds of updates
    updates_per_learn: int = 4
    gamma: float = 0.99  # discount per env step
    learning_rate: float = 1e-3  # Adam
    hidden: tuple[int, ...] = (64,)  # widths of the network's layers
    epsilon: float = 0.1  # share of random actions

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= 1.0:
            raise UsageError(f"epsilon {self.epsilon} must be in [0, 1].")


class ExpectedSarsa:
    """Expected SARSA: values of the exploring behaviour itself, without a target network."""

    Config: ClassVar[type] = ExpectedSarsaConfig
    data: ClassVar[str] = "replay"  # what it learns from
    action_spaces: ClassVar[tuple[type[Space], ...]] = (Discrete,)

    def __init__(
        self,
        config: ExpectedSarsaConfig,
        obs_space: Space,
        action_space: Space,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        if not isinstance(obs_space, Box) or len(obs_space.shape) != 1:
            raise UsageError(f"ExpectedSarsa needs vectors as observations, not {obs_space}.")
        assert isinstance(action_space, Discrete)  # as action_spaces says
        self.config, self.device, self._obs_space = config, device, obs_space
        # A network is plain data first: from it a saved policy is rebuilt without this file.
        network = q_network_spec(obs_space, action_space.n, BodySettings(config.hidden))
        preprocess = Preprocess(obs_space, "none", None, len(seeds))
        self.q_network = build(network, seeds).to(device)
        head = {"kind": "q", "epsilon": config.epsilon}
        spec = PolicySpec(obs_space, action_space, preprocess.to_json(), network, head)
        self._policy = Policy(spec, preprocess, self.q_network, seeds).eval()
        self.optimizer = StackedOptimizer(OptimizerSettings("adam", config.learning_rate), self.q_network.parameters())
        self._exploration = EpsilonGreedy(action_space.n, seeds, device=device)

    @property
    def networks(self) -> dict[str, StackedNetwork]:
        """What is trained, by name; the first is the policy's."""
        return {"q_network": self.q_network}

    @property
    def optimizers(self) -> dict[str, StackedOptimizer]:
        """By name; what rlab does to an agent from outside, such as pruning, it does here."""
        return {"q_network": self.optimizer}

    def fields(self) -> tuple[Field, ...]:
        """How replay stores an observation and an action."""
        return Field("obs", self._obs_space.shape, self._obs_space.dtype), Field("action", (), "int64")

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        """How batches are drawn from what is stored: uniformly."""
        return UniformSampler(storage, draws, self.config.n_step)

    def scheduled(self, clock: Clock) -> dict[str, float]:
        """The numbers that follow the clock: `now` has them. Those with a slash in their name are logged."""
        return {"explore/epsilon": self.config.epsilon, **self.optimizer.scheduled(clock)}

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        """Actions `[S, N]`, counted from 0, for observations `[S, N, *obs]`."""
        with torch.no_grad():
            q = self._policy.outputs(obs)
        return Acted(self._exploration.choose(q.argmax(dim=-1), now["explore/epsilon"]))

    def observe(self, obs: Tensor, step: Step, now: Now) -> None:
        """Nothing to follow: there is no target network and no running statistic."""

    def prepare(self, batch: Batch) -> Batch:
        """What holds for all updates until the next env step: rewards and discounts of the sampled windows."""
        discount = continuation(batch["terminated"], self.config.gamma, batch["steps"])
        return {**batch, "reward": n_step_return(batch["reward"], self.config.gamma), "discount": discount}

    def update(self, batch: Batch, now: Now) -> Updated:
        """One gradient step on `[S, B]` transitions; metrics are `[S]`."""
        q = self._policy.outputs(batch["obs"])
        with torch.no_grad():
            next_value = self.next_value(self._policy.outputs(batch["next_obs"]))
        error = q_td_error(q, batch["action"], batch["reward"], batch["discount"], next_value)
        loss = squared(error).mean(dim=-1)  # over B, never over S
        norm = self.optimizer.step(loss, now)
        return Updated({"loss/td_squared": loss.detach(), "q/mean": q.detach().mean(dim=(1, 2)), "grad/norm": norm})

    def next_value(self, next_q: Tensor) -> Tensor:
        """The mean value of an epsilon-greedy choice: `[S, B, A] -> [S, B]`."""
        epsilon = self.config.epsilon
        return (1.0 - epsilon) * next_q.amax(dim=-1) + epsilon * next_q.mean(dim=-1)

    def policy(self) -> Policy:
        """The greedy policy of all members; it is what gets judged, saved and served."""
        return self._policy

    def state(self) -> dict[str, Any]:
        """All that training needs to go on: weights, moments, and where the random streams stand."""
        return {
            "policy": self._policy.state_dict(),
            "optimizer": self.optimizer.state(),
            "exploration": self._exploration.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self._policy.load_state_dict(state["policy"])
        self.optimizer.load_state(state["optimizer"])
        self._exploration.load_state(state["exploration"])
