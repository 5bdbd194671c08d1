"""Any Gymnasium vector env as `rlab.experience.env_contract.VectorEnv`: the one place that knows autoreset modes.

Inside, sub-env `s * N + n` is env n of member s. Outside, everything leads with `[S, N]`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rlab.envs.atari import LIFE_LOST
from rlab.envs.batch_checks import BatchCheck
from rlab.envs.checks import EnvError, raised, stopped_by_user
from rlab.envs.gym_spaces import array_space_from_gym, obs_hint
from rlab.envs.obs_packing import close_or_warn
from rlab.envs.sub_env import SubEnvError
from rlab.envs.vector_states import NOT_A_STATE, load_envs, saved_envs
from rlab.envs.watch import watched
from rlab.envs.watched import WatchedVectorEnv
from rlab.errors import RlabError, UsageError
from rlab.experience.env_contract import Fault, HostStep
from rlab.networks.spaces import Discrete, MultiDiscrete, Space
from rlab.places import warn
from rlab.randomness import env_seed


class GymVectorEnv:
    """S x N sub-envs of a Gymnasium vector env, in any autoreset mode, giving true successors.

    Args:
        env: S * N sub-envs in member-major order, whose `reset` takes a list of seeds.
        seeds: the training seed of each member; S of them.
        env_id: the name that errors use.
        obs_space: of observations in array form, where each sub-env is a `SubEnv` that checks them; None: the env's own
            space, and all rows are checked here.
        time_limit: env steps after which an episode is truncated; None: none is known.
        timeout: seconds that each call of `env` may take; None: it watches its sub-envs by itself.
        on_nan: `stop` raises where the env gives, or is given, a number that is not finite; `drop-member` puts zeros in
            its place and the fault into the step.
        first_env: of each member's envs the number of the first of these: the others are in other processes.

    Raises:
        UsageError: a space that rlab does not support, or an autoreset mode that the env does not state.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv,
        seeds: tuple[int, ...],
        env_id: str = "the env",
        obs_space: Space | None = None,
        time_limit: int | None = None,
        timeout: float | None = None,
        on_nan: str = "stop",
        first_env: int = 0,
    ) -> None:
        if not seeds or env.num_envs % len(seeds):
            raise ValueError(f"{env.num_envs} sub-envs cannot be divided among {len(seeds)} members")
        self.env_id = env_id
        self.seeds = tuple(seeds)
        self.num_envs = env.num_envs // len(seeds)
        self._envs = range(first_env, first_env + self.num_envs)  # of each member
        self.time_limit = time_limit
        of_gym = env.single_observation_space
        arrays = array_space_from_gym(of_gym, f"the observation space of {env_id}", obs_hint(of_gym))
        self.obs_space: Space = arrays if obs_space is None else obs_space
        self.action_space: Space = array_space_from_gym(env.single_action_space, f"the action space of {env_id}")
        self._env, self._timeout = env, timeout
        self._mode = autoreset_mode(env, env_id)
        restarts = env.most_restarts if isinstance(env, WatchedVectorEnv) else 0
        self.has_reset_rows = self._mode is AutoresetMode.NEXT_STEP or restarts > 0
        self._first_action = _first_action(self.action_space)
        self._rows = (len(seeds), self.num_envs)  # [S, N]
        self._obs_shape = self._rows + tuple(env.single_observation_space.shape or ())  # [S, N, *obs]
        self._check = BatchCheck(env.num_envs, arrays, looks_inside=obs_space is None, marks=on_nan != "stop")
        self._all_valid = np.ones(self._rows, dtype=bool)
        self._all_valid.flags.writeable = False  # one array serves every step
        self._restart = 0
        self._loaded = False  # whether the next reset starts episodes of a run that goes on
        self._between_steps = False  # false before the first reset, and for good where a step failed
        self._vector_steps = 0
        self._resetting: np.ndarray | None = None  # [S*N], NEXT_STEP: rows whose next step is a reset

    def reset(self) -> np.ndarray:
        """Start every env on its own stream; observations `[S, N, *obs]`."""
        self._restart += self._loaded  # a run that goes on does not meet its first episodes again
        self._loaded = False
        seeds = [env_seed(seed, n, self._restart) for seed in self.seeds for n in self._envs]
        self._env.action_space.seed(seeds[0])
        self._vector_steps = 0
        self._resetting = None
        self._between_steps = False
        try:
            result = self._limited(self._env.reset, seed=seeds)  # a list: one for each sub-env
            self._warn_of_restarts(result)
            obs = self._check.reset(result).reshape(self._obs_shape)
        except BaseException as error:  # an env may raise anything, such as sys.exit()
            self._fail(error)
        self._between_steps = True
        return obs

    def step(self, action: np.ndarray) -> HostStep:
        """Apply actions `[S, N]` or `[S, N, *action]`: integers counted from 0, or in the env's own units.

        Where no row was reset `next_obs` and `obs` are one array; `valid` is read-only. The env gets a copy of the
        actions and keeps what it gave: all arrays of the step are its copies.

        Raises:
            RlabError: the env raised, hung or died, or gave something invalid; or an action is not finite.
        """
        self._vector_steps += 1
        self._between_steps = False
        flat = action.reshape(-1, *action.shape[2:])  # [S, N, ...] -> [S*N, ...]
        if self._first_action is not None:
            flat = flat + self._first_action
        try:
            given = self._check.action(flat).astype(self.action_space.dtype)  # a copy
            result = self._limited(self._env.step, given)
            obs, reward, terminated, truncated, info = self._check.step(result)
        except BaseException as error:  # an env may raise anything, such as sys.exit()
            self._fail(error)

        restarted = self._warn_of_restarts(result)
        valid = self._all_valid if self._resetting is None else self._valid_rows(terminated, truncated)
        if restarted:
            valid = valid.copy()
            valid.reshape(-1)[restarted] = False
        next_obs = obs
        ended = terminated | truncated
        any_ended = np.count_nonzero(ended) > 0
        if any_ended:
            truncated = truncated & ~terminated  # a termination takes precedence over a time limit
            obs, next_obs = self._autoreset(obs, ended, info)
        else:
            self._resetting = None
        self._between_steps = True
        return HostStep(
            obs=obs.reshape(self._obs_shape),
            next_obs=next_obs.reshape(self._obs_shape),
            reward=reward.reshape(self._rows),
            terminated=terminated.reshape(self._rows),
            truncated=truncated.reshape(self._rows),
            valid=valid,
            all_valid=valid is self._all_valid,
            none_ended=not any_ended,
            life_lost=info[LIFE_LOST].reshape(self._rows) if LIFE_LOST in info else None,
            faults=self._faults() if self._check.faults else (),
            cuts=bool(restarted),
        )

    @property
    def restarts(self) -> np.ndarray | None:
        """How often the envs of each member were made again because they failed, `[S]`; None where they never are."""
        env = self._env
        if not isinstance(env, WatchedVectorEnv) or not env.most_restarts:
            return None
        return env.restarts.reshape(self._rows).sum(axis=1)

    def state(self) -> dict[str, Any]:
        """All that decides the future of the envs and of the episodes under way, as data; see `VectorEnv`."""
        return {
            "restart": self._restart,
            "vector_steps": self._vector_steps,
            "resetting": None if self._resetting is None else self._resetting.copy(),
            "envs": saved_envs(self._env)
            if self._between_steps
            else {"why_not": "an env failed in the middle of a step"},
        }

    def load_state(self, state: Mapping[str, Any]) -> str | None:
        """Go on where `state` was saved, or say in one clause why that is impossible.

        In any case the next `reset` starts fresh episodes, on seeds that were not used before.
        """
        self._loaded = True
        try:
            self._restart, vector_steps, resetting = (
                int(state["restart"]),
                int(state["vector_steps"]),
                state["resetting"],
            )
            if resetting is not None and (resetting.dtype, resetting.shape) != (np.dtype(bool), (self._env.num_envs,)):
                raise ValueError(f"resetting is {resetting.dtype} {resetting.shape}")
            obstacle = load_envs(self._env, state["envs"])
        except NOT_A_STATE as error:
            return f"its saved state does not fit it ({type(error).__name__}: {error})"
        if obstacle is None:
            self._between_steps, self._vector_steps = True, vector_steps
            self._resetting = None if resetting is None else resetting.copy()
        return obstacle

    def close(self) -> None:
        """Close all envs; a failure there is a warning."""
        close_or_warn(self._env, self.env_id, self._timeout)

    def _limited(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._timeout is None:
            return function(*args, **kwargs)
        return watched(self._timeout, self._line, function, *args, **kwargs)

    def _line(self, fault: EnvError) -> str:
        return fault.line(self.env_id, "", f"at vector step {self._vector_steps}")

    def _autoreset(self, obs: np.ndarray, ended: np.ndarray, info: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """What to act on next and what the actions led to, both `[S*N, *obs]`, after a step that ended rows."""
        if self._mode is AutoresetMode.NEXT_STEP:
            self._resetting = ended  # their next step ignores the action and returns the reset observation
            return obs, obs
        if self._mode is AutoresetMode.SAME_STEP:
            return obs, self._true_successors(obs, ended, info)
        try:
            fresh = self._check.reset(self._limited(self._env.reset, options={"reset_mask": ended.copy()}))
        except BaseException as error:  # an env may raise anything, such as sys.exit()
            self._fail(error)
        acted_on = obs.copy()
        acted_on[ended] = fresh[ended]
        return acted_on, obs

    def _true_successors(self, obs: np.ndarray, ended: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
        """SAME_STEP has overwritten the ended rows with reset observations; the real ones are in `final_obs`."""
        final_obs = info.get("final_obs")
        next_obs = obs.copy()
        for row in np.flatnonzero(ended).tolist():
            if final_obs is None or final_obs[row] is None:
                raise RlabError(
                    f"{self.env_id} ended {self._name(row)} at vector step {self._vector_steps} without a final_obs, "
                    f"though its autoreset mode is {self._mode.value}; is its metadata['autoreset_mode'] right?"
                )
            try:
                next_obs[row] = self._check.final_obs(row, final_obs[row])
            except SubEnvError as error:
                self._fail(error)
        return next_obs

    def _warn_of_restarts(self, result: Any) -> list[int]:
        """The rows `[S*N]` whose env was made again in this call; what failed is a warning each."""
        if not (self.has_reset_rows and isinstance(self._env, WatchedVectorEnv)):
            return []
        restarted: Mapping[int, SubEnvError] = result[-1].get("restarted", {})
        for row, error in restarted.items():
            line = error.fault.line(self.env_id, f"in {self._name(row)}", f"at vector step {self._vector_steps}")
            count = f"restart {self._env.restarts[row]} of {self._env.most_restarts}"
            warn(f"{line.rstrip('.')}. It was made again, in a fresh episode ({count})")
        return list(restarted)

    def _valid_rows(self, terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
        """NEXT_STEP, one step after an end: the rows that were just reset are not transitions."""
        resetting = self._resetting
        assert resetting is not None
        for row in np.flatnonzero(resetting & (terminated | truncated)).tolist():
            raise RlabError(
                f"{self.env_id} ended {self._name(row)} in its reset row, at vector step {self._vector_steps}, "
                f"though its autoreset mode is {self._mode.value}; is its metadata['autoreset_mode'] right?"
            )
        return ~resetting.reshape(self._rows)

    def _faults(self) -> tuple[Fault, ...]:
        """What was marked since the last step."""
        when, marked = f"at vector step {self._vector_steps}", dict(self._check.faults)
        self._check.faults.clear()
        return tuple(
            Fault(*divmod(row, self.num_envs), fault.line(self.env_id, f"in {self._name(row)}", when))
            for row, fault in marked.items()
        )

    def _name(self, row: int) -> str:
        """`env 3 of seed 7` for a row of `[S*N]`."""
        member, env_index = divmod(row, self.num_envs)
        return f"env {self._envs[env_index]} of seed {self.seeds[member]}"

    def _fail(self, error: BaseException) -> NoReturn:
        """Raise with the sub-env and the step in the message, unless the user interrupted it."""
        if stopped_by_user(error):
            raise error
        if isinstance(error, SubEnvError):
            where, fault = f"in {self._name(error.index)}", error.fault
        else:
            where, fault = "", error if isinstance(error, EnvError) else raised(error)
        raise RlabError(fault.line(self.env_id, where, f"at vector step {self._vector_steps}")) from error


def _first_action(space: Space) -> np.ndarray | None:
    """The env's own values of the actions that are counted as 0, `[*action]`; None where they are 0 too."""
    if isinstance(space, Discrete | MultiDiscrete):
        start = np.array(space.start).reshape(space.shape)
        return start if start.any() else None
    return None


def autoreset_mode(env: gym.vector.VectorEnv, env_id: str) -> AutoresetMode:
    """The mode that a vector env states in `metadata["autoreset_mode"]`, as Gymnasium's enum or its value.

    Raises:
        UsageError: it states none, or one that is unknown; guessing would store wrong successors.
    """
    stated = (env.metadata or {}).get("autoreset_mode")
    try:
        return AutoresetMode(getattr(stated, "value", stated))
    except ValueError:
        known = ", ".join(repr(mode.value) for mode in AutoresetMode)
        found = "states no autoreset mode" if stated is None else f"states the autoreset mode {stated!r}"
        raise UsageError(f"{env_id}: the vector env {found} in metadata['autoreset_mode']; known: {known}") from None
