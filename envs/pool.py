"""EnvPool's vector envs with Gymnasium's `reset(seed=[...])`, though EnvPool takes seeds only at construction."""

import importlib
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.gym_spaces import space_from_gym
from rlab.envs.ids import Package
from rlab.envs.obs_packing import Packing
from rlab.errors import UsageError, extra
from rlab.networks.limits import same_form

ENVPOOL = Package("EnvPool", "envpool", extra("envpool"))


class PoolVectorEnv(gym.vector.VectorEnv):
    """One EnvPool of `num_envs` sub-envs; `reset` with seeds makes a new one, since EnvPool fixes seeds at
    construction.

    Args:
        env_id: EnvPool's name of the env, nearly always Gymnasium's.
        num_envs: sub-envs.
        kwargs: passed to EnvPool, with `max_episode_steps` where there is a limit.

    Raises:
        UsageError: EnvPool is missing, or does not know the env or a keyword.
    """

    def __init__(self, env_id: str, num_envs: int, kwargs: Mapping[str, Any]) -> None:
        if not ENVPOOL.installed:
            raise UsageError(f'--vector envpool needs {ENVPOOL.name}: pip install "{ENVPOOL.install}"')
        self._env_id = env_id
        self._kwargs = {"num_threads": min(num_envs, os.cpu_count() or 1), **kwargs}
        self.num_envs = num_envs
        self._pool = self._make([0] * num_envs)
        self.metadata = self._pool.metadata
        self.single_observation_space = self._pool.single_observation_space
        self.single_action_space = self._pool.single_action_space
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(  # type: ignore[override]  # the base class takes one seed for all
        self, *, seed: Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start every sub-env, each on its own stream where `seed` holds one seed per sub-env."""
        if seed is not None:
            self._pool.close()
            self._pool = self._make(list(seed))
        obs, info = self._pool.reset(options=options)
        return self._fit(obs), info

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self._pool.step(actions)
        return self._fit(obs), reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        if hasattr(self, "_pool"):  # garbage collection also closes one that could not be made
            self._pool.close()

    def _fit(self, obs: np.ndarray) -> np.ndarray:
        """In the dtype of the space: discrete observations come as int32, though the space has int64."""
        return obs.astype(self.single_observation_space.dtype, copy=False)

    def _make(self, seeds: list[int]) -> gym.vector.VectorEnv:
        envpool = importlib.import_module("envpool")
        settings = {"env_type": "gymnasium", "num_envs": self.num_envs, "seed": seeds, **self._kwargs}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its spaces, built when first read, warn about their own bounds
                pool = envpool.make(self._env_id, **settings)
                _ = pool.observation_space, pool.action_space
                return pool
        except Exception as error:  # AssertionError for an unknown id, TypeError for an unknown keyword
            raise UsageError(f"EnvPool cannot make {self._env_id}: {error}; use --vector sync or async") from error


def check_same_spaces(pool: PoolVectorEnv, single: Packing, env_id: str) -> None:
    """A policy trained in EnvPool is evaluated in Gymnasium's own env: refuse where their spaces differ.

    Raises:
        UsageError: naming the space that differs, as for EnvPool's Atari images, which have channels first, or an env
            that gives masks.
    """
    pairs = {
        "observations": (pool.single_observation_space, single.obs_space),
        "actions": (pool.single_action_space, single.action_space),
    }
    for what, (gym_space, theirs) in pairs.items():
        ours = space_from_gym(gym_space, f"EnvPool's {env_id}")
        if not same_form(ours, theirs):
            raise UsageError(
                f"EnvPool's {env_id} has {what} {ours}, Gymnasium's has {theirs}: a policy would not fit both. "
                "Use --vector sync or async"
            )
