"""Tells, once, that the returns of an env leave the support of a categorical value head."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlab.learning.q_learning import QLearningConfig
from rlab.learning.value_losses import OUTSIDE_SUPPORT
from rlab.places import warn

MOST = 0.25  # share of the targets' probability; a network that has learned nothing yet may have a tenth there


class SupportWatch:
    """A listener of runs with such a head."""

    def __init__(self, settings: Any) -> None:
        self._settings, self._told = settings, False

    @classmethod
    def of(cls, settings: Any) -> "list[SupportWatch]":
        """One where the agent's settings have that head."""
        return [cls(settings)] if isinstance(settings, QLearningConfig) and settings.value_head == "c51" else []

    def on_metrics(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        share = np.asarray(metrics.get(OUTSIDE_SUPPORT, 0.0), float)
        if self._told or not (share > MOST).any():
            return
        self._told = True
        low, high = self._settings.value_min, self._settings.value_max
        warn(
            f"returns leave what value_head c51 can tell apart, {low:g} .. {high:g}: at {env_steps:,} env steps "
            f"{np.nanmax(share):.0%} of its targets are beyond. Set --value-min and --value-max to the lowest and the "
            "highest discounted return."
        )

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        pass

    def on_save(self, env_steps: int) -> None:
        pass
