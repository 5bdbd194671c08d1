"""A made-up world whose every row can be told from every other, and a plain record of what happened in it."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from rlab.draws import Draws, programs_ran
from rlab.experience.border import HostEnv
from rlab.experience.env_contract import HostStep
from rlab.experience.fields import Field
from rlab.experience.sequence_samplers import RolloutSampler
from rlab.experience.storage import Storage
from rlab.learning.tracing import trace
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
        self.time_limit, self.has_reset_rows = None, self.style == "next"
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
        return HostStep(obs, obs if shared else self.observed(next_ids), reward, terminated, truncated, valid)

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]

    def close(self):
        pass

    def storage(self, capacity, further=(), growing=True):
        """Empty storage that fits this world."""
        fields = Field("obs", (2,), self.obs_dtype), Field("action", (), "int64"), *further
        has_reset_rows = self.has_reset_rows
        return Storage(self.members, self.num_envs, capacity, fields, "cpu", has_reset_rows, growing)

    @property
    def least_rows(self):
        """Rows of a lane among which there is a transition."""
        return 1 + self.has_reset_rows

    def rollout(self, steps, further=()):
        """A sampler of rollouts from empty storage that fits this world."""
        draws = Draws(self.seeds, "minibatches", "cpu")
        return RolloutSampler(self.storage(steps * self.num_envs, further), draws, steps)

    def played(self, act=None):
        """One vector step as tensors: what was acted on, the actions, and the `Step` that they led to."""
        obs = torch.from_numpy(self.observed(self.ids))
        action = torch.from_numpy(self.rng.integers(10, size=self.shape)) if act is None else act(obs)
        return obs, action, HostEnv(self, torch.device("cpu")).step(action)

    def play(self, steps, *storages):
        """Take random actions and write what happens into storages."""
        for _ in range(steps):
            row = self.played()
            for storage in storages:
                storage.add(*row)


@pytest.fixture(scope="session")
def make_world():
    return World


@pytest.fixture(scope="session")
def draws():
    """`draws(S, seed)`: random numbers of S members."""
    return lambda members, seed=0: Draws([10 * seed + i for i in range(members)], "replay", "cpu")


@pytest.fixture(scope="session")
def as_graph():
    """`as_graph(fn, *arguments)`: the function as a graph, run operator by operator: what a program does, without the
    compiler's time. It returns the tensors of the dict that `fn` returns."""

    def make(fn, *arguments):
        names = []

        def flat(*arguments):
            found = fn(*arguments) or {}
            names[:] = found
            return list(found.values())

        traced = trace(flat, arguments, fn)

        def run(*arguments):
            with torch.no_grad():
                results = dict(zip(names, traced.graph(*traced.state, *arguments), strict=True))
            programs_ran()
            return results

        return run

    return make
