"""What may look on while an optimizer steps."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from rlab.types import Clock


class StepHook(Protocol):
    """Looks after parameters while an optimizer steps them, such as weights that are to stay at 0."""

    def at(self, clock: Clock) -> None:
        """The time, before the steps of that time; on the host, never in a program."""
        ...

    def next_event(self, clock: Clock) -> int:
        """The first time behind this one, in env steps, at which `at` does something."""
        ...

    def before(self) -> Any:
        """The gradient is known and the step comes next. What it returns is given to `after`."""
        ...

    def after(self, before: Any) -> None:
        """The step was made."""
        ...

    def metrics(self) -> Mapping[str, Tensor]:
        """What the last step led to, `[S]` each; asked for when the run logs."""
        ...
