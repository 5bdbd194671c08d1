"""A made-up world whose every row can be told from every other, and a plain record of what happened in it."""

from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.sequence_samplers import RolloutSampler
from rlab.experience.storage import Storage
from rlab.networks.spaces import Box, Discrete


@dataclass
class Row:
    """One row of one lane, as plain Python values."""

    obs: int
    action: int
    reward: float
    terminated: bool
    truncated: bool
    valid: bool
    next_obs: int


@dataclass
class World:
    """S x N envs that end at random; every observation is a number that occurs once.

    `style` is how an end shows: "same" resets at once and hides the final observation, "next" spends a row on the
    reset, "disabled" resets at once too, but hands out `next_obs` and `obs` in arrays of their own at every step.
    """

    members: int
    num_envs: int
    style: str
    ending: float = 0.2
    seed: int = 0
    obs_dtype: str = "int64"
    lanes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.seeds = tuple(range(self.members))
        self.shape = (self.members, self.num_envs)
        self.obs_space, self.action_space = Box((2,), self.obs_dtype, 0.0, 1e6), Discrete(10)
        self.seen = 0
        self.ids = self._fresh(np.ones(self.shape, bool), np.zeros(self.shape, np.int64))
        self.resetting = np.zeros(self.shape, bool)
        self.lanes = {lane: [] for lane in np.ndindex(self.shape)}

    def _fresh(self, where, ids):
        ids = ids.copy()
        ids[where] = self.seen + np.arange(where.sum())
        self.seen += int(where.sum())
        return ids

    def observed(self, ids):
        """Observations `[S, N, 2]`: the number and its negative, so that torn rows show."""
        return np.stack([ids, -ids], axis=-1).astype(self.obs_dtype)

    def reset(self):
        self.ids = self._fresh(np.ones(self.shape, bool), self.ids)
        self.resetting[:] = False
        return self.observed(self.ids)

    def step(self, action):
        rng, before = self.rng, self.ids
        valid = ~self.resetting
        terminated = (rng.random(self.shape) < self.ending) & valid
        truncated = (rng.random(self.shape) < self.ending) & valid & ~terminated
        reward = rng.integers(-50, 50, self.shape) / 8.0  # reset rows too: whoever counts one is found out
        next_ids = self._fresh(np.ones(self.shape, bool), before)
        ended = terminated | truncated
        if self.style == "next":
            self.resetting, self.ids = ended, next_ids
        else:
            self.ids = self._fresh(ended, next_ids)
        for s, n in np.ndindex(self.shape):
            values = (before, action, reward, terminated, truncated, valid, next_ids)
            self.lanes[s, n].append(Row(*(value[s, n].item() for value in values)))
        obs = self.observed(self.ids)
        shared = self.style == "next" or (self.style == "same" and not ended.any())
        return Step(obs, obs if shared else self.observed(next_ids), reward, terminated, truncated, valid)

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]

    def close(self):
        pass

    def storage(self, capacity, further=()):
        """Empty storage that fits this world."""
        fields = Field("obs", (2,), self.obs_dtype), Field("action", (), "int64"), *further
        return Storage(self.members, self.num_envs, capacity, fields)

    def rollout(self, steps, further=()):
        """A sampler of rollouts from empty storage that fits this world."""
        return RolloutSampler(self.storage(steps * self.num_envs, further), (), steps)

    def play(self, steps, *storages):
        """Take random actions and write what happens into storages."""
        for _ in range(steps):
            obs = self.observed(self.ids)
            action = self.rng.integers(10, size=self.shape)
            step = self.step(action)
            for storage in storages:
                storage.add(obs, action, step)


@pytest.fixture(scope="session")
def make_world():
    return World


@pytest.fixture(scope="session")
def streams():
    """`streams(S, seed)`: one random stream per member."""
    return lambda members, seed=0: [np.random.default_rng([seed, i]) for i in range(members)]


@pytest.fixture(scope="session")
def prioritised():
    """The module `prioritised.py` of the agents from outside."""
    path = Path(__file__).parents[1] / "agents" / "outside" / "prioritised.py"
    spec = spec_from_file_location("prioritised", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
