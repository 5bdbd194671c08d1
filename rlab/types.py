"""The words and axes that every file uses.

S members of the population (one per training seed), N envs per member, B rows of a batch, T time, A actions.
Tensors lead with S, also when S is 1: observations `[S, N, *obs]`, batches `[S, B, ...]`, parameters `[S, in, out]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Json = Mapping[str, Any]
LOCAL = "local:"  # what the name of a function begins with that no other process can import


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a run is. One clock serves all members: `env_steps = vector steps x N`, per member."""

    env_steps: int
    total_env_steps: int
    per_step: int = 1  # N: by how many the clock goes on in one vector step

    def after(self, steps: int = 1) -> "Clock":
        """The time so many vector steps later."""
        return replace(self, env_steps=self.env_steps + steps * self.per_step)

    @property
    def progress(self) -> float:
        """Share of the budget that is used, in [0, 1]."""
        return min(self.env_steps / self.total_env_steps, 1.0)


def json_number(value: Any) -> Any:
    """For `json.dumps(default=...)`: a NumPy number, such as a seed out of `np.arange`, as Python's.

    Raises:
        TypeError: it is something else that JSON cannot hold.
    """
    import numpy as np

    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def crossed(before: int, now: int, every: int) -> bool:
    """True when a counter that may jump by several passes a multiple of `every`."""
    return now // every > before // every
