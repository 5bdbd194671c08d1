"""The observer that compares what served models are asked about with what they observed when they were judged."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlab.networks.obs_features import ObsFeatures
from rlab.serving.drift import BLOCK, DriftDetector, FeatureDrift
from rlab.serving.log import log
from rlab.serving.models import ServedModel
from rlab.serving.observers import AnsweredBatch

MOST_WATCHED = 64  # versions of models, as they follow each other


@dataclass(frozen=True)
class DriftState:
    """What is known of the drift of one model, in one process or in all."""

    observations: int = 0  # that were compared
    alarms: int = 0  # how often a feature began to drift
    features: tuple[FeatureDrift, ...] = ()  # none before the first block


@dataclass
class _Watched:
    """One model, whose observations are compared block by block."""

    model: ServedModel
    detector: DriftDetector
    features: ObsFeatures
    waiting: list[np.ndarray] = field(default_factory=list)
    rows: int = 0

    def take(self, obs: np.ndarray) -> None:
        """The next observations, `[B, *obs]`."""
        self.waiting.append(obs)
        self.rows += len(obs)
        if self.rows < BLOCK:
            return
        before = self.detector.drifting
        self.detector.add(self.features(np.concatenate(self.waiting)))
        self.waiting, self.rows = [], 0
        now = self.detector.drifting
        if (now != before).any():
            self._tell(before, now)

    def _tell(self, before: np.ndarray, now: np.ndarray) -> None:
        where: dict[str, Any] = {"model": self.model.name, "version": self.model.version}
        told = self.detector.features()
        if (now & ~before).any():
            begun = [
                {"feature": told[place].name, "what": told[place].what, "shift_in_std": round(told[place].shift, 3)}
                for place in np.flatnonzero(now & ~before)
            ]
            log("warning", "observations drift", **where, features=begun, observations=self.detector.observations)
        if (before & ~now).any():
            ended = [told[place].name for place in np.flatnonzero(before & ~now)]
            log("info", "observations no longer drift", **where, features=ended)


class DriftWatch:
    """Compares the observations of every model that has a record of its own; see `rlab.serving.drift`."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}  # by `name@version`; the one that was asked first leads

    def answered(self, model: ServedModel, batch: AnsweredBatch) -> None:
        if model.observed is None:
            return
        key = f"{model.name}@{model.version}"
        watched = self._watched.get(key)
        if watched is None or watched.model is not model:  # the first request, or another policy of the same name
            watched = _Watched(model, DriftDetector(model.observed), ObsFeatures(model.runner.obs_space))
            self._watched[key] = watched
            while len(self._watched) > MOST_WATCHED:
                del self._watched[next(iter(self._watched))]
        watched.take(batch.obs)

    def refused(self, model: str | None, status: int, message: str) -> None:
        """What got no answer is not compared."""

    def stopped(self) -> None:
        """It keeps nothing."""

    def states(self) -> dict[str, DriftState]:
        """What is known of each model that was asked, by `name@version`."""
        detectors = {key: each.detector for key, each in self._watched.items()}
        return {
            key: DriftState(detector.observations, detector.alarms, tuple(detector.features()))
            for key, detector in detectors.items()
        }


def together(states: list[DriftState]) -> DriftState:
    """What several processes know of one model: of each feature what the process says in which it is furthest away."""
    found: dict[str, FeatureDrift] = {}
    for state in states:
        for each in state.features:
            if each.name not in found or each.score > found[each.name].score:
                found[each.name] = each
    observations, alarms = (sum(getattr(state, name) for state in states) for name in ("observations", "alarms"))
    return DriftState(observations, alarms, tuple(found.values()))
