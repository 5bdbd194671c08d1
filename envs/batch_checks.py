"""Checks of what a vector env gives, in batches, and copies of it: the env may change or reuse its own arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlab.envs.checks import EnvError, reset_values, step_values
from rlab.envs.obs_checks import first_not_held, rows_look
from rlab.envs.sub_env import SubEnvError
from rlab.networks.limits import float32_holds, held_by_float32
from rlab.networks.spaces import MASK_KEY, Leaf

BOOL = np.dtype(bool)


class BatchCheck:
    """Checks what `num_envs` sub-envs gave in one step or reset.

    Args:
        space: of one observation in array form.
        looks_inside: whether integers are checked too, one by one; a `SubEnv` has done so itself.
        marks: put rows of numbers that float32 does not hold, such as NaN, into `faults`, and zeros in their place.

    Every method raises `SubEnvError`, which names the row, or `EnvError` where all of the batch is wrong.
    """

    def __init__(self, num_envs: int, space: Leaf, looks_inside: bool, marks: bool = False) -> None:
        self._marks, self.faults = marks, dict[int, EnvError]()  # the first of each row since the caller cleared it
        self._num_envs, self._dtype = num_envs, np.dtype(space.dtype)
        self._shape, self._rows = (num_envs, *space.shape), (num_envs,)  # [n, *obs], [n]
        self._is_float = self._dtype.kind == "f"
        self._look = rows_look(space) if looks_inside else None

    def action(self, action: np.ndarray) -> np.ndarray:
        """The actions `[n, *action]`: a network may overflow, whose actions the env would be blamed for."""
        if action.dtype.kind == "f" and not float32_holds(action):
            action = action.copy()
            self._fail("action", action, *first_not_held("action", action))
        return action

    def step(self, result: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        """Copies of `obs [n, *obs]`, `reward [n]` in float64, `terminated [n]` and `truncated [n]`, and the info."""
        obs, reward, terminated, truncated, info = step_values(result)
        _no_mask(info)
        obs, reward = self.obs(obs), self._reward(reward)
        return obs, reward, self._flags("terminated", terminated), self._flags("truncated", truncated), info

    def reset(self, result: Any) -> np.ndarray:
        """A copy of the observations `[n, *obs]` of a reset."""
        obs, info = reset_values(result)
        _no_mask(info)
        return self.obs(obs)

    def obs(self, obs: Any) -> np.ndarray:
        """A copy of observations `[n, *obs]`."""
        if not isinstance(obs, np.ndarray) or obs.shape != self._shape or obs.dtype != self._dtype:
            expected = f"but its space is {self._dtype} {self._shape}"
            raise EnvError("observation", f"gave observations {_layout(obs)}", expected)
        copied = obs.copy()
        if (found := self._first_wrong(copied)) is not None:
            self._fail("observation", copied, *found)
        return copied

    def final_obs(self, row: int, obs: Any) -> np.ndarray:
        """The last observation `[*obs]` of an episode in sub-env `row`; NumPy would broadcast or cast a wrong one."""
        final = np.asarray(obs)
        if final.shape != self._shape[1:] or final.dtype != self._dtype:
            expected = f"but its space is {self._dtype} {self._shape[1:]}"
            raise SubEnvError(row, EnvError("observation", f"gave the final_obs {_layout(final)}", expected))
        if (found := self._first_wrong(final[None])) is not None:
            if not (self._marks and self._is_float):
                raise SubEnvError(row, found[1])
            self.faults.setdefault(row, found[1])
            return np.zeros_like(final)
        return final

    def _first_wrong(self, obs: np.ndarray) -> tuple[int, EnvError] | None:
        """The first row of `obs [n, *obs]` that is not of the space, and why."""
        if self._is_float:
            return None if float32_holds(obs) else first_not_held("observation", obs)
        return None if self._look is None else self._look(obs)

    def _reward(self, reward: Any) -> np.ndarray:
        array = reward if type(reward) is np.ndarray else np.asarray(reward)
        if array.size != self._num_envs or array.dtype.kind not in "biuf":
            raise EnvError("reward", f"gave rewards {_layout(array)}", f"but {self._num_envs} numbers are expected")
        copied = array.reshape(-1).astype(np.float64)
        if not float32_holds(copied):
            self._fail("reward", copied, *first_not_held("reward", copied))
        return copied

    def _fail(self, name: str, values: np.ndarray, row: int, fault: EnvError) -> None:
        """Raise what is wrong with the first row of `values [n, ...]`, or mark it and those behind it."""
        if not (self._marks and values.dtype.kind == "f"):
            raise SubEnvError(row, fault)
        held = held_by_float32(values).reshape(len(values), -1).all(axis=1)
        for broken in np.flatnonzero(~held).tolist():
            self.faults.setdefault(broken, first_not_held(name, values[broken : broken + 1])[1])
        values[~held] = 0.0

    def _flags(self, name: str, flags: Any) -> np.ndarray:
        array = flags if type(flags) is np.ndarray else np.asarray(flags)
        if array.dtype == BOOL and array.shape == self._rows:
            return array.copy()
        if array.size != self._num_envs or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
            raise EnvError(name, f"gave {name} {_layout(array)}", f"but {self._num_envs} of True or False are expected")
        return array.reshape(-1).astype(bool)


def _no_mask(info: Mapping[str, Any]) -> None:
    """Masks of a vector env are not read, and a `SubEnv` has none left in its info."""
    if info and MASK_KEY in info:
        why = f"its info has an {MASK_KEY!r}, which only envs that rlab makes one by one may give (--vector sync)."
        raise EnvError("mask", "failed", why)


def _layout(values: Any) -> str:
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
