"""One sound env, and one broken env for each finding of `rlab check`."""

import os
import random
import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np


class Sound(gym.Env):
    """Observes how far the episode is and a drawn number; action 1 is right where that number is positive."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space: gym.Space = gym.spaces.Box(-5.0, 5.0, (2,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.drawn = self.np_random.uniform(-1, 1)
        return self.obs(), {}

    def step(self, action):
        right = bool(action) == (self.drawn > 0)
        self.t += 1
        self.drawn = self.np_random.uniform(-1, 1)
        return self.obs(), float(right), self.t >= 5, False, {}

    def obs(self):
        return np.array([self.t, self.drawn], np.float32)


class ResetWithoutInfo(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class ResetWithoutSeed(Sound):
    def reset(self):
        return super().reset()


class FourValues(Sound):
    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class StepRaises(Sound):
    def step(self, action):
        if self.t == 3:
            raise ValueError("list index out of range")
        return super().step(action)


class WrongShape(Sound):
    def obs(self):
        return np.zeros(3, np.float32)


class OutsideDiscrete(Sound):
    observation_space = gym.spaces.Discrete(3)

    def obs(self):
        return self.t


class MissingPart(Sound):
    observation_space = gym.spaces.Dict({"a": gym.spaces.Discrete(9), "b": gym.spaces.Discrete(9)})

    def obs(self):
        return {"a": self.t, **({"b": 1} if self.t < 3 else {})}


class NotANumber(Sound):
    def obs(self):
        return np.array([np.nan if self.t == 4 else 0.0, 0.0], np.float32)


class RewardOfTwo(Sound):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return (obs, [reward, reward], *rest)


class RewardBeyondFloat32(Sound):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return (obs, 1e39, *rest)


class RewardLarge(Sound):
    def step(self, action):
        obs, reward, *rest = super().step(action)
        return (obs, 1e5 * reward, *rest)


class NeverRewarded(Sound):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return (obs, 0.0, *rest)


class FlagOfWords(Sound):
    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, "no", info


class MaskTooShort(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.ones(3, np.int8)}


class MaskOfNothing(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.ones(2, np.int8)}

    def step(self, action):
        *rest, _ = super().step(action)
        return (*rest, {"action_mask": np.zeros(2, np.int8)})


class Endless(Sound):
    def step(self, action):
        obs, reward, *_ = super().step(action)
        return obs, reward, False, False, {}

    def obs(self):
        return np.array([0.0, self.drawn], np.float32)


class ObservesPixelsAsFloats(Sound):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def obs(self):
        return np.array([1e6 + self.t, self.drawn], np.float32)


class GraphSpace(Sound):
    observation_space = gym.spaces.Graph(gym.spaces.Discrete(2), None)


class TextAction(Sound):
    action_space = gym.spaces.Text(3)


class IntegerBoxAction(Sound):
    action_space = gym.spaces.Box(0, 9, (1,), np.int64)

    def step(self, action):
        return super().step(int(action[0]) > 4)


class SameArray(Sound):
    def reset(self, *, seed=None, options=None):
        self.buffer = np.zeros(2, np.float32)
        return super().reset(seed=seed)

    def obs(self):
        self.buffer[:] = self.t, self.drawn
        return self.buffer


class WritesIntoAction(Sound):
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action):
        action *= 0.5
        return super().step(action[0] > 0)


class UnseededDraw(Sound):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.np_random = np.random.default_rng()  # forgets the seed
        return result


class GlobalNumpy(Sound):
    def obs(self):
        return np.array([self.t, np.random.uniform(-1, 1)], np.float32)  # which is the fault


class GlobalRandom(Sound):
    def obs(self):
        return np.array([self.t, random.uniform(-1, 1)], np.float32)


class ResetKeeps(Sound):
    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def obs(self):
        return np.array([self.t, min(self.episodes, 5)], np.float32)


class CloseRaises(Sound):
    def close(self):
        raise AttributeError("no viewer")


class OneAlone(Sound):
    alive = 0

    def __init__(self):
        if OneAlone.alive:
            raise OSError("port in use")
        OneAlone.alive = 1

    def close(self):
        OneAlone.alive = 0


class ChangesFolder(Sound):
    def reset(self, *, seed=None, options=None):
        os.chdir("/")
        return super().reset(seed=seed)


class Prints(Sound):
    def step(self, action):
        print("step", self.t)
        return super().step(action)


class Slow(Sound):
    def step(self, action):
        time.sleep(0.011)
        return super().step(action)


class Needy(Sound):
    def __init__(self, size):
        self.size = size


class Unmakeable(Sound):
    def __init__(self):
        raise RuntimeError("no display")


def normalized():
    return gym.wrappers.NormalizeObservation(Sound())


# the finding of each, and its severity
EXPECTED = {
    ResetWithoutInfo: ("reset", "error"),
    ResetWithoutSeed: ("raised", "error"),
    FourValues: ("step", "error"),
    StepRaises: ("raised", "error"),
    WrongShape: ("observation", "error"),
    OutsideDiscrete: ("observation", "error"),
    MissingPart: ("observation", "error"),
    NotANumber: ("not-finite", "error"),
    RewardOfTwo: ("reward", "error"),
    RewardBeyondFloat32: ("reward", "error"),
    FlagOfWords: ("truncated", "error"),
    MaskTooShort: ("mask", "error"),
    MaskOfNothing: ("mask", "error"),
    GraphSpace: ("space", "error"),
    TextAction: ("space", "error"),
    IntegerBoxAction: ("no-agent", "error"),
    Needy: ("not-made", "error"),
    Unmakeable: ("not-made", "error"),
    normalized: ("normalizes", "error"),
    RewardLarge: ("reward-large", "warning"),
    Endless: ("no-end", "warning"),
    ObservesPixelsAsFloats: ("obs-large", "warning"),
    SameArray: ("obs-reused", "warning"),
    WritesIntoAction: ("action-changed", "warning"),
    UnseededDraw: ("not-deterministic", "warning"),
    GlobalNumpy: ("global-random", "warning"),
    GlobalRandom: ("global-random", "warning"),
    ResetKeeps: ("reset-keeps", "warning"),
    CloseRaises: ("close", "warning"),
    OneAlone: ("one-instance", "warning"),
    ChangesFolder: ("changes-folder", "warning"),
    NeverRewarded: ("no-reward", "note"),
    Prints: ("prints", "note"),
    Slow: ("slow", "note"),
}
