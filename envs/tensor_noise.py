"""Numbers given in advance in the place of a Gymnasium env's own random generator."""

from statistics import NormalDist
from typing import Any, NoReturn

import numpy as np

from rlab.errors import RlabError


class GivenUniforms:
    """A generator for `env.np_random` whose draws are made of given uniform numbers, each of which is used once.

    A tensor env and its Gymnasium env then draw the same. The methods are those of `numpy.random.Generator`: `random`
    gives the numbers as they are, `uniform` and `integers` scale them, `normal` puts them through the inverse of its
    distribution function.

    Args:
        numbers: `[n]`, in [0, 1), in the order in which they are used.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = np.asarray(numbers, np.float64)
        self.used = 0

    @property
    def left(self) -> int:
        """How many of the numbers were not used."""
        return len(self._numbers) - self.used

    def random(self, size: Any = None) -> Any:
        shape = () if size is None else size
        count = int(np.prod(shape, dtype=np.int64))
        if count > self.left:
            raise RlabError(f"the env draws more than the {len(self._numbers)} random numbers that the tensor env uses")
        drawn = self._numbers[self.used : self.used + count]
        self.used += count
        return float(drawn[0]) if size is None else drawn.reshape(shape)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        if size is None and np.ndim(low):
            size = np.shape(low)
        return low + (np.asarray(high) - low) * self.random(size)

    def integers(self, low: Any, high: Any = None, size: Any = None) -> Any:
        low, high = (0, low) if high is None else (low, high)
        drawn = np.floor(self.random(size) * (np.asarray(high) - low)).astype(np.int64) + low
        return drawn if np.ndim(drawn) else np.int64(drawn)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        return loc + scale * np.vectorize(NormalDist().inv_cdf, otypes=[float])(self.random(size))

    def __getattr__(self, name: str) -> NoReturn:
        raise RlabError(
            f"the env draws with np_random.{name}, which cannot be made of uniform numbers here; override "
            "TensorEnv.give_noise"
        )
