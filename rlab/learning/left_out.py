"""Says, once of observations and once of rewards, that a number was left out of running statistics."""

from collections.abc import Sequence

from rlab.learning.contract import Agent, ScalesRewards
from rlab.networks.outliers import FAR, HELD, Outlier, Outliers
from rlab.places import warn


class LeftOut:
    """Looks at what an agent's running statistics have left out.

    Args:
        rows: what a row of its observations is: `env`, or `row` of a dataset.
    """

    def __init__(self, agent: Agent, seeds: Sequence[int], rows: str) -> None:
        self._agent, self._seeds, self._rows = agent, seeds, rows
        self._told: set[str] = set()

    def look(self) -> None:
        """Warn where something was left out for the first time."""
        preprocess = getattr(self._agent.policy(), "preprocess", None)  # what only learns from examples has none
        self._tell("observation", None if preprocess is None else preprocess.outliers)
        self._tell("reward", self._agent.reward_outliers if isinstance(self._agent, ScalesRewards) else None)

    def _tell(self, what: str, outliers: Outliers | None) -> None:
        found = [] if outliers is None or what in self._told else outliers.found()
        if not found:
            return
        self._told.add(what)
        others = f" (and of {len(found) - 1} more seeds)" if len(found) > 1 else ""
        warn(
            f"{self._named(what, found[0])}{others} is absurd beside what came before: its row was left out of the "
            f"running statistics, as every one is of which a number is above {HELD:.2g} in size or more than {FAR:.0e} "
            "deviations from the mean. If it means something, scale it in the env."
        )

    def _named(self, what: str, outlier: Outlier) -> str:
        where = f"{self._rows} {outlier.lane} of seed {self._seeds[outlier.member]}"
        part = f"feature {outlier.feature} of an {what}" if what == "observation" else f"a {what}"
        return f"{outlier.value:.3g} as {part} in {where}"
