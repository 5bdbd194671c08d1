"""A training loop in the smallest world: an env that counts, and an agent that only notes what it is asked to do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlab.draws import Draws
from rlab.experience.collector import Collector
from rlab.experience.env_contract import Acted, Step
from rlab.experience.fields import Field
from rlab.experience.samplers import Sampler, UniformSampler
from rlab.experience.sequence_samplers import RolloutSampler
from rlab.experience.storage import Storage
from rlab.learning.base_loop import Periods
from rlab.learning.contract import Batch, LoopListener, Now, Updated
from rlab.learning.loop import EnvLoop, ReplayLoop
from rlab.learning.rollout_loop import RolloutLoop
from rlab.networks.memory import State
from rlab.networks.spaces import Box, Discrete
from rlab.types import Clock


class CountingEnv:
    """Observes the vector step; reward 1; every episode ends after `length` steps."""

    obs_space, action_space = Box((1,), "float32", 0.0, 1e6), Discrete(2)
    device, on_host, has_reset_rows, time_limit = torch.device("cpu"), True, False, None
    restarts = None

    def __init__(self, seeds: Sequence[int], num_envs: int, length: int = 5) -> None:
        self.seeds, self.num_envs, self.length, self.t = tuple(seeds), num_envs, length, 0

    def _obs(self) -> Tensor:
        return torch.full((len(self.seeds), self.num_envs, 1), float(self.t))

    def reset(self) -> Tensor:
        return self._obs()

    def step(self, action: Tensor) -> Step:
        self.t += 1
        lanes, obs = (len(self.seeds), self.num_envs), self._obs()
        ended, never = torch.full(lanes, self.t % self.length == 0), torch.zeros(lanes, dtype=torch.bool)
        return Step(obs, obs, torch.ones(lanes), ended, never, ~never)

    def state(self) -> dict[str, Any]:
        return {"t": self.t}

    forgets = False  # whether it cannot take up episodes under way

    def load_state(self, state: dict[str, Any]) -> str | None:
        self.t = state["t"]
        return "it forgets" if self.forgets else None

    def suspend(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class NotingConfig:
    replay_capacity: int = 1000
    batch_size: int = 4
    n_step: int = 1
    learning_starts: int = 0
    learn_every: int = 1
    updates_per_learn: int = 1


@dataclass(frozen=True)
class RollingConfig:
    rollout_steps: int = 5
    epochs: int = 1
    minibatches: int = 1


class Weights(nn.Linear):
    """What the loop needs of a policy: weights, and no memory."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def initial_state(self, rows: int) -> State:
        return {}


class NotingAgent:
    """Its loss counts its updates; `updated_at`, `drawn` and `prepared` are its diary."""

    Config: ClassVar[type] = NotingConfig
    data = "replay"
    device = torch.device("cpu")
    optimizers: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: Any, seeds: Sequence[int]) -> None:
        self.config, self.seeds = config, tuple(seeds)
        self.updated_at: list[int] = []
        self.drawn: list[Tensor] = []
        self.prepared: list[int] = []

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        return UniformSampler(storage, draws, self.config.n_step)

    def scheduled(self, clock: Clock) -> dict[str, float]:
        return {"explore/progress": clock.progress, "env steps": clock.env_steps}

    def act(self, obs: Tensor, now: Now, state: State) -> Acted:
        return Acted(torch.zeros(obs.shape[:2], dtype=torch.int64))

    def observe(self, obs: Tensor, step: Step, now: Now) -> None: ...

    def prepare(self, batch: Batch) -> Batch:
        self.prepared.append(batch["reward"].shape[1])
        return batch

    def update(self, batch: Batch, now: Now) -> Updated:
        self.updated_at.append(int(now["env steps"]))
        self.drawn.append(batch["obs"][:, :, 0])
        return Updated({"loss": torch.full((len(self.seeds),), float(len(self.updated_at)))})

    def policy(self) -> Any:
        return Weights()

    def state(self) -> dict[str, Any]:
        return {"updates": len(self.updated_at)}

    def load_state(self, state: dict[str, Any]) -> None: ...


class RollingAgent(NotingAgent):
    """Learns from rollouts; each row knows whose it is, its number `n * T + t`, and what was observed there."""

    Config: ClassVar[type] = RollingConfig
    data = "rollout"

    def __init__(self, config: Any, seeds: Sequence[int]) -> None:
        super().__init__(config, seeds)
        self.rollouts: list[Batch] = []
        self.batches: list[Batch] = []

    def sampler(self, storage: Storage, draws: Draws) -> Sampler:
        config = self.config
        return RolloutSampler(storage, draws, config.rollout_steps, config.epochs, config.minibatches)

    def prepare(self, batch: Batch) -> Batch:
        self.rollouts.append(batch)
        number = torch.arange(batch["reward"][0].numel()).repeat(len(self.seeds), 1)
        seed = torch.tensor(self.seeds).unsqueeze(1).expand_as(number)
        return {"row": number, "seed": seed, "obs": batch["obs"][:, :, :-1].flatten(1, 2)}

    def update(self, batch: Batch, now: Now) -> Updated:
        self.batches.append(batch)
        return super().update(batch, now)


class Diary:
    """A listener that keeps all that it hears."""

    def __init__(self) -> None:
        self.metrics: dict[int, Mapping[str, np.ndarray]] = {}
        self.evaluated: list[int] = []
        self.saved: list[int] = []

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        self.metrics[env_steps] = metrics

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        self.evaluated.append(env_steps)

    def on_save(self, env_steps: int) -> None:
        self.saved.append(env_steps)


def make_loop(
    env_steps: int,
    seeds: Sequence[int] = (3, 4),
    num_envs: int = 1,
    periods: tuple[int, int, int] = (10**9, 10**9, 10**9),
    should_stop: Callable[[], bool] = lambda: False,
    agent: type[NotingAgent] = NotingAgent,
    listeners: Sequence[LoopListener] = (),
    length: int = 5,
    **config: int,
) -> EnvLoop:
    """`periods`: log, evaluate, save. `length`: env steps of an episode. The loop is the one that the agent needs."""
    learner = agent(agent.Config(**config), seeds)
    fields = Field("obs", (1,), "float32"), Field("action", (), "int64")
    loop: type[EnvLoop] = RolloutLoop if agent.data == "rollout" else ReplayLoop
    rows = learner.config.rollout_steps * num_envs if agent.data == "rollout" else learner.config.replay_capacity
    storage = Storage(len(seeds), num_envs, rows, fields)
    sampler = learner.sampler(storage, Draws(seeds, loop.stream_use, "cpu"))
    judged = SimpleNamespace(returns=np.zeros((len(seeds), 1)), lengths=np.ones((len(seeds), 1)))
    collector = Collector(CountingEnv(seeds, num_envs, length))
    place = learner, collector, storage, sampler, env_steps
    return loop(*place, Periods(*periods), lambda: judged, listeners, should_stop)


@pytest.fixture
def small() -> SimpleNamespace:
    """`small.loop(...)` makes a loop, of `small.RollingAgent` where asked; `small.Diary()` is a listener."""
    return SimpleNamespace(loop=make_loop, Diary=Diary, NotingAgent=NotingAgent, RollingAgent=RollingAgent)
