"""The statistics behind every number that rlab reports, in plain NumPy.

Scores are `[runs, tasks]`: one run is one training seed, one task is one environment. A 1-D array is one task.
The definitions are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", and of their library rliable; the tests compare the two on a fixed table.

Every bootstrap draws from a fixed seed: the same scores give the same interval, digit for digit. A resample of
values that are all equal can show no spread: an interval without width means that nothing varied in this sample, not
that nothing can vary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from rlab.errors import RlabError, UsageError

REPS = 50_000  # resamples; rliable's default
LEVEL = 0.95

# What `statistic` means below: a function like `np.mean`, `statistic(scores, axis=axes)`, for one axis or several.
Statistic = Callable[..., Any]

# How often the 95 % percentile bootstrap interval of the IQM of n runs holds the true value, for normal scores: 1/2 and
# 3/4 of two and three runs on paper, the others simulated (2 000 tables of 1 000 resamples, standard error 0.007;
# exponential scores give the same to 0.015). Resamples of few runs vary less than new runs would.
COVERAGE = {2: 0.50, 3: 0.75, 4: 0.88, 5: 0.90, 6: 0.91, 7: 0.91, 8: 0.93, 9: 0.93}

_BLOCK_ELEMENTS = 2**19  # drawn at once: 4 MiB an array, so that memory does not grow with the number of resamples


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between the two ends of its confidence interval, such as `487.1 [460.2, 500.0]`."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL  # two-sided coverage

    def __str__(self) -> str:
        return f"{self:.{shown_digits(self.estimate, self.low, self.high)}f}"

    def __format__(self, spec: str) -> str:
        """The three numbers in this format, such as `.3f`; without one as `str`."""
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]" if spec else str(self)


def shown_digits(*values: float) -> int:
    """Decimals that people care for in numbers of this size: 500.0 of CartPole, 0.964 of MiniGrid."""
    largest = max(map(abs, values))
    return 1 if largest >= 100 else 2 if largest >= 10 else 3


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
    _refuse_nan(pooled)
    cut = n // 4
    middle = np.sort(pooled, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return float(middle) if axis is None else middle


def optimality_gap(scores: Any, gamma: float = 1.0, axis: int | tuple[int, ...] | None = None) -> Any:
    """How far the scores fall short of `gamma` on average; scores above it do not make up for others below it."""
    return gamma - np.minimum(scores, gamma).mean(axis=axis)


def stratified_bootstrap(
    scores: Any, statistic: Statistic = iqm, reps: int = REPS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """A percentile interval for a statistic of `scores [runs, tasks]`: other training seeds on the same tasks.

    Each resample draws as many runs as there are, with replacement, for every task on its own.

    Args:
        scores: `[runs, tasks]`, or `[runs]` for one task.
        statistic: called as `statistic(resamples [reps, runs, tasks], axis=(1, 2))`, and once on the scores.
        level: two-sided coverage, between 0 and 1.

    Raises:
        UsageError: fewer than two runs (one run shows nothing about others), or a level outside (0, 1).
        RlabError: a score is NaN.
    """
    table = _table(scores)
    runs, tasks = table.shape
    if runs < 2:
        raise UsageError("an interval over runs needs two runs or more: train more seeds, for example --seeds 10")
    rng = np.random.default_rng(seed)
    values = []
    for block in _blocks(reps, table.size):
        rows = rng.integers(runs, size=(block, runs, tasks))
        values.append(statistic(table[rows, np.arange(tasks)], axis=(1, 2)))  # [block]
    return _percentiles(statistic(table, axis=(0, 1)), values, level)


def interval_over_members(values: np.ndarray) -> tuple[float, float, float]:
    """IQM and its 95 % interval over members' mean returns `[S]`; one member has no interval (NaN)."""
    if values.size < 2:
        return float(values[0]), np.nan, np.nan
    interval = stratified_bootstrap(values, reps=2_000)  # a curve is read by eye; reports use the full number
    return interval.estimate, interval.low, interval.high


def mean_interval(values: Any, reps: int = REPS, level: float = LEVEL, seed: int = 0) -> Interval:
    """The mean of independent values `[n]`, with its percentile bootstrap interval.

    For the episodes of one training seed it covers how well that policy does on other episodes, not what another
    training seed would have given.

    Raises:
        UsageError: fewer than two values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise UsageError(f"the interval of a mean needs two values or more in one row, not shape {values.shape}")
    return stratified_bootstrap(values, np.mean, reps, level, seed)


def paired_difference(a: Any, b: Any, reps: int = REPS, level: float = LEVEL, seed: int = 0) -> Interval:
    """`mean(a) - mean(b)` on shared episodes: how much better `a` is than `b`.

    `a` and `b` are `[runs, episodes]`. Column k of both is the episode that was started from the same seed, row i of
    both the same member (such as before and after compression) or training seed. One resample draws rows and,
    independently, columns, with replacement, and takes the **same** rows and columns from `a` and from `b`: what an
    easy episode or a lucky member gives to both cancels, as a difference of two separate intervals never would.
    An axis of length one is not resampled: with one run the interval covers other episodes only. With more it
    covers other runs and other episodes at once, and is conservative: it overstates the variance rather
    than understating it (Owen 2007, "The pigeonhole bootstrap").

    Raises:
        UsageError: the shapes differ, or there is but one pair.
        RlabError: a score is NaN.
    """
    a, b = _paired(a, b)
    gap = a - b
    return _percentiles(gap.mean(), [_resampled_means((gap,), reps, seed)[0]], level)


def paired_ratio(a: Any, b: Any, reps: int = REPS, level: float = LEVEL, seed: int = 0) -> Interval:
    """`mean(a) / mean(b)` on shared episodes, such as the share of its return that a compressed policy keeps.

    Resampled as in `paired_difference`. It is the ratio of the means, not the mean of ratios, which one episode of
    return 0 would ruin. Where returns are negative a ratio above 1 is the **worse** one.

    Raises:
        UsageError: as `paired_difference`; also where the mean of `b` is 0 or changes its sign among the resamples,
            for a ratio means nothing there.
    """
    a, b = _paired(a, b)
    above, below = _resampled_means((a, b), reps, seed)
    if not ((below > 0).all() or (below < 0).all()) or b.mean() == 0:
        raise UsageError("a ratio means nothing when the mean it divides by may be 0; use the paired difference")
    return _percentiles(a.mean() / b.mean(), [above / below], level)


def probability_of_improvement(x: Any, y: Any, reps: int = REPS, level: float = LEVEL, seed: int = 0) -> Interval:
    """How likely a run of `x` beats a run of `y` on a task drawn at random; a tie counts one half.

    The Mann-Whitney U statistic over the number of pairs, averaged over tasks. The interval resamples the runs of
    `x` and of `y` independently, inside each task. Above 0.5 throughout: `x` is better.

    Args:
        x: `[runs_x, tasks]`, or 1-D for one task.
        y: `[runs_y, tasks]`; the number of runs may differ.

    Raises:
        UsageError: fewer than two runs in either, or different numbers of tasks.
        RlabError: a score is NaN.
    """
    x, y = _table(x), _table(y)
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"both sides need the same tasks, not {x.shape[1]} and {y.shape[1]}")
    if min(len(x), len(y)) < 2:
        raise UsageError(f"an interval over runs needs two runs or more on both sides, not {len(x)} and {len(y)}")
    each_x, each_y = x.T[:, :, None], y.T[:, None, :]
    wins = (each_x > each_y) + 0.5 * (each_x == each_y)  # [tasks, runs_x, runs_y]
    tasks, runs_x, runs_y = wins.shape
    rng_x, rng_y = np.random.default_rng(seed).spawn(2)
    values = []
    for block in _blocks(reps, x.size + y.size):
        drawn_x = _counts(rng_x, (tasks, block), runs_x)
        drawn_y = _counts(rng_y, (tasks, block), runs_y)
        won = ((drawn_x @ wins) * drawn_y).sum(axis=-1)  # [tasks, block]
        values.append(won.mean(axis=0) / (runs_x * runs_y))
    return _percentiles(wins.mean(), values, level)


def performance_profile(
    scores: Any, thresholds: Sequence[float], reps: int = 2000, level: float = LEVEL, seed: int = 0
) -> list[Interval]:
    """For each threshold the share of runs, over all tasks, that score **above** it, with a pointwise interval."""
    table = _table(scores)
    return [stratified_bootstrap(table > threshold, np.mean, reps, level, seed) for threshold in thresholds]


def success_rate_interval(successes: int, n: int, level: float = LEVEL) -> Interval:
    """The exact interval of Clopper and Pearson (1934) for a success rate, two-sided.

    At 95 %, 3 of 3 leave 0.292 as the lowest rate that cannot be ruled out, 20 of 20 leave 0.832. The one-sided
    statement "at least p, with 95 % confidence" is the lower end at `level=0.90`: 0.368 and 0.861.

    Raises:
        UsageError: not `0 <= successes <= n`, `n` below 1, or a level outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"a success rate needs 0 <= successes <= n and n >= 1, not {successes} of {n}")
    tail = (1 - _checked_level(level)) / 2
    low = 0.0 if successes == 0 else _rate_with_tail(successes, n, tail)
    # Seen from the failures: n - successes or more of them become too unlikely at the same tail.
    high = 1.0 if successes == n else 1.0 - _rate_with_tail(n - successes, n, tail)
    return Interval(successes / n, low, high, level)


def _rate_with_tail(k: int, n: int, tail: float) -> float:
    """The rate p at which k or more successes of n have probability `tail`; that probability grows with p."""
    counts = np.arange(k, n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial[counts] - log_factorial[n - counts]
    low, high = 0.0, 1.0
    while low < (p := (low + high) / 2) < high:  # until no number lies between the two
        probability = np.exp(log_choose + counts * np.log(p) + (n - counts) * np.log1p(-p)).sum()
        low, high = (p, high) if probability < tail else (low, p)
    return p


def _resampled_means(tables: Sequence[np.ndarray], reps: int, seed: int) -> list[np.ndarray]:
    """The means `[reps]` of each table `[runs, episodes]` over resampled rows and columns, the same for all tables."""
    runs, episodes = tables[0].shape
    rng_runs, rng_episodes = np.random.default_rng(seed).spawn(2)
    means: list[list[np.ndarray]] = [[] for _ in tables]
    for block in _blocks(reps, runs + episodes):
        # The mean over the drawn rows and columns is a product with how often each of them was drawn.
        rows = _counts(rng_runs, (block,), runs)
        columns = _counts(rng_episodes, (block,), episodes)
        for table, found in zip(tables, means, strict=True):
            found.append(((rows @ table) * columns).sum(axis=-1) / table.size)
    return [np.concatenate(found) for found in means]


def _counts(rng: np.random.Generator, shape: tuple[int, ...], n: int) -> np.ndarray:
    """How often each of n things is drawn when n are drawn with replacement: `[*shape, n]`, summing to n."""
    draws = rng.integers(n, size=(*shape, n)).reshape(-1, n)
    own_bins = draws + n * np.arange(len(draws))[:, None]
    return np.bincount(own_bins.ravel(), minlength=draws.size).reshape(*shape, n).astype(np.float64)


def _blocks(reps: int, elements: int) -> Iterator[int]:
    """Block sizes that add up to `reps`, each small enough that its arrays stay within the limit."""
    if reps < 1:
        raise UsageError(f"a bootstrap needs one resample or more, not {reps}")
    largest = max(1, _BLOCK_ELEMENTS // elements)
    for start in range(0, reps, largest):
        yield min(largest, reps - start)


def _percentiles(estimate: Any, values: Sequence[np.ndarray], level: float) -> Interval:
    outside = (1 - _checked_level(level)) / 2
    low, high = np.quantile(np.concatenate(values), [outside, 1 - outside])
    return Interval(float(estimate), float(low), float(high), level)


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval lies between 0 and 1, such as 0.95, not {level}")
    return level


def _table(scores: Any) -> np.ndarray:
    """Scores as `[runs, tasks]` float64."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or table.size == 0:
        raise UsageError(f"scores must be [runs, tasks] or [runs], and not empty; their shape is {table.shape}")
    _refuse_nan(table)
    return table


def _paired(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise UsageError(f"paired returns must both be [runs, episodes] of one shape, not {a.shape} and {b.shape}")
    if a.size < 2:
        raise UsageError("a paired interval needs two episodes or two runs at least")
    _refuse_nan(a)
    _refuse_nan(b)
    return a, b


def _refuse_nan(scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        raise RlabError("a score is NaN: that run failed, and no statistic of it would be true")
