"""A world that counts: any mix-up of rows, episodes or successors shows in its observations."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

OBS_SPACE = gym.spaces.Box(0.0, np.inf, (2,), np.float32)
ACTION_SPACE = gym.spaces.Discrete(3)
# how an episode ends: (terminated, truncated), the last on the same step
ENDINGS = np.array([[True, False], [False, True], [True, True]])


def draw_episode(rng):
    """Length in 1..6 and kind of ending of the next episode; one draw of two numbers."""
    length, ending = rng.integers([1, 0], [7, 3])
    return int(length), int(ending)


class CountingEnv(gym.Env):
    """Observes [episode, step]; reward = step + 100 * action; ends at a drawn step in a drawn way."""

    metadata = {"render_modes": []}  # noqa: RUF012  # as Gymnasium declares it
    observation_space = OBS_SPACE
    action_space = ACTION_SPACE
    episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.t = 0
        self.length, self.ending = draw_episode(self.np_random)
        return np.array([self.episode, self.t], dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        terminated, truncated = ENDINGS[self.ending] & (self.t >= self.length)
        obs = np.array([self.episode, self.t], dtype=np.float32)
        return obs, self.t + 100.0 * action, bool(terminated), bool(truncated), {}


class CountingVectorEnv(gym.vector.VectorEnv):
    """The same worlds for all rows at once, in any autoreset mode; hands out the same buffers again and again."""

    def __init__(self, num_envs, mode):
        self.num_envs = num_envs
        self.mode = AutoresetMode(mode)
        self.metadata = {"autoreset_mode": self.mode}
        self.single_observation_space, self.single_action_space = OBS_SPACE, ACTION_SPACE
        self.observation_space = batch_space(OBS_SPACE, num_envs)
        self.action_space = batch_space(ACTION_SPACE, num_envs)
        self.obs = np.zeros((num_envs, 2), dtype=np.float32)
        self.terminated, self.truncated = np.zeros((2, num_envs), dtype=bool)
        self.reward = np.zeros(num_envs, dtype=np.float32)
        self.length, self.ending = np.zeros((2, num_envs), dtype=int)

    def begin(self, rows):
        for row in np.flatnonzero(rows):
            self.length[row], self.ending[row] = draw_episode(self.streams[row])
        self.obs[rows, 0] += 1
        self.obs[rows, 1] = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.streams = [seeding.np_random(s)[0] for s in seed]
            self.obs[:, 0] = -1
        mask = np.ones(self.num_envs, dtype=bool) if options is None else options["reset_mask"].copy()
        self.begin(mask)
        self.terminated[mask] = self.truncated[mask] = False
        return self.obs, {}

    def step(self, actions):
        old = self.terminated | self.truncated
        assert self.mode is AutoresetMode.NEXT_STEP or not old.any() or self.mode is AutoresetMode.SAME_STEP
        resetting = old & (self.mode is AutoresetMode.NEXT_STEP)
        self.obs[~resetting, 1] += 1
        self.begin(resetting)
        self.reward[:] = np.where(resetting, 0.0, self.obs[:, 1] + 100.0 * actions)
        ends = ~resetting & (self.obs[:, 1] >= self.length)
        self.terminated[:] = ENDINGS[self.ending, 0] & ends
        self.truncated[:] = ENDINGS[self.ending, 1] & ends
        info = {}
        if self.mode is AutoresetMode.SAME_STEP and ends.any():
            info = {"final_obs": self.obs.copy(), "_final_obs": ends}
            self.begin(ends)
        return self.obs, self.reward, self.terminated, self.truncated, info


def choose(obs):
    """An action that depends on the whole observation [..., 2], so that a wrong one shows in the next reward."""
    return ((7 * obs[..., 0] + 3 * obs[..., 1]) % 3).astype(np.int64)


def lanes_of(env, vector_steps):
    """Step a GymVectorEnv: for every (s, n) its transitions in order, leaving out the rows that are none."""
    obs = env.reset()
    lanes = {index: [] for index in np.ndindex(obs.shape[:2])}
    for _ in range(vector_steps):
        action = choose(obs)
        step = env.step(action)
        for i in zip(*np.nonzero(step.valid), strict=True):
            parts = (obs[i].tolist(), action[i], step.reward[i], step.next_obs[i].tolist())
            lanes[i].append((*parts, bool(step.terminated[i]), bool(step.truncated[i])))
        obs = step.obs
    return lanes


def lane_by_hand(seed, transitions):
    """The same transitions from one bare env and the plainest loop there is."""
    env, lane = CountingEnv(), []
    obs, _ = env.reset(seed=seed)
    while len(lane) < transitions:
        action = choose(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        lane.append((obs.tolist(), action, reward, next_obs.tolist(), terminated, truncated and not terminated))
        obs = env.reset()[0] if terminated or truncated else next_obs
    return lane


@pytest.fixture(scope="session")
def counting():
    return SimpleNamespace(
        Env=CountingEnv, VectorEnv=CountingVectorEnv, lanes_of=lanes_of, lane_by_hand=lane_by_hand, choose=choose
    )


@pytest.fixture
def register():
    """`register(make, ...)` makes an env known for one test and gives its id."""
    known = []

    def add(make, **kwargs):
        known.append(f"rlab-test/Env{len(known)}-v0")
        gym.register(known[-1], make, **kwargs)
        return known[-1]

    yield add
    for env_id in known:
        del gym.registry[env_id]
