"""n envs for evaluation, one episode each, from a seed of its own and never reset by themselves."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.native import NO_LIMIT, SeededCartPole
from rlab.envs.packing import obs_space_of, reason
from rlab.envs.spaces import array_space_from_gym, space_from_gym
from rlab.errors import RlabError
from rlab.networks.spaces import Space

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # obs, reward, terminated, truncated


class SingleEpisodes:
    """n single Gymnasium envs whose observations are arrays (see `packing`); only those that are active are stepped."""

    def __init__(self, envs: Sequence[gym.Env], env_id: str = "the env") -> None:
        self.env_id = env_id
        self.envs = tuple(envs)
        self.num_envs = len(envs)
        self.time_limit = time_limit_of(envs[0])
        self.obs_space: Space = obs_space_of(envs[0], env_id)
        self.action_space: Space = array_space_from_gym(envs[0].action_space, f"the action space of {env_id}")
        space = envs[0].observation_space
        self._obs = np.zeros((self.num_envs, *(space.shape or ())), dtype=space.dtype)  # [n, *obs]
        self._seeds: tuple[int, ...] = ()
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Start env i with `seeds[i]`; observations `[n, *obs]`."""
        _check_seeds(seeds, self.num_envs)
        self._seeds, self._steps = tuple(int(seed) for seed in seeds), 0
        for i, env in enumerate(self.envs):
            try:
                self._obs[i], _ = env.reset(seed=self._seeds[i])
            except Exception as error:  # whatever an env may raise
                raise self._failure(i, error) from error
        _check_finite(self.env_id, "observation", self._obs, self._seeds, 0)
        return self._obs.copy()

    def step(self, action: np.ndarray, active: np.ndarray) -> Rows:
        """Step the envs where `active [n]` is true with `action [n]` or `[n, *action]`; see the contract."""
        self._steps += 1
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        for i in np.flatnonzero(active):
            try:
                self._obs[i], reward[i], terminated[i], truncated[i], _ = self.envs[i].step(action[i])
            except Exception as error:  # whatever an env may raise
                raise self._failure(int(i), error) from error
        _check_finite(self.env_id, "observation", self._obs, self._seeds, self._steps)
        _check_finite(self.env_id, "reward", reward, self._seeds, self._steps)
        return self._obs.copy(), reward, terminated, truncated & ~terminated

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _failure(self, i: int, error: Exception) -> RlabError:
        where = f"in the episode of seed {self._seeds[i]} at step {self._steps}"
        return RlabError(f"{self.env_id} failed {where}: {reason(error)}")


class NativeEpisodes:
    """n CartPoles stepped at once: the same episodes as `SingleEpisodes` gives, many times as fast."""

    def __init__(self, env: SeededCartPole, env_id: str = "the env") -> None:
        self.env_id = env_id
        self.num_envs = env.num_envs
        self.time_limit = None if env.max_episode_steps == NO_LIMIT else int(env.max_episode_steps)
        self.obs_space: Space = space_from_gym(env.single_observation_space)
        self.action_space: Space = space_from_gym(env.single_action_space)
        self._env = env
        self._obs = np.zeros((env.num_envs, 4), dtype=np.float32)
        self._seeds: tuple[int, ...] = ()
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Start env i with `seeds[i]`; observations `[n, 4]`."""
        _check_seeds(seeds, self.num_envs)
        self._seeds, self._steps = tuple(int(seed) for seed in seeds), 0
        self._obs, _ = self._env.reset(seed=self._seeds)
        return self._obs.copy()

    def step(self, action: np.ndarray, active: np.ndarray) -> Rows:
        """Step the envs where `active [n]` is true with `action [n]`; the others are put back where they were."""
        self._steps += 1
        idle = ~active
        env: Any = self._env  # Gymnasium declares its state as None
        state, steps = env.state, env.steps.copy()  # state [4, n] is a new array after every step
        obs, reward, terminated, truncated, _ = env.step(action)
        env.prev_done[:] = False  # no autoreset: an ended row would draw a new start at every step
        if idle.any():
            env.state[:, idle] = state[:, idle]
            env.steps[idle] = steps[idle]
            obs[idle] = self._obs[idle]
            for rows in (reward, terminated, truncated):
                rows[idle] = 0
        self._obs = obs
        _check_finite(self.env_id, "observation", obs, self._seeds, self._steps)
        return obs.copy(), reward.astype(np.float64), terminated, truncated & ~terminated

    def close(self) -> None:
        self._env.close()


def time_limit_of(env: gym.Env) -> int | None:
    """Env steps after which an env truncates its episodes: the least of the time limits around it; None: none is known.

    A wrapper around the limit that repeats actions only makes episodes shorter, so the limit holds for it too.
    """
    limits = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)  # Gymnasium has no other way to ask for it
        env = env.env
    return min(limits, default=None)


def _check_seeds(seeds: Sequence[int], num_envs: int) -> None:
    if len(seeds) != num_envs:
        raise ValueError(f"{len(seeds)} seeds for {num_envs} envs")


def _check_finite(env_id: str, what: str, values: np.ndarray, seeds: tuple[int, ...], step: int) -> None:
    finite = np.isfinite(values)
    if np.count_nonzero(finite) == finite.size:
        return
    row = int(np.argwhere(~finite)[0][0])
    raise RlabError(
        f"{env_id} gave a non-finite {what} in the episode of seed {seeds[row]} at step {step}: {values[row]}"
    )
