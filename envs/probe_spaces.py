"""Probe worlds for every kind of space and for masks, in one or two steps, with optimal values known on paper.

Like those of `probe.py`, registered as `rlab/Probe...-v0`; an agent is tried on those whose actions it has.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.probe import NUMBER, Outcome, Probe, ProbeEndless, ProbeValue, World, at, registered
from rlab.networks.spaces import MASK_KEY


class _World(World):
    """Begins in the state -1 or 1."""

    def start(self) -> None:
        self.toss()


class ProbeMasked(_World):
    """Two steps; the first chooses the second's state, and forbidden actions would pay most.

    From 0, action 0 leads to -1 and action 1 to 1. There action 0 pays -1, or action 1 pays 1 and action 2 pays 0.5. A
    forbidden action pays 10, so values that ignore the mask are far off. No action is allowed at the end.
    """

    tensor_env = "rlab.envs.tensor_probes:ProbeMasked"

    action_space = gym.spaces.Discrete(3)
    ALLOWED: Mapping[int, tuple[int, ...]] = {0: (1, 1, 0), -1: (1, 0, 0), 1: (0, 1, 1)}
    PAID: Mapping[int, tuple[float, ...]] = {0: (0.0, 0.0, 10.0), -1: (-1.0, 10.0, 10.0), 1: (10.0, 1.0, 0.5)}

    def start(self) -> None:
        self.x, self.over = 0, False

    def info(self) -> dict[str, Any]:
        return {MASK_KEY: np.array((0, 0, 0) if self.over else self.ALLOWED[self.x], np.int8)}

    def step(self, action: np.int64) -> Outcome:
        reward, first = self.PAID[self.x][action], self.x == 0
        self.over = not first
        if first:
            self.x = 1 if action == 1 else -1
        return self.observe(), reward, self.over, False, self.info()


class ProbeContinuous(_World):
    """One step, reward 1 - (a - x)^2 for a number a: V = 1. Fails if actions come in another scale than the env's.

    While an agent explores widely, its mean does best beyond x: clipping at the nearer bound tames half of the noise.
    """

    tensor_env = "rlab.envs.tensor_probes:ProbeContinuous"

    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        return self.ended(1.0 - (float(action[0]) - self.x) ** 2)


class ProbeBoxEndless(ProbeEndless):
    """+1 for ever whatever number is chosen, cut after 3 steps: V = 1 / (1 - gamma). Fails if a time limit is treated
    as an ending, or if actions that change nothing change values."""

    tensor_env = "rlab.envs.tensor_probes:ProbeBoxEndless"

    action_space = gym.spaces.Box(-1.0, 3.0, (1,), np.float32)


class ProbeBoxCredit(World):
    """Two steps; the first number a decides what the second step pays, 1 - 2 (a - 2)^2 / 9, which is seen there: V(0) =
    gamma, by a = 2. Fails if credit does not flow back, or if bounds that are not symmetric are taken for symmetric."""

    tensor_env = "rlab.envs.tensor_probes:ProbeBoxCredit"

    action_space = gym.spaces.Box(-1.0, 3.0, (1,), np.float32)
    paid = 0.0  # at the second step

    def start(self) -> None:
        self.paid = 0.0

    def observe(self) -> np.ndarray:
        return np.array([self.paid], np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        self.t += 1
        if self.t == 2:
            return self.ended(self.paid)
        self.paid = 1.0 - 2.0 * (float(action[0]) - 2.0) ** 2 / 9.0
        return self.observe(), 0.0, False, False, {}


class ProbeMultiDiscrete(_World):
    """One step, two choices: 1 where the first is right and 0.5 where the second is. Fails if choices are mixed up."""

    tensor_env = "rlab.envs.tensor_probes:ProbeMultiDiscrete"

    action_space = gym.spaces.MultiDiscrete([2, 3], start=[5, -1])
    RIGHT: Mapping[int, tuple[int, int]] = {-1: (5, 1), 1: (6, 0)}

    def step(self, action: np.ndarray) -> Outcome:
        first, second = (int(done) == right for done, right in zip(action, self.RIGHT[self.x], strict=True))
        return self.ended(first + 0.5 * second)


class ProbeMultiBinary(_World):
    """One step, two bits: 1 for each that is right, -1 for each that is not. Fails if bits are not chosen apart."""

    tensor_env = "rlab.envs.tensor_probes:ProbeMultiBinary"

    action_space = gym.spaces.MultiBinary(2)
    RIGHT: Mapping[int, tuple[int, int]] = {-1: (0, 1), 1: (1, 0)}

    def step(self, action: np.ndarray) -> Outcome:
        pairs = zip(action, self.RIGHT[self.x], strict=True)
        return self.ended(sum(1.0 if int(done) == right else -1.0 for done, right in pairs))


class ProbeDiscreteObservation(_World):
    """One step in one of three states, which pay 1, -1 and 0.5. Fails if integers are not treated as categories."""

    tensor_env = "rlab.envs.tensor_probes:ProbeDiscreteObservation"

    observation_space = gym.spaces.Discrete(3, start=-1)
    PAID: Mapping[int, float] = {-1: 1.0, 0: -1.0, 1: 0.5}

    def start(self) -> None:
        self.x = int(self.np_random.integers(3)) - 1

    def observe(self) -> np.int64:
        return np.int64(self.x)

    def step(self, action: np.int64) -> Outcome:
        return self.ended(self.PAID[self.x])


class ProbeDictObservation(_World):
    """One step; two parts of the observation together decide which action pays 1 and which -1. Fails if a part is
    lost."""

    tensor_env = "rlab.envs.tensor_probes:ProbeDictObservation"

    observation_space = gym.spaces.Dict({"number": NUMBER, "switch": gym.spaces.Discrete(2)})

    def start(self) -> None:
        super().start()
        self.switch = int(self.np_random.integers(2))

    def observe(self) -> dict[str, Any]:
        return {"number": np.array([self.x], np.float32), "switch": np.int64(self.switch)}

    def step(self, action: np.int64) -> Outcome:
        return self.ended(float(self.x * (1 if self.switch == action else -1)))


def _masked(gamma: float) -> list[ProbeValue]:
    return at((0.0,), {0: -gamma, 1: gamma}) + at((-1.0,), {0: -1.0}) + at((1.0,), {1: 1.0, 2: 0.5})


def _switched(number: float, switch: int) -> list[ProbeValue]:
    paid = number if switch == 1 else -number
    return at({"number": (number,), "switch": switch}, {0: -paid, 1: paid})


SPACE_PROBES: Mapping[str, Probe] = registered(
    [
        (ProbeMasked, _masked, 1.0, "a mask"),
        (
            ProbeContinuous,
            lambda gamma: (
                at((-1.0,), {(-1.0,): 1.0, (0.0,): 0.0, (2.0,): -8.0})
                + at((1.0,), {(1.0,): 1.0, (0.0,): 0.0, (2.0,): 0.0})
            ),
            1.0,
            "a continuous action",
        ),
        (
            ProbeMultiDiscrete,
            lambda gamma: (
                at((-1.0,), {(5, 1): 1.5, (5, 0): 1.0, (6, 1): 0.5, (6, -1): 0.0})
                + at((1.0,), {(6, 0): 1.5, (6, 1): 1.0, (5, 0): 0.5, (5, 1): 0.0})
            ),
            1.5,
            "several choices",
        ),
        (
            ProbeMultiBinary,
            lambda gamma: (
                at((-1.0,), {(0, 1): 2.0, (0, 0): 0.0, (1, 1): 0.0, (1, 0): -2.0})
                + at((1.0,), {(0, 1): -2.0, (0, 0): 0.0, (1, 1): 0.0, (1, 0): 2.0})
            ),
            2.0,
            "several bits",
        ),
        (
            ProbeDiscreteObservation,
            lambda gamma: at(-1, {0: 1.0, 1: 1.0}) + at(0, {0: -1.0, 1: -1.0}) + at(1, {0: 0.5, 1: 0.5}),
            1 / 6,
            "an integer as the observation",
        ),
        (
            ProbeDictObservation,
            lambda gamma: [row for number in (-1.0, 1.0) for switch in (0, 1) for row in _switched(number, switch)],
            1.0,
            "an observation in parts",
        ),
    ]
)
# More worlds of numbers, for agents that choose nothing else. Of the states of `ProbeBoxCredit` some are stated.
BOX_PROBES: Mapping[str, Probe] = registered(
    [
        (
            ProbeBoxEndless,
            lambda gamma: at((0.0,), {(action,): 1.0 / (1.0 - gamma) for action in (-1.0, 0.5, 3.0)}),
            3.0,
            "time limits",
        ),
        (
            ProbeBoxCredit,
            lambda gamma: (
                at((0.0,), {(2.0,): gamma, (0.5,): 0.5 * gamma, (-1.0,): -gamma})
                + at((1.0,), {(-1.0,): 1.0, (3.0,): 1.0})
                + at((0.5,), {(-1.0,): 0.5, (3.0,): 0.5})
            ),
            1.0,
            "credit over two steps",
        ),
    ]
)
