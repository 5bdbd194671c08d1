"""Plays an env with random actions and records what it does, as evidence for `linter`."""

import io
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.checks import EnvError, numbers_of
from rlab.envs.gym_spaces import sampled
from rlab.envs.obs_checks import first_not_held
from rlab.envs.obs_packing import Packing
from rlab.envs.sub_env import SubEnv, SubEnvError
from rlab.envs.watch import ENV_TIMEOUT
from rlab.errors import RlabWarning
from rlab.networks.limits import FLOAT32_MAX, float32_holds
from rlab.networks.spaces import Masked, choices

REPLAYED = 200  # steps that are repeated, to see whether the results are the same
FIRST_EPISODE = 20  # its limit, as a multiple of the requested steps
TIME_LIMIT = 20.0  # seconds of play; a slow env gets fewer steps
GLOBAL_SEED = 20_261  # of the global generators while an env is watched
STOPS = ("raised", "spaces", "reset", "step")  # faults after which an env cannot be played further

Move = tuple[
    Any, Any, float, bool, bool
]  # action, observation, reward, terminated, truncated; a reset has None, 0, ...


@dataclass(frozen=True)
class Outside:
    """A number of an observation beyond the bounds of its space."""

    place: str  # "the part 'x' of its observation"
    value: float
    low: float
    high: float
    excess: float  # how far it is beyond, as a share of the range between the bounds


@dataclass
class Evidence:
    """What one env did."""

    steps: int = 0
    seconds: float = 0.0  # that the env spent in `step`
    returns: list[float] = field(default_factory=list)  # of whole episodes
    lengths: list[int] = field(default_factory=list)
    faults: dict[str, EnvError] = field(default_factory=dict)  # the first of each kind
    fault_at: dict[str, int] = field(default_factory=dict)  # steps taken before it
    moves: list[Move] = field(default_factory=list)  # the first of them
    action_changed: bool = False  # the env wrote into the action
    obs_reused: bool = False  # an observation changed after it was given
    largest_obs: float = 0.0  # in absolute value, of floats
    largest_reward: float = 0.0
    outside: Outside | None = None  # the one farthest beyond its bounds, of floats
    rewarded: bool = False  # whether any reward was not 0
    rewards_held: bool = True  # whether all were finite, and float32 holds them
    truncated_in_info: bool = False  # an episode was cut according to its info alone, as in older packages
    changed_spaces: list[tuple[str, str, str]] = field(default_factory=list)  # "action", as it was, as it is after play
    generators: list[str] = field(default_factory=list)  # global ones that it drew from in its first steps

    def add_fault(self, fault: EnvError) -> None:
        """Keep a fault, unless there was one of its kind."""
        if fault.kind not in self.faults:
            self.faults[fault.kind], self.fault_at[fault.kind] = fault, self.steps

    def stopped(self) -> bool:
        """Whether the env failed and could not be played further."""
        return any(kind in self.faults for kind in STOPS)


class Watched(gym.Wrapper):
    """Between an env with its wrappers and `SubEnv`: sees what comes in and out, before rlab copies or checks it."""

    def __init__(self, env: gym.Env, evidence: Evidence) -> None:
        super().__init__(env)
        self.evidence = evidence
        self.result: Any = None  # of the last step
        self._given: list[tuple[np.ndarray, np.ndarray]] = []  # arrays of the last observation, as given and as a copy

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self._look(result[0])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        before = np.array(action)
        began = time.perf_counter()
        self.result = result = self.env.step(action)
        self.evidence.seconds += time.perf_counter() - began
        self.evidence.action_changed |= not _same(before, action)
        cut = isinstance(result[4], Mapping) and bool(result[4].get("TimeLimit.truncated"))
        self.evidence.truncated_in_info |= cut and bool(result[2]) and not result[3]
        self._look(result[0])
        return result

    def _look(self, obs: Any) -> None:
        self.evidence.obs_reused |= any(not _same(given, copy) for given, copy in self._given)
        self._given = [(array, array.copy()) for array in _arrays(obs)]
        for found in _outside(self.env.observation_space, obs, "its observation"):
            if self.evidence.outside is None or found.excess > self.evidence.outside.excess:
                self.evidence.outside = found


def play(env: gym.Env, packing: Packing, steps: int, seed: int, timeout: float = ENV_TIMEOUT) -> Evidence:
    """Play an env with random actions, its first episode from `seed` and the others as they come."""
    evidence = Evidence()
    watched = Watched(env, evidence)
    player = SubEnv(watched, packing, timeout=timeout)
    env.action_space.seed(seed)
    before = _spaces(env)
    deadline = time.monotonic() + TIME_LIMIT
    first: int | None = seed
    while evidence.steps < steps and time.monotonic() < deadline and not evidence.stopped():
        # The first episode may take longer: a few steps do not show whether any episode ends at all.
        _episode(player, watched, evidence, steps if evidence.returns else FIRST_EPISODE * steps, deadline, first)
        first = None
    evidence.generators = player.generators_used
    after = _spaces(env)
    evidence.changed_spaces = [(name, before[name], after[name]) for name in before if before[name] != after[name]]
    return evidence


def _episode(
    player: SubEnv, watched: Watched, evidence: Evidence, steps: int, deadline: float, seed: int | None
) -> None:
    obs = _tried(evidence, lambda: player.reset(seed=seed)[0])
    _keep(evidence, (None, obs, 0.0, False, False), obs)
    total, length = 0.0, 0
    while evidence.steps < steps and time.monotonic() < deadline and not evidence.stopped():
        action = random_action(player.env.action_space, player.packing, obs)
        evidence.steps += 1
        result = _tried(evidence, lambda chosen=action: player.step(chosen))  # type: ignore[misc]
        if evidence.stopped():
            return
        obs, reward, terminated, truncated = (None, *_as_far_as_known(watched.result)) if result is None else result[:4]
        _keep(evidence, (action, obs, reward, terminated, truncated), obs)
        _look_at_reward(evidence, reward)
        total, length = total + reward, length + 1
        if terminated or truncated:
            evidence.returns.append(total)
            evidence.lengths.append(length)
            return


@dataclass(frozen=True)
class Difference:
    """Where a second play of the same moves gave something else."""

    move: int  # 0: the first observation
    size: float  # of the largest difference in the observation, relative to its largest number; inf: of another kind
    what: str = "observation"  # or reward, terminated, truncated
    fault: EnvError | None = None  # what rlab refuses in the second play alone

    def __str__(self) -> str:
        if self.fault is not None:
            return f"at move {self.move}, where it {self.fault}"
        place = "in the first observation" if self.move == 0 else f"at move {self.move} in its {self.what}"
        return place if np.isinf(self.size) else f"{place} by {self.size:.1%}"


def replay(
    env: gym.Env, packing: Packing, moves: list[Move], seed: int, timeout: float = ENV_TIMEOUT
) -> Difference | None:
    """Repeat the same moves in another env, or in the same one after a reset; None where all results are the same."""
    player = SubEnv(env, packing, timeout=timeout)
    for index, (action, obs, reward, terminated, truncated) in enumerate(moves):
        try:
            if action is None:
                found: tuple[Any, ...] = (player.reset(seed=seed if index == 0 else None)[0], 0.0, False, False)
            else:
                found = player.step(action)[:4]
        except SubEnvError as error:
            return None if obs is None else Difference(index, np.inf, fault=error.fault)
        if obs is None:  # what it gave was refused the first time
            return None
        if not np.array_equal(found[0], obs, equal_nan=np.asarray(obs).dtype.kind == "f"):
            return Difference(index, _distance(obs, found[0]) if found[2:] == (terminated, truncated) else np.inf)
        if not np.array_equal(found[1], reward, equal_nan=True):
            return Difference(index, abs(found[1] - reward) / max(1.0, abs(reward)), "reward")
        for name, value, known in zip(("terminated", "truncated"), found[2:], (terminated, truncated), strict=True):
            if value != known:
                return Difference(index, np.inf, name)
    return None


def _distance(one: Any, other: Any) -> float:
    if np.asarray(one).dtype.kind != "f":
        return np.inf
    return float(np.abs(one - other).max() / max(1.0, np.abs(one).max())) if np.size(one) else 0.0


def random_action(space: gym.Space, packing: Packing, obs: Any) -> Any:
    """A random action that the mask at the end of a packed observation, if there is one, allows."""
    if not isinstance(packing.obs_space, Masked) or obs is None:
        return sampled(space)
    bits = (obs[-packing.obs_space.size :] != 0).astype(np.int8)
    if not bits.any():
        return sampled(space)
    if isinstance(space, gym.spaces.Discrete):
        return space.sample(mask=bits)
    parts = np.split(bits, np.cumsum(choices(packing.action_space))[:-1])
    picked = [int(np.flatnonzero(part)[space.np_random.integers(np.count_nonzero(part))]) for part in parts]
    start = np.asarray(getattr(space, "start", 0))
    return np.asarray(picked).reshape(space.shape or ()).astype(space.dtype) + start


@contextmanager
def quiet() -> Iterator[Callable[[], tuple[str, list[str]]]]:
    """Keeps prints and warnings off the terminal; gives a function that returns them."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning, RlabWarning):
            # meant for a module's author, or found here anyway
            warnings.simplefilter("ignore", category)
        yield lambda: (out.getvalue(), list(dict.fromkeys(str(each.message) for each in caught)))


class GlobalGenerators:
    """The global generators of random, NumPy and torch, seeded with the same number for every play."""

    def seed(self) -> None:
        """Seed them, as each worker's are in training."""
        import torch  # here, since workers import this package and need not wait for it

        random.seed(GLOBAL_SEED)
        np.random.seed(GLOBAL_SEED)  # the global one is meant
        torch.random.default_generator.manual_seed(GLOBAL_SEED)
        self._seeded = self._states()

    def used(self) -> tuple[str, ...]:
        """Those that were drawn from since `seed`, apart from an env's own in its first steps (see `own_globals`)."""
        return tuple(name for name, state in self._states().items() if not _same_state(state, self._seeded[name]))

    def _states(self) -> dict[str, Any]:
        import torch

        return {"random": random.getstate(), "np.random": np.random.get_state(), "torch": torch.get_rng_state()}


@contextmanager
def folder_kept() -> Iterator[Callable[[], bool]]:
    """Return to the working folder at the end; gives a function that tells whether it was left."""
    here = os.getcwd()
    try:
        yield lambda: os.getcwd() != here
    finally:
        os.chdir(here)


def _tried(evidence: Evidence, call: Callable[[], Any]) -> Any:
    """What a call gives; None, and its fault as evidence, where rlab would refuse it."""
    try:
        return call()
    except SubEnvError as error:
        evidence.add_fault(error.fault)
        return None


def _as_far_as_known(result: tuple[Any, ...]) -> tuple[float, bool, bool]:
    """Reward and flags of a step that was refused, so that the play can continue."""
    _, reward, terminated, truncated, _ = result
    number = float(reward) if isinstance(reward, int | float | np.number) else 0.0
    return number, terminated is True or terminated == 1, truncated is True or truncated == 1


def _keep(evidence: Evidence, move: Move, obs: Any) -> None:
    if len(evidence.moves) < REPLAYED:
        evidence.moves.append(move)
    values = np.asarray(0.0 if obs is None else obs)
    if values.dtype.kind != "f":
        return
    if not float32_holds(values):
        evidence.add_fault(first_not_held("observation", values[None])[1])
    elif values.size:
        evidence.largest_obs = max(evidence.largest_obs, float(np.abs(values).max()))


def _look_at_reward(evidence: Evidence, reward: float) -> None:
    values = np.array([reward])
    if not float32_holds(values):
        evidence.add_fault(first_not_held("reward", values)[1])
        evidence.rewarded, evidence.rewards_held = True, False
        return
    evidence.largest_reward = max(evidence.largest_reward, abs(reward))
    evidence.rewarded |= reward != 0.0


def _spaces(env: gym.Env) -> dict[str, str]:
    return {"observation": str(env.observation_space), "action": str(env.action_space)}


def _outside(space: gym.Space, obs: Any, place: str) -> Iterator[Outside]:
    """The number farthest beyond the bounds of each Box of floats that an observation has something for."""
    if isinstance(space, gym.spaces.Dict) and isinstance(obs, Mapping):
        for name, part in space.spaces.items():
            if name in obs:
                yield from _outside(part, obs[name], f"the part {name!r} of {place}")
    elif isinstance(space, gym.spaces.Tuple) and isinstance(obs, tuple | list):
        for index, (part, value) in enumerate(zip(space.spaces, obs, strict=False)):
            yield from _outside(part, value, f"part {index} of {place}")
    elif isinstance(space, gym.spaces.Box) and np.dtype(space.dtype).kind == "f":
        values = numbers_of(obs)
        if values is None or values.shape != space.shape or not values.size:
            return
        low, high, values = (each.astype(np.float64) for each in (space.low, space.high, values))
        values = np.where(np.isfinite(values), values, np.clip(0.0, low, high))
        one_sided = np.minimum(np.maximum(1.0, np.minimum(np.abs(low), np.abs(high))), FLOAT32_MAX)
        span = np.maximum(np.where(np.isfinite(high - low), high - low, one_sided), 1e-9)
        excess = np.maximum(low - values, values - high) / span
        at = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if excess[at] > 0.0:
            yield Outside(place, float(values[at]), float(low[at]), float(high[at]), float(excess[at]))


def _arrays(obs: Any) -> Iterator[np.ndarray]:
    if isinstance(obs, np.ndarray):
        yield obs
    elif isinstance(obs, Mapping):
        for part in obs.values():
            yield from _arrays(part)
    elif isinstance(obs, tuple | list):
        for part in obs:
            yield from _arrays(part)


def _same(before: Any, after: Any) -> bool:
    one, other = np.asarray(before), np.asarray(after)
    return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _same_state(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(_same_state(a, b) for a, b in zip(one, other, strict=True))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
