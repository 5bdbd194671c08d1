"""The observer that counts: requests, how long they took, how many were answered together, and which actions."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from rlab.networks.spaces import Discrete, MultiDiscrete, Space, choices
from rlab.serving.models import ServedModel
from rlab.serving.observers import AnsweredBatch

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper bounds
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MOST_ACTIONS = 1_000  # that are counted one by one, over all choices of an action


@dataclass
class ModelCounts:
    """What was counted of one version of a model since its process began; counts of processes add up."""

    requests: dict[str, int] = field(default_factory=dict)  # by status
    seconds: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))  # answered requests in each range
    seconds_sum: float = 0.0
    rows: list[int] = field(default_factory=lambda: [0] * (len(ROWS) + 1))  # batches in each range of observations
    rows_sum: int = 0
    actions: dict[str, int] = field(default_factory=dict)  # `choice action`, as in "0 1"

    def add(self, other: "ModelCounts") -> None:
        """Take what another process counted."""
        for mine, theirs in ((self.requests, other.requests), (self.actions, other.actions)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        self.seconds = [a + b for a, b in zip(self.seconds, other.seconds, strict=True)]
        self.rows = [a + b for a, b in zip(self.rows, other.rows, strict=True)]
        self.seconds_sum += other.seconds_sum
        self.rows_sum += other.rows_sum


class Counts:
    """Counts by model and version, joined as `name@version`; refusals that name no model that is served count under
    `@`, and others without a version."""

    def __init__(self) -> None:
        self.by_model: dict[str, ModelCounts] = defaultdict(ModelCounts)
        self._actions: dict[str, tuple[ServedModel, ActionCounts | None]] = {}

    def answered(self, model: ServedModel, batch: AnsweredBatch) -> None:
        key = f"{model.name}@{model.version}"
        counts = self.by_model[key]
        counts.requests["200"] = counts.requests.get("200", 0) + len(batch.ids)
        for seconds in batch.seconds:
            counts.seconds[bisect_left(SECONDS, seconds)] += 1
            counts.seconds_sum += seconds
        rows = len(batch.actions)
        counts.rows[bisect_left(ROWS, rows)] += 1
        counts.rows_sum += rows
        known = self._actions.get(key)
        if known is None or known[0] is not model:
            known = self._actions[key] = (model, ActionCounts.of(model.runner.action_space))
        if known[1] is not None:
            known[1].count(batch.actions, counts.actions)

    def refused(self, model: str | None, status: int, message: str) -> None:
        requests = self.by_model[f"{model or ''}@"].requests
        requests[str(status)] = requests.get(str(status), 0) + 1

    def stopped(self) -> None:
        """It keeps nothing."""


class ActionCounts:
    """Counts the actions of one space by their values."""

    def __init__(self, names: list[list[str]], starts: np.ndarray) -> None:
        self._names, self._starts = names, starts

    @classmethod
    def of(cls, space: Space) -> "ActionCounts | None":
        """None where actions are not choices, or of too many options."""
        options = choices(space)
        if not 0 < sum(options) <= MOST_ACTIONS or not isinstance(space, Discrete | MultiDiscrete):
            return None
        starts = space.start if isinstance(space, MultiDiscrete) else (space.start,)
        pairs = enumerate(zip(options, starts, strict=True))
        names = [[f"{choice} {start + option}" for option in range(n)] for choice, (n, start) in pairs]
        return cls(names, np.array(starts))

    def count(self, actions: np.ndarray, counts: dict[str, int]) -> None:
        """Add actions `[B, *action]` to the counts."""
        options = (actions.reshape(len(actions), -1) - self._starts).T.tolist()
        for names, chosen in zip(self._names, options, strict=True):
            for option in chosen:
                name = names[option]
                counts[name] = counts.get(name, 0) + 1
