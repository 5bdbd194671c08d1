"""What reaching a goal pays, asked of the env: hindsight reads replay as if other goals had been desired."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlab.envs.checks import raised, stopped_by_user
from rlab.envs.gym_spaces import sampled
from rlab.envs.make import make_single
from rlab.envs.obs_packing import PROBE_SEED, close_or_warn
from rlab.envs.own_globals import OwnGlobals
from rlab.envs.specs import EnvSpec
from rlab.envs.tensor_vector import TensorVectorEnv
from rlab.envs.watch import watched
from rlab.errors import RlabError, UsageError
from rlab.experience.dtypes import torch_dtype
from rlab.experience.env_contract import DeviceEnv
from rlab.experience.goals import ACHIEVED, DESIRED, NEEDED, GoalPlaces, Goals, goal_places
from rlab.places import warn

REWARD, TERMINATED = "compute_reward", "compute_terminated"  # methods of Gymnasium-Robotics' GoalEnv
STEPS = 32  # of random play on which they are checked
CLOSE = 1e-5  # relative: what an env computes in float32 may come as a batch with other roundings


def goals_of(spec: EnvSpec, env: DeviceEnv) -> Goals:
    """What the envs that are trained in say of goals: with tensors where they are tensors, else in NumPy.

    A Gymnasium env is asked through an instance of its own, with its wrappers, which was closed before: its methods
    must follow from their arguments. Infos are not stored, and `info` is empty.

    Raises:
        UsageError: it has no goals, or its reward does not follow from the goal achieved and the goal desired.
    """
    places = goal_places(env.obs_space, spec.env_id)
    if isinstance(env, TensorVectorEnv):
        reward, terminated = (getattr(env.env, name, None) for name in (REWARD, TERMINATED))
        if reward is None:
            raise UsageError(f"--hindsight: the tensor version of {spec.env_id} has no {REWARD}; use --vector sync.")
        ask = None if terminated is None else lambda achieved, desired: terminated(achieved, desired, {})
        return Goals(places, lambda achieved, desired: reward(achieved, desired, {}), ask, on_host=False)
    own = OwnGlobals(PROBE_SEED)
    made = own.call(make_single, spec, spec.check())
    try:
        functions = [_method(made, name) for name in (REWARD, TERMINATED)]
        if functions[0] is None:
            raise UsageError(f"--hindsight: {spec.env_id} has no method {REWARD}; {NEEDED}.")
        failed = partial(watched, spec.timeout, lambda fault: fault.line(spec.env_id, "in random play", ""))
        played = own.call(failed, _play, made)
    finally:
        close_or_warn(made, spec.env_id, spec.timeout)
    asked = [None if each is None else _Asked(each, spec.env_id, places, played) for each in functions]
    assert asked[0] is not None
    asked[0].check_paid(played)
    return Goals(places, asked[0], asked[1] and asked[1].flags, on_host=True)


def _method(env: gym.Env, name: str) -> Callable[..., Any] | None:
    try:
        found = env.get_wrapper_attr(name)
    except AttributeError:
        return None
    return found if callable(found) else None


class _Played:
    """What random play showed: goals `[STEPS, *goal]`, and what each step paid."""

    def __init__(self, achieved: list[Any], desired: list[Any], reward: list[float]) -> None:
        self.achieved, self.desired, self.reward = np.array(achieved), np.array(desired), reward


def _play(env: gym.Env) -> _Played:
    space = copy.deepcopy(env.action_space)  # a copy, so that the env's own draws stay the same
    space.seed(PROBE_SEED)
    achieved, desired, paid = [], [], []
    obs, _ = env.reset(seed=PROBE_SEED)
    for _ in range(STEPS):
        desired.append(np.array(obs[DESIRED]))  # of the obs that was acted on: some envs set a new one in the step
        obs, reward, terminated, truncated, _ = env.step(sampled(space))
        achieved.append(np.array(obs[ACHIEVED]))
        paid.append(float(reward))
        if terminated or truncated:
            obs, _ = env.reset()
    return _Played(achieved, desired, paid)


class _Asked:
    """One method of an env as a function of tensors. It is given batches where it answers them as it answers single
    rows, else one row at a time."""

    def __init__(self, method: Callable[..., Any], env_id: str, places: GoalPlaces, played: _Played) -> None:
        self._method, self._env_id, self._space = method, env_id, places.space
        self.name = getattr(method, "__name__", REWARD)
        mixed = np.concatenate([played.achieved, played.achieved]), np.concatenate([played.desired, played.achieved])
        alone = self._one_by_one(*mixed)
        self.batched = self._answers(mixed, alone)
        if not self.batched and self.name == REWARD:
            warn(f"{REWARD} of {env_id} does not answer batches: hindsight asks it row by row, which is slower")

    def __call__(self, achieved: Tensor, desired: Tensor) -> Tensor:
        """Float32 `[...]` of goals `[..., g]`.

        Raises:
            RlabError: the env's method raised, or gave something that is not a finite number for each row.
        """
        rows = [self._rows(each) for each in (achieved, desired)]
        found = self._batch(*rows) if self.batched else self._one_by_one(*rows)
        if found.shape != (len(rows[0]),) or not np.isfinite(found).all():
            raise RlabError(
                f"{self.name} of {self._env_id} gave an array {found.shape} for {len(rows[0])} rows, or numbers that "
                "are not finite; it must give one finite number for each row."
            )
        return torch.from_numpy(found.astype(np.float32)).to(achieved.device).view(achieved.shape[:-1])

    def flags(self, achieved: Tensor, desired: Tensor) -> Tensor:
        """Bool `[...]`."""
        return self(achieved, desired) != 0

    def check_paid(self, played: _Played) -> None:
        """Raise UsageError where the method gives another reward than a step did."""
        found = self._one_by_one(played.achieved, played.desired)
        wrong = np.flatnonzero(~np.isclose(found, played.reward, rtol=CLOSE, atol=CLOSE))
        if len(wrong):
            raise UsageError(
                f"--hindsight: a step of {self._env_id} paid {played.reward[wrong[0]]:g} and its {self.name} says "
                f"{found[wrong[0]] + 0.0:g}; hindsight needs a reward that follows from the two goals alone."
            )

    def _rows(self, goals: Tensor) -> np.ndarray:
        """Goals `[..., g]` as the env knows them, `[rows, *goal]`, in memory of their own."""
        flat = goals.reshape(-1, goals.shape[-1]).to(torch_dtype(self._space.dtype)).cpu().numpy()
        return flat.reshape(-1, *self._space.shape).copy()

    def _answers(self, goals: tuple[np.ndarray, np.ndarray], alone: np.ndarray) -> bool:
        try:
            found = self._batch(*(each.copy() for each in goals))
        except RlabError:
            return False
        return found.shape == alone.shape and bool(np.isclose(found, alone, rtol=CLOSE, atol=CLOSE).all())

    def _one_by_one(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        return np.array([self._ask(a.copy(), d.copy()) for a, d in zip(achieved, desired, strict=True)], np.float64)

    def _batch(self, achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        return np.asarray(self._ask(achieved, desired), np.float64)

    def _ask(self, achieved: np.ndarray, desired: np.ndarray) -> Any:
        try:
            return self._method(achieved, desired, {})
        except BaseException as error:  # an env may raise anything
            if stopped_by_user(error):
                raise
            raise RlabError(f"{self.name} of {self._env_id} failed: {raised(error).why}") from error
