"""Probe worlds: tiny envs with known optimal values, each for one kind of fault, to be solved before CartPole.

All have Box(1) float32 observations in [-1, 1] and two actions, and are registered as `rlab/Probe...-v0`. Those of
`probe_spaces.py` have other spaces, or masks.
After the probe environments of Andy Jones and of rejax. Only the endless one shows a time limit treated as an ending.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from rlab.errors import UsageError

Outcome = tuple[Any, float, bool, bool, dict[str, Any]]
NUMBER = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


class ProbeValue(NamedTuple):
    """The optimal policy's value at one observation: `Q(obs, action)`, or `V(obs)` where `action` is None."""

    obs: Any  # as the env gives it, a vector as a tuple
    action: Any  # as the env takes it, several choices as a tuple
    value: float


@dataclass(frozen=True)
class Probe:
    """One probe world: exact optimal values as a function of gamma, and the best policy's return."""

    env_id: str
    values: Callable[[float], list[ProbeValue]]
    episode_return: float  # undiscounted, expected
    what: str  # the one thing that it tests


class World(gym.Env[Any, Any]):
    """`t` counts the steps of the episode; `x` is the state, the one number that is observed; `time_limit` is the step
    at which the world truncates its episodes, if it does."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as Gymnasium declares it
    observation_space: gym.Space = NUMBER
    action_space: gym.Space = gym.spaces.Discrete(2)
    time_limit: int | None = None
    t = x = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = self.x = 0
        self.start()
        return self.observe(), self.info()

    def start(self) -> None:
        """Choose the first state, if it is not 0."""

    def toss(self) -> None:
        """-1 or 1 as the state, with equal chance."""
        self.x = 2 * int(self.np_random.integers(2)) - 1

    def observe(self) -> Any:
        return np.array([self.x], np.float32)

    def info(self) -> dict[str, Any]:
        return {}

    def ended(self, reward: float) -> Outcome:
        return self.observe(), reward, True, False, self.info()


class ProbeConstant(World):
    """One step, reward 1 in any case: V = 1. Fails if values cannot learn a constant."""

    tensor_env = "rlab.envs.tensor_probes:ProbeConstant"

    def step(self, action: np.int64) -> Outcome:
        return self.ended(1.0)


class ProbeObservation(World):
    """One step, reward = observation, -1 or 1: V(s) = s. Fails if values do not see the observation."""

    tensor_env = "rlab.envs.tensor_probes:ProbeObservation"

    def start(self) -> None:
        self.toss()

    def step(self, action: np.int64) -> Outcome:
        return self.ended(float(self.x))


class ProbeDelayed(World):
    """Two steps, reward 1 at the end: V(0) = gamma, V(1) = 1. Fails if discounting or bootstrapping is wrong."""

    tensor_env = "rlab.envs.tensor_probes:ProbeDelayed"

    def step(self, action: np.int64) -> Outcome:
        self.t += 1
        if self.t == 2:
            return self.ended(1.0)
        self.x = 1
        return self.observe(), 0.0, False, False, {}


class ProbeAction(World):
    """One step, reward 1 for action 1 and -1 for action 0. Fails if actions do not reach the learning."""

    tensor_env = "rlab.envs.tensor_probes:ProbeAction"

    def step(self, action: np.int64) -> Outcome:
        return self.ended(1.0 if action == 1 else -1.0)


class ProbeActionObservation(World):
    """One step, reward 1 if the action agrees with the observation's sign, else -1. Fails if rows are mixed up."""

    tensor_env = "rlab.envs.tensor_probes:ProbeActionObservation"

    def start(self) -> None:
        self.toss()

    def step(self, action: np.int64) -> Outcome:
        return self.ended(1.0 if (action == 1) == (self.x > 0) else -1.0)


class ProbeEndless(World):
    """+1 for ever, cut after 3 steps: V = 1 / (1 - gamma). Fails if a time limit is treated as an ending."""

    tensor_env = "rlab.envs.tensor_probes:ProbeEndless"
    time_limit: int = 3

    def step(self, action: np.int64) -> Outcome:
        self.t += 1
        return self.observe(), 1.0, False, self.t >= self.time_limit, {}


class ProbeCredit(World):
    """Two steps; the first action decides the reward at the second. Fails if credit does not flow back to it."""

    tensor_env = "rlab.envs.tensor_probes:ProbeCredit"

    def step(self, action: np.int64) -> Outcome:
        self.t += 1
        if self.t == 2:
            return self.ended(float(self.x))
        self.x = 1 if action == 1 else -1
        return self.observe(), 0.0, False, False, {}


class ProbeMemory(World):
    """A cue, -1 or 1, is observed first and 0 from then on; `delay` steps later action 1 is right where the cue was
    1 and action 0 where it was -1: reward 1, else -1. Fails if nothing is remembered, or something of another episode.

    The return is 1 at best. Without memory it is 0 in expectation: the cues are equally likely, and the last
    observation is the same after both.
    """

    tensor_env = "rlab.envs.tensor_probes:ProbeMemory"

    cue = 0

    def __init__(self, delay: int = 2) -> None:
        if delay < 1:
            raise UsageError(f"delay {delay} must be 1 or more: the steps for which the cue has to be remembered")
        self.delay = delay

    def start(self) -> None:
        self.toss()
        self.cue = self.x

    def step(self, action: np.int64) -> Outcome:
        self.t, self.x = self.t + 1, 0
        if self.t > self.delay:
            return self.ended(1.0 if (action == 1) == (self.cue > 0) else -1.0)
        return self.observe(), 0.0, False, False, {}


def at(obs: Any, actions: Mapping[Any, float]) -> list[ProbeValue]:
    """V(obs), and Q of the actions stated, the best among them."""
    best = max(actions.values())
    return [ProbeValue(obs, None, best), *(ProbeValue(obs, action, value) for action, value in actions.items())]


def registered(rows: Sequence[tuple[type[World], Callable[[float], list[ProbeValue]], float, str]]) -> dict[str, Probe]:
    """The probe worlds of rows `(class, values, episode_return, what)` by their ids, known to Gymnasium."""
    ids = [registered_world(world) for world, _, _, _ in rows]
    return {env_id: Probe(env_id, *row[1:]) for env_id, row in zip(ids, rows, strict=True)}


def registered_world(world: type[World]) -> str:
    """The id by which Gymnasium knows a world from now on."""
    env_id = f"rlab/{world.__name__}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=f"{world.__module__}:{world.__name__}")
    return env_id


def _endless(gamma: float) -> list[ProbeValue]:
    value = 1.0 / (1.0 - gamma)  # the sum of gamma**k
    return at((0.0,), {0: value, 1: value})


def remembered(gamma: float, delay: int = 2) -> list[ProbeValue]:
    """The values of `ProbeMemory`: before the last step both actions are worth as much, gamma to the power of the steps
    until the answer."""
    rows: list[ProbeValue] = []
    for cue in (-1.0, 1.0):
        seen = ((cue,), *((0.0,) for _ in range(delay)))
        for left in range(delay, 0, -1):
            rows += at(seen[: delay + 1 - left], {0: gamma**left, 1: gamma**left})
        rows += at(seen, {0: -cue, 1: cue})
    return rows


def _both(low: float, high: float) -> list[ProbeValue]:
    """Of two states whose value no action changes."""
    return at((-1.0,), {0: low, 1: low}) + at((1.0,), {0: high, 1: high})


PROBES: Mapping[str, Probe] = registered(
    [
        (ProbeConstant, lambda gamma: at((0.0,), {0: 1.0, 1: 1.0}), 1.0, "a constant"),
        (ProbeObservation, lambda gamma: _both(-1.0, 1.0), 0.0, "the observation"),
        (
            ProbeDelayed,
            lambda gamma: at((0.0,), {0: gamma, 1: gamma}) + at((1.0,), {0: 1.0, 1: 1.0}),
            1.0,
            "discounting",
        ),
        (ProbeAction, lambda gamma: at((0.0,), {0: -1.0, 1: 1.0}), 1.0, "the action"),
        (
            ProbeActionObservation,
            lambda gamma: at((-1.0,), {0: 1.0, 1: -1.0}) + at((1.0,), {0: -1.0, 1: 1.0}),
            1.0,
            "action and observation",
        ),
        (ProbeEndless, _endless, 3.0, "time limits"),
        (ProbeCredit, lambda gamma: at((0.0,), {0: -gamma, 1: gamma}) + _both(-1.0, 1.0), 1.0, "credit over two steps"),
    ]
)
# Worlds that no policy without memory solves: `ProbeValue.obs` is all that was observed in the episode so far.
MEMORY_PROBES: Mapping[str, Probe] = registered([(ProbeMemory, remembered, 1.0, "memory")])
