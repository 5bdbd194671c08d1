"""The statistics behind every number that rlab reports, in plain NumPy.

Scores are `[runs, tasks]`: one run is one training seed, one task is one environment. A 1-D array is one task.
The definitions are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", and of their library rliable; the tests compare the two.

Intervals are percentiles of a stratified bootstrap, as rliable's are, but read further out, since those of few runs are
too narrow (Hesterberg 2015, "What Teachers Should Know about the Bootstrap"). `as_rliable=True` gives rliable's own.
`experiments/coverage.py` measures how often either holds the true value.

Every bootstrap draws from a fixed seed: the same scores give the same interval, digit for digit. A resample of
values that are all equal can show no spread: an interval without width means that nothing varied in this sample, not
that nothing can vary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.evaluation.quantiles import normal_tail, student_t

REPS = 50_000  # resamples; rliable's default
LEVEL = 0.95
MOST_DIGITS = 6  # behind the point, however small a value is

# What `statistic` means below: a function like `np.mean`, `statistic(scores, axis=axes)`, for one axis or several.
Statistic = Callable[..., Any]

# How often the 95 % interval of the IQM of so few runs holds the true value, for symmetric scores, on paper: it reaches
# from the lowest run to the highest, and misses the middle where all of n runs are on one side of it, 2 times in 2^n.
# Six runs come close to 95 %, ten reach it, as measured.
COVERAGE = {2: 0.5, 3: 0.75, 4: 0.875, 5: 0.9375}


def too_narrow(runs: int) -> str:
    """What the 95 % interval of the IQM of so few runs lacks, as a sentence without its stop; "" from six runs on."""
    if runs not in COVERAGE:
        return ""
    share = f"{100 * COVERAGE[runs]:.0f} %"
    return (
        f"an interval from {runs} seeds is too narrow: it holds the true value in about {share} of cases, not in 95 %"
    )


_BLOCK_ELEMENTS = 2**19  # drawn at once: 4 MiB an array, so that memory does not grow with the number of resamples


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between the two ends of its confidence interval, such as `487.1 [460.2, 500.0]`."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL  # two-sided coverage

    def __neg__(self) -> "Interval":
        return Interval(-self.estimate, -self.high, -self.low, self.level)

    def __str__(self) -> str:
        return f"{self:.{shown_digits(self.estimate, self.low, self.high)}f}"

    def __format__(self, spec: str) -> str:
        """The three numbers in this format, such as `.3f`; without one as `str`."""
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]" if spec else str(self)


def shown_digits(*values: float) -> int:
    """Decimals that people care for in numbers of this size: 500.0 of CartPole, 0.964 of MiniGrid."""
    largest = max(map(abs, values))
    return 1 if largest >= 100 else 2 if largest >= 10 else 3


def small_digits(*values: float) -> int:
    """Decimals that show two digits of the largest value, however small it is; 0 of zeros."""
    largest = max(map(abs, values))
    return 0 if largest == 0.0 else max(0, min(MOST_DIGITS, 1 - math.floor(math.log10(largest))))


class Widening(NamedTuple):
    """What the percentiles of a bootstrap over few runs lack."""

    freedom: float  # degrees of freedom of Student's t, which takes the place of the normal distribution
    variance: float  # factor by which the resamples vary too little


@overload
def iqm(scores: Any, axis: None = None) -> float: ...
@overload
def iqm(scores: Any, axis: int | tuple[int, ...]) -> np.ndarray: ...
def iqm(scores: Any, axis: int | tuple[int, ...] | None = None) -> Any:
    """Interquartile mean: the mean of what is left when a quarter of the scores is cut at either end.

    Exactly `scipy.stats.trim_mean(scores, 0.25)`: of n scores, `floor(n / 4)` go at each end, none is split.

    Args:
        scores: any shape; `[runs, tasks]` pools all runs of all tasks, as rliable does.
        axis: the axes to reduce; None reduces all of them to one number.

    Raises:
        RlabError: a score is NaN (sorting would pass it off as the best one).
        UsageError: there are no scores.
    """
    scores = np.asarray(scores, dtype=np.float64)
    axes = tuple(range(scores.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    last = np.moveaxis(scores, axes, range(-len(axes), 0))
    pooled = last.reshape(*last.shape[: scores.ndim - len(axes)], -1)  # [..., n]
    n = pooled.shape[-1]
    if n == 0:
        raise UsageError("the interquartile mean needs one score or more, not 0")
    refuse_nan(pooled)
    cut = n // 4
    middle = np.sort(pooled, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return float(middle) if axis is None else middle


def optimality_gap(scores: Any, gamma: float = 1.0, axis: int | tuple[int, ...] | None = None) -> Any:
    """How far the scores fall short of `gamma` on average; scores above it do not make up for others below it."""
    return gamma - np.minimum(scores, gamma).mean(axis=axis)


def stratified_bootstrap(
    scores: Any,
    statistic: Statistic = iqm,
    reps: int = REPS,
    level: float = LEVEL,
    seed: int = 0,
    as_rliable: bool = False,
) -> Interval:
    """An interval for a statistic of `scores [runs, tasks]`: other training seeds on the same tasks.

    Each resample draws as many runs as there are, with replacement, for every task on its own. The interval's ends are
    percentiles of the resamples' values: those that a normal distribution has at Student's t, not at 1.96.

    Args:
        scores: `[runs, tasks]`, or `[runs]` for one task.
        statistic: called as `statistic(resamples [reps, runs, tasks], axis=(1, 2))`, and once on the scores.
        level: two-sided coverage, between 0 and 1.
        as_rliable: take plain percentiles, which hold the true value of few runs too rarely.

    Raises:
        UsageError: fewer than two runs (one run shows nothing about others), or a level outside (0, 1).
        RlabError: a score is NaN.
    """
    table = as_table(scores)
    widening = widening_of(table, statistic)
    values = resampled(table, statistic, reps, np.random.default_rng(seed))
    return between(statistic(table, axis=(0, 1)), values, level, None if as_rliable else widening)


def interval_over_members(values: np.ndarray) -> tuple[float, float, float]:
    """IQM and its 95 % interval over members' mean returns `[S]`; one member has no interval (NaN)."""
    if values.size < 2:
        return float(values[0]), np.nan, np.nan
    interval = stratified_bootstrap(values, reps=2_000)  # a curve is read by eye; reports use the full number
    return interval.estimate, interval.low, interval.high


def mean_interval(values: Any, reps: int = REPS, level: float = LEVEL, seed: int = 0) -> Interval:
    """The mean of independent values `[n]`, with its bootstrap interval.

    For the episodes of one training seed it covers how well that policy does on other episodes, not what another
    training seed would have given.

    Raises:
        UsageError: fewer than two values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise UsageError(f"the interval of a mean needs two values or more in one row, not shape {values.shape}")
    return stratified_bootstrap(values, np.mean, reps, level, seed)


def performance_profile(
    scores: Any,
    thresholds: Sequence[float],
    reps: int = 2000,
    level: float = LEVEL,
    seed: int = 0,
    as_rliable: bool = False,
) -> list[Interval]:
    """For each threshold the share of runs, over all tasks, that score **above** it, with a pointwise interval."""
    table = as_table(scores)
    return [stratified_bootstrap(table > each, np.mean, reps, level, seed, as_rliable) for each in thresholds]


def blocks(reps: int, elements: int) -> Iterator[int]:
    """Block sizes that add up to `reps`, each small enough that its arrays stay within the limit."""
    if reps < 1:
        raise UsageError(f"a bootstrap needs one resample or more, not {reps}")
    largest = max(1, _BLOCK_ELEMENTS // elements)
    for start in range(0, reps, largest):
        yield min(largest, reps - start)


def widening_of(table: np.ndarray, statistic: Statistic) -> Widening:
    """What the resamples of `table [runs, tasks]` lack.

    The variance of a mean over resamples of n runs is (n - 1) / n of what it should be, task by task. So is that of the
    IQM of many tasks. For one task it is about right: which runs are cut changes with every resample, and that adds
    as much.

    Raises:
        UsageError: fewer than two runs.
    """
    runs, tasks = table.shape
    if runs < 2:
        raise UsageError("an interval over runs needs two runs or more: train more seeds, for example --seeds 10")
    freedom = tasks * (runs - 1)
    return Widening(freedom, (table.size - 1) / freedom if statistic is iqm else runs / (runs - 1))


def resampled(table: np.ndarray, statistic: Statistic, reps: int, rng: np.random.Generator) -> np.ndarray:
    """The statistic `[reps]` of resamples of `table [runs, tasks]`."""
    runs, tasks = table.shape
    values = []
    for block in blocks(reps, table.size):
        rows = rng.integers(runs, size=(block, runs, tasks))
        values.append(statistic(table[rows, np.arange(tasks)], axis=(1, 2)))  # [block]
    return np.concatenate(values)


def between(estimate: Any, values: np.ndarray, level: float, widening: Widening | None) -> Interval:
    """An estimate and the percentiles of its resampled `values [reps]`: those for `level`, or further out."""
    outside = (1 - checked_level(level)) / 2
    if widening is not None:
        outside = normal_tail(student_t(level, widening.freedom) * widening.variance**0.5)
    low, high = np.quantile(values, [outside, 1 - outside])
    return Interval(float(estimate), float(low), float(high), level)


def checked_level(level: float) -> float:
    """The level of an interval, as it is.

    Raises:
        UsageError: it is not a share between 0 and 1.
    """
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval lies between 0 and 1, such as 0.95, not {level}")
    return level


def as_table(scores: Any) -> np.ndarray:
    """Scores as `[runs, tasks]` float64."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or table.size == 0:
        raise UsageError(f"scores must be [runs, tasks] or [runs], and not empty; their shape is {table.shape}")
    refuse_nan(table)
    return table


def refuse_nan(scores: np.ndarray) -> None:
    """Raise RlabError where a score of `scores` is NaN."""
    if np.isnan(scores).any():
        raise RlabError("a score is NaN: that run failed, and no statistic of it would be true")
