"""`FrameStack`: the newest frames of an episode as one observation, which storage keeps one frame of."""

from typing import Any

import gymnasium as gym
import numpy as np

from rlab.envs.gym_spaces import CHANNELS, FRAMES
from rlab.networks.bounds import FIRST, NO_IMAGE, UNCLEAR, channels_of, unclear_channels


class FrameStack(gym.ObservationWrapper):
    """The newest `frames` observations of the episode as one, oldest first; zeros stand for those before its beginning
    (as in Mnih et al. 2015 and in ALE's own vector env).

    Frames `[H, W]` become `[frames, H, W]`, channels first; the channels of an image and the numbers of a vector follow
    each other along their own axis: `[frames * C, H, W]`, `[H, W, frames * C]`, `[frames * D]`. It is the last wrapper:
    storage keeps the newest frame of every row alone, and makes the stacks again from the rows before it. A vector env
    whose observation space says the same (`Box.frames`) and whose observations keep the same rule is stored alike.
    """

    def __init__(self, env: gym.Env, frames: int = 4) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or not 1 <= len(space.shape) <= 3:
            raise ValueError(f"FrameStack expects numbers [D] or frames [H, W], [H, W, C] or [C, H, W], not {space}")
        if type(frames) is not int or not 2 <= frames <= 255:  # storage counts them in a byte
            raise ValueError(f"frames {frames!r} must be a whole number from 2 to 255")
        if getattr(space, FRAMES, 1) > 1:
            raise ValueError("the observations are stacks of frames already: use FrameStack once")
        low, high = (np.asarray(bound) for bound in (space.low, space.high))
        self._new_axis = len(space.shape) == 2
        shape = (1, *space.shape) if self._new_axis else space.shape
        place = getattr(
            space, CHANNELS, channels_of(shape, str(space.dtype), low.ravel().tolist(), high.ravel().tolist())
        )
        if place == UNCLEAR:
            raise ValueError(unclear_channels(shape))
        if self._new_axis and place == NO_IMAGE:
            raise ValueError(f"FrameStack takes {space} for numbers, not for pixels; put FlattenObservation before it")
        place = FIRST if self._new_axis else place
        self._axis = 0 if place == FIRST else len(shape) - 1
        low, high = (self._repeated(bound, frames) for bound in (np.minimum(low, 0), np.maximum(high, 0)))
        self.observation_space = gym.spaces.Box(low, high, dtype=space.dtype.type)
        setattr(self.observation_space, CHANNELS, place)
        setattr(self.observation_space, FRAMES, frames)
        self._stack = np.zeros(low.shape, space.dtype)
        self._length = self._stack.shape[self._axis] // frames  # of one frame along the axis

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._stack = np.zeros_like(self._stack)
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> np.ndarray:
        frame = np.asarray(observation)
        older = self._stack[(slice(None),) * self._axis + (slice(self._length, None),)]
        # a new array each time: what was handed out before stays as it is
        self._stack = np.concatenate([older, frame[None] if self._new_axis else frame], self._axis)
        return self._stack.copy()

    def _repeated(self, bound: np.ndarray, frames: int) -> np.ndarray:
        return np.concatenate([bound[None] if self._new_axis else bound] * frames, self._axis)
