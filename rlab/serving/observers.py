"""The seam: what wants to see the traffic is told of every batch after its answers are on their way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from rlab.serving.models import ServedModel


@dataclass(frozen=True, slots=True)
class AnsweredBatch:
    """Requests whose observations were computed together: R requests with B rows in all.

    A row `b` of the arrays belongs to request `np.repeat(range(R), rows)[b]`.
    """

    ids: Sequence[str]  # [R], each request's own, or given by the server
    rows: Sequence[int]  # [R]
    sequences: Sequence[str | None]  # [R], the episode that the request belongs to, where it names one
    starts: Sequence[bool]  # [R], whether it says that this episode begins with it
    seconds: Sequence[float]  # [R], from the request's headers to its answer
    time: int  # ns since 1970, before the first of the answers left: whatever a client asks next came later
    obs: np.ndarray  # [B, *obs] in array form
    actions: np.ndarray  # [B, *action]
    outputs: np.ndarray  # [B, width], of the network
    states: np.ndarray | None = None  # [B, K], before the step; only with memory


class Observer(Protocol):
    """Sees the traffic of one process. Calls come from its event loop: they must be quick. What they raise is logged
    and reaches no client."""

    def answered(self, model: "ServedModel", batch: AnsweredBatch) -> None:
        """These requests got their answers."""

    def refused(self, model: str | None, status: int, message: str) -> None:
        """A request got no answer but this status; `model` is None where it names none that is served."""

    def stopped(self) -> None:
        """The server has answered its last request."""
