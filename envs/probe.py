"""Probe worlds: tiny envs with known optimal values, each for one kind of fault, to be solved before CartPole.

All have Box(1) float32 observations in [-1, 1] and two actions, and are registered as `rlab/Probe...-v0`. Those of
`probe_spaces.py` have other spaces, or masks.
After the probe environments of Andy Jones and of rejax. Only the endless one shows a time limit treated as an ending.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np


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


class _ProbeEnv(gym.Env[np.ndarray, np.int64]):
    """`t` counts the steps of the episode, `x` is the one number that is observed."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.t = 0
        self.x = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        self.x = self.start()
        return self.observe(), {}

    def start(self) -> float:
        return 0.0

    def coin(self) -> float:
        """-1 or 1, with equal chance."""
        return 2.0 * float(self.np_random.integers(2)) - 1.0

    def observe(self) -> np.ndarray:
        return np.array([self.x], dtype=np.float32)

    def ended(self, reward: float) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observe(), reward, True, False, {}


class ProbeConstant(_ProbeEnv):
    """One step, reward 1 in any case: V = 1. Fails if values cannot learn a constant."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.ended(1.0)


class ProbeObservation(_ProbeEnv):
    """One step, reward = observation, -1 or 1: V(s) = s. Fails if values do not see the observation."""

    def start(self) -> float:
        return self.coin()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.ended(self.x)


class ProbeDelayed(_ProbeEnv):
    """Two steps, reward 1 at the end: V(0) = gamma, V(1) = 1. Fails if discounting or bootstrapping is wrong."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.t == 2:
            return self.ended(1.0)
        self.x = 1.0
        return self.observe(), 0.0, False, False, {}


class ProbeAction(_ProbeEnv):
    """One step, reward 1 for action 1 and -1 for action 0. Fails if actions do not reach the learning."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.ended(1.0 if action == 1 else -1.0)


class ProbeActionObservation(_ProbeEnv):
    """One step, reward 1 if the action agrees with the observation's sign, else -1. Fails if rows are mixed up."""

    def start(self) -> float:
        return self.coin()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.ended(1.0 if (action == 1) == (self.x > 0) else -1.0)


class ProbeEndless(_ProbeEnv):
    """+1 for ever, cut after 3 steps: V = 1 / (1 - gamma). Fails if a time limit is treated as an ending."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observe(), 1.0, False, self.t >= 3, {}


class ProbeCredit(_ProbeEnv):
    """Two steps; the first action decides the reward at the second. Fails if credit does not flow back to it."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.t == 2:
            return self.ended(self.x)
        self.x = 1.0 if action == 1 else -1.0
        return self.observe(), 0.0, False, False, {}


def _state(obs: float, q0: float, q1: float) -> list[ProbeValue]:
    """V(obs) and Q(obs, action) for both actions."""
    return [ProbeValue((obs,), None, max(q0, q1)), ProbeValue((obs,), 0, q0), ProbeValue((obs,), 1, q1)]


def _endless(gamma: float) -> list[ProbeValue]:
    value = 1.0 / (1.0 - gamma)  # the sum of gamma**k
    return _state(0.0, value, value)


_ROWS: list[tuple[type[_ProbeEnv], Callable[[float], list[ProbeValue]], float, str]] = [
    (ProbeConstant, lambda gamma: _state(0.0, 1.0, 1.0), 1.0, "a constant"),
    (ProbeObservation, lambda gamma: _state(-1.0, -1.0, -1.0) + _state(1.0, 1.0, 1.0), 0.0, "the observation"),
    (ProbeDelayed, lambda gamma: _state(0.0, gamma, gamma) + _state(1.0, 1.0, 1.0), 1.0, "discounting"),
    (ProbeAction, lambda gamma: _state(0.0, -1.0, 1.0), 1.0, "the action"),
    (
        ProbeActionObservation,
        lambda gamma: _state(-1.0, 1.0, -1.0) + _state(1.0, -1.0, 1.0),
        1.0,
        "action and observation",
    ),
    (ProbeEndless, _endless, 3.0, "time limits"),
    (
        ProbeCredit,
        lambda gamma: _state(0.0, -gamma, gamma) + _state(-1.0, -1.0, -1.0) + _state(1.0, 1.0, 1.0),
        1.0,
        "credit over two steps",
    ),
]

PROBES: Mapping[str, Probe] = {
    f"rlab/{world.__name__}-v0": Probe(f"rlab/{world.__name__}-v0", values, episode_return, what)
    for world, values, episode_return, what in _ROWS
}


def register_probes(probes: Mapping[str, Probe], module: str) -> None:
    """Make the probe worlds of a module known to Gymnasium; a second call changes nothing."""
    for env_id in probes.keys() - gym.registry.keys():
        class_name = env_id.removeprefix("rlab/").removesuffix("-v0")
        gym.register(env_id, entry_point=f"{module}:{class_name}")


register_probes(PROBES, __name__)
