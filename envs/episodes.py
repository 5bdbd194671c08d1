"""n envs for evaluation, one episode each, each from its own seed, without autoreset."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.atari import AtariFrames
from rlab.envs.checks import EnvError
from rlab.envs.gym_spaces import space_from_gym
from rlab.envs.native import NO_LIMIT, SeededCartPole
from rlab.envs.obs_checks import first_not_held
from rlab.envs.obs_packing import plain_packing
from rlab.envs.probe import World
from rlab.envs.sub_env import SubEnv
from rlab.errors import RlabError
from rlab.networks.limits import float32_holds
from rlab.networks.spaces import Space

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # obs, reward, terminated, truncated


class SingleEpisodes:
    """n single Gymnasium envs, each a `SubEnv` or wrapped in one; only those that are active are stepped.

    The caller sums rewards in float64: one that float32 does not hold is allowed here, NaN and infinity are not.
    """

    def __init__(self, envs: Sequence[gym.Env], env_id: str = "the env") -> None:
        self.envs = tuple(env if isinstance(env, SubEnv) else SubEnv(env, plain_packing(env, env_id)) for env in envs)
        packing = self.envs[0].packing
        self.env_id = packing.env_id
        self.num_envs = len(envs)
        self.time_limit = time_limit_of(self.envs[0])
        self.obs_space: Space = packing.obs_space
        self.action_space: Space = packing.action_space
        self._obs = np.zeros((self.num_envs, *self.obs_space.shape), self.obs_space.dtype)  # [n, *obs]
        self._seeds: tuple[int, ...] = ()
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Start env i with `seeds[i]`; observations `[n, *obs]`.

        Raises:
            RlabError: an env failed, or gave something invalid.
        """
        _check_seeds(seeds, self.num_envs)
        self._seeds, self._steps = tuple(int(seed) for seed in seeds), 0
        for i, env in enumerate(self.envs):
            self._obs[i], _ = env.reset(seed=self._seeds[i])
        _check_obs(self.env_id, self._obs, self._seeds, 0)
        return self._obs.copy()

    def step(self, action: np.ndarray, active: np.ndarray) -> Rows:
        """Step the envs where `active [n]` is true with `action [n]` or `[n, *action]`; see the contract.

        Raises:
            RlabError: an env failed, or gave something invalid.
        """
        self._steps += 1
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        for i in np.flatnonzero(active):
            self._obs[i], reward[i], terminated[i], truncated[i], _ = self.envs[i].step(action[i])
        _check_obs(self.env_id, self._obs, self._seeds, self._steps)
        if np.count_nonzero(np.isfinite(reward)) < self.num_envs:
            row, fault = first_not_held("reward", np.where(np.isfinite(reward), 0.0, reward))
            raise _named(self.env_id, fault, self._seeds[row], self._steps)
        return self._obs.copy(), reward, terminated, truncated & ~terminated

    def close(self) -> None:
        """Close all envs; a failure there is a warning."""
        for env in self.envs:
            env.close()


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
        _check_obs(self.env_id, obs, self._seeds, self._steps)
        return obs.copy(), reward.astype(np.float64), terminated, truncated & ~terminated

    def close(self) -> None:
        self._env.close()


def time_limit_of(env: gym.Env) -> int | None:
    """Env steps after which an env truncates its episodes: the smallest of its own time limit and those around it;
    None: none is known.

    A wrapper around the limit that repeats actions only makes episodes shorter, so the limit holds for it too.
    """
    limits: list[int | None] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)  # Gymnasium has no public attribute for it
        elif isinstance(env, AtariFrames):
            limits.append(env.time_limit)
        env = env.env
    if isinstance(env, World):
        limits.append(env.time_limit)
    return min((limit for limit in limits if limit is not None), default=None)


def _check_seeds(seeds: Sequence[int], num_envs: int) -> None:
    if len(seeds) != num_envs:
        raise ValueError(f"{len(seeds)} seeds for {num_envs} envs")


def _check_obs(env_id: str, obs: np.ndarray, seeds: tuple[int, ...], step: int) -> None:
    if obs.dtype.kind == "f" and not float32_holds(obs):
        row, fault = first_not_held("observation", obs)
        raise _named(env_id, fault, seeds[row], step)


def _named(env_id: str, fault: EnvError, seed: int, step: int) -> RlabError:
    return RlabError(fault.line(env_id, f"in the episode of seed {seed}", f"at step {step}"))
