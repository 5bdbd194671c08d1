"""Learning curves of many runs: how good they are after how many env steps, and how many steps they take to be good.

A curve is `when [T]`, env steps (or updates) that rise, and `curves [S, T]`, the return of every run at each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.evaluation.exact_intervals import median_interval
from rlab.evaluation.stats import LEVEL, Interval, iqm, refuse_nan, stratified_bootstrap

REPS = 2_000  # of the bootstrap at each point: a curve is read by eye


@dataclass(frozen=True, eq=False)
class EfficiencyCurve:
    """The IQM over runs after so many env steps, with its pointwise interval for other training seeds."""

    when: np.ndarray  # [T]
    iqm: np.ndarray  # [T]
    low: np.ndarray  # [T]; NaN with one run, which has no interval
    high: np.ndarray  # [T]
    runs: int
    level: float = LEVEL


def efficiency_curve(when: Any, curves: Any, reps: int = REPS, level: float = LEVEL, seed: int = 0) -> EfficiencyCurve:
    """Sample efficiency (Agarwal et al. 2021): the IQM over runs at every point of their curves, with its interval.

    All points draw the same runs, so that the band is as smooth as the curves. It is pointwise: a curve leaves a 95 %
    band somewhere more often than in 5 % of cases.

    Args:
        when: `[T]`; curves: `[S, T]`. Runs that were logged at other times: `on_common_steps`.

    Raises:
        UsageError: the shapes do not fit, or `when` does not rise.
        RlabError: a value is NaN.
    """
    when, curves = _checked(when, curves)
    runs = len(curves)
    if runs == 1:
        none = np.full(len(when), np.nan)
        return EfficiencyCurve(when, curves[0].copy(), none, none, runs, level)
    points = [stratified_bootstrap(column, reps=reps, level=level, seed=seed) for column in curves.T]
    low, high = (np.array([getattr(point, end) for point in points]) for end in ("low", "high"))
    return EfficiencyCurve(when, iqm(curves, axis=0), low, high, runs, level)


def on_common_steps(runs: Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves that were logged at different times, on the times of all of them: `when [T]` and `curves [S, T]`.

    Between two points of its own a curve is a straight line. Only what all runs cover is kept: no curve is extended
    beyond its first or last point.

    Args:
        runs: `(when [T_i], values [T_i])` of each run.

    Raises:
        UsageError: no runs, shapes that do not fit, or runs that share no time.
        RlabError: a value is NaN.
    """
    if not runs:
        raise UsageError("curves of no run have no common steps: give one or more")
    checked = [_checked(when, np.asarray(values)[None]) for when, values in runs]
    first, last = max(when[0] for when, _ in checked), min(when[-1] for when, _ in checked)
    if first > last:
        raise UsageError(f"the curves share no steps: one begins at {first:g} and another ends at {last:g}")
    every = np.unique(np.concatenate([when for when, _ in checked]))
    common = every[(every >= first) & (every <= last)]
    return common, np.stack([np.interp(common, when, values[0]) for when, values in checked])


def area_under_curve(when: Any, curves: Any) -> np.ndarray:
    """The mean height of every run's curve over its steps, `[S]`, by the trapezoidal rule: in the unit of a return.

    It judges the whole of learning, speed and end in one. Like final returns these are scores of runs, of which
    `stratified_bootstrap` and `unpaired_difference` make intervals. Only areas over the same steps compare.

    Raises:
        UsageError: fewer than two points; else as `efficiency_curve`.
        RlabError: a value is NaN.
    """
    when, curves = _checked(when, curves)
    if len(when) < 2:
        raise UsageError("an area under a curve needs two points or more: evaluate more often, see --eval-every")
    return np.trapezoid(curves, when, axis=1) / (when[-1] - when[0])


@dataclass(frozen=True, eq=False)
class StepsToThreshold:
    """How many steps runs take to reach a return. Those that never did count as later than the last point."""

    threshold: float
    steps: np.ndarray  # [S], the first point at or above the threshold; infinity: never reached
    budget: float  # the last point: a run that never reached the threshold takes longer than this
    median: Interval  # infinite where it is not known but later than the budget: half of the runs never got there
    restricted_mean: Interval | None  # of min(steps, budget); None with one run

    @property
    def reached(self) -> int:
        """How many runs reached it."""
        return int(np.isfinite(self.steps).sum())

    def __str__(self) -> str:
        said = f"{self.reached} of {len(self.steps)} runs reach {self.threshold:g}; the median run "
        after = f"after {self.median.estimate:,.0f} steps"
        return said + (after if np.isfinite(self.median.estimate) else f"does not within {self.budget:,.0f} steps")


def steps_to_threshold(when: Any, curves: Any, threshold: float, level: float = LEVEL) -> StepsToThreshold:
    """When runs reach a return, where some may never do: the first point of each curve at or above `threshold`.

    A run that did not get there is censored on the right: all that is known is that it takes longer than was trained.
    Leaving it out would make an algorithm look the quicker the more often it fails. So it takes part in both numbers:

    - the median (of Kaplan and Meier 1958, which is the plain median where all runs have one budget): infinite, that is
      later than the budget, where half of the runs never arrive. Its interval is exact, from order statistics;
    - the restricted mean, of `min(steps, budget)` (Royston and Parmar 2013): the steps that a run spends below the
      threshold within the budget. It is always known, and compares only over equal budgets.

    Both know a time no better than the distance between two points.

    Args:
        when: `[T]`; curves: `[S, T]`, all of them as long.

    Raises:
        UsageError: as `efficiency_curve`.
        RlabError: a value is NaN.
    """
    when, curves = _checked(when, curves)
    above = curves >= threshold
    steps = np.where(above.any(axis=1), when[above.argmax(axis=1)], np.inf)
    spent = np.minimum(steps, when[-1])
    mean = stratified_bootstrap(spent, np.mean, level=level) if len(spent) > 1 else None
    return StepsToThreshold(float(threshold), steps, float(when[-1]), median_interval(steps, level), mean)


def _checked(when: Any, curves: Any) -> tuple[np.ndarray, np.ndarray]:
    when, curves = np.asarray(when, dtype=np.float64), np.asarray(curves, dtype=np.float64)
    if when.ndim != 1 or curves.ndim != 2 or curves.shape[1] != len(when) or curves.size == 0:
        raise UsageError(f"curves must be [runs, T] and their steps [T], not {curves.shape} and {when.shape}")
    if not (np.diff(when) > 0).all():
        raise UsageError("the steps of a curve must rise from point to point")
    refuse_nan(curves)
    return when, curves
