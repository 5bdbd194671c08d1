"""Learning-rate schedules by name: a factor in (0, 1] for every share of the run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlab.errors import UsageError, unknown


@dataclass(frozen=True)
class Schedule:
    """A learning rate over a run; `progress` is the share of the budget that is used.

    Raises:
        UsageError: the name is unknown or a number out of range.
    """

    name: str = "constant"
    final: float = 0.0  # factor at the end of linear and cosine; factor of each step of `step`
    warmup_fraction: float = 0.0  # share of the run over which the rate first rises linearly from zero
    steps: int = 3  # how many equal stretches `step` cuts the run into

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise unknown("learning-rate schedule", self.name, SCHEDULES)
        if not 0.0 <= self.final <= 1.0 or not 0.0 <= self.warmup_fraction < 1.0 or self.steps < 1:
            raise UsageError(
                f"a schedule's final factor {self.final} must be in [0, 1], its warm-up {self.warmup_fraction} in "
                f"[0, 1) and its steps {self.steps} at least 1."
            )

    def factor(self, progress: float) -> float:
        """What the base rate is multiplied by."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        rest = (progress - self.warmup_fraction) / (1.0 - self.warmup_fraction)
        return SCHEDULES[self.name](min(rest, 1.0), self)


# name -> (share of the run after warm-up, settings) to factor
SCHEDULES: dict[str, Callable[[float, Schedule], float]] = {
    "constant": lambda rest, s: 1.0,
    "linear": lambda rest, s: 1.0 + (s.final - 1.0) * rest,
    "cosine": lambda rest, s: s.final + (1.0 - s.final) * 0.5 * (1.0 + math.cos(math.pi * rest)),
    "step": lambda rest, s: s.final ** min(int(rest * s.steps), s.steps - 1),
}

CONSTANT = Schedule()
