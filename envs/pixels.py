"""Learning from what an env draws: its pictures as observations, resized without rounding that depends on a package."""

import os
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled

from rlab.errors import RlabError, UsageError, extra

MODE = "rgb_array"  # the render mode of an env whose pictures are observed
# Shares of red, green and blue in the brightness, in thousandths: ITU-R BT.601, as in OpenCV and Pillow.
BRIGHTNESS = np.array([299, 587, 114], np.int32)


class Pixels(gym.Wrapper):
    """Replaces observations by what the env draws: `uint8 [height, width, 3]`, or `[height, width, 1]` in grey.

    Every pixel is the mean of the area that it covers in the env's picture, computed in whole numbers and rounded half
    up, so that it is the same on every machine. rlab makes the env with `render_mode="rgb_array"` itself.

    Args:
        width, height: of the observation, in pixels.
        grey: one channel of brightness instead of three of colour.

    Raises:
        ValueError: the env draws no arrays.
    """

    def __init__(self, env: gym.Env, width: int = 84, height: int = 84, grey: bool = False) -> None:
        super().__init__(env)
        for name, value in (("width", width), ("height", height)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} {value!r} must be a whole number of pixels, 1 or more")
        if type(grey) is not bool:
            raise ValueError(f"grey {grey!r} must be true or false")
        if env.render_mode != MODE:
            modes = ", ".join((env.metadata or {}).get("render_modes") or []) or "nothing"
            raise ValueError(f"the env does not draw arrays ({MODE!r}); it draws: {modes}")
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # or SDL complains that it has none
        self.size, self.grey = (height, width), grey
        self.observation_space = gym.spaces.Box(0, 255, (height, width, 1 if grey else 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        return self._picture(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._picture(), reward, terminated, truncated, info

    def _picture(self) -> np.ndarray:
        try:
            drawn = self.env.render()
        except DependencyNotInstalled as error:
            raise UsageError(f'it needs pygame to draw itself: pip install "{extra("video")}"') from error
        if not (isinstance(drawn, np.ndarray) and drawn.ndim == 3 and drawn.shape[2] == 3 and drawn.dtype == np.uint8):
            found = f"{drawn.dtype} {drawn.shape}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
            raise RlabError(f"its render() gave {found} where a picture is expected, uint8 (height, width, 3)")
        picture, parts = (drawn @ BRIGHTNESS, 1000) if self.grey else (drawn, 1)
        return area_means(picture.reshape(*drawn.shape[:2], -1), self.size, parts)


def area_means(picture: np.ndarray, size: tuple[int, int], parts: int = 1) -> np.ndarray:
    """A picture `[H, W, C]` of whole numbers, `parts` of which make one step of brightness, as `uint8 [*size, C]`: the
    mean of the area that each new pixel covers, rounded half up."""
    high, wide = picture.shape[:2]
    most = 255 * parts * high  # of a sum over rows
    rows = _summed(picture, size[0], np.int32 if most < 2**31 else np.int64)  # [h, W, C]
    columns = np.ascontiguousarray(rows.swapaxes(0, 1))  # gathering whole rows is ten times as fast
    sums = _summed(columns, size[1], np.int64).swapaxes(0, 1)  # [h, w, C]
    whole = high * wide * parts
    means: np.ndarray = ((2 * sums + whole) // (2 * whole)).astype(np.uint8)
    return means


def _summed(rows: np.ndarray, new: int, dtype: type[np.integer]) -> np.ndarray:
    """`rows [R, ...]` added up into `new` rows that share them out evenly: each old row weighs `new` in all, each new
    one gets a weight of R."""
    old, place = len(rows), np.arange(new)
    first = place * old // new  # [new] the first old row that a new one touches
    reach = int((-(-(place + 1) * old // new) - first).max())  # the most that one of them touches
    total = np.zeros((new, *rows.shape[1:]), dtype)
    for row in (first + k for k in range(reach)):
        # Old row r covers [r * new, (r + 1) * new), new row i covers [i * old, (i + 1) * old), in parts of 1/new.
        weight = np.minimum((row + 1) * new, (place + 1) * old) - np.maximum(row * new, place * old)
        share = np.clip(weight, 0, None).astype(dtype).reshape(-1, *(1,) * (rows.ndim - 1))
        total += share * rows[np.minimum(row, old - 1)]
    return total
