"""Two groups of runs compared: by how much they differ, how sure that is, and how many runs would settle it.

Scores are `[runs, tasks]`, or `[runs]`, as in `rlab.evaluation.stats`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.evaluation.quantiles import student_t
from rlab.evaluation.stats import (
    LEVEL,
    REPS,
    Interval,
    Statistic,
    Widening,
    as_table,
    between,
    blocks,
    checked_level,
    iqm,
    refuse_nan,
    resampled,
    widening_of,
)


def unpaired_difference(
    x: Any, y: Any, statistic: Statistic = iqm, reps: int = REPS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """`statistic(x) - statistic(y)` of two groups of runs, each resampled by itself: other training seeds of both.

    An interval that holds 0 says that these runs show no difference. Scores of both on the same episodes are not
    paired run by run, since run i of one has nothing to do with run i of the other; `paired_difference` is for the same
    policies before and after a change.

    Args:
        x: `[runs_x, tasks]`, or 1-D for one task.
        y: `[runs_y, tasks]`; the number of runs may differ.

    Raises:
        UsageError: fewer than two runs in either, or different numbers of tasks.
        RlabError: a score is NaN.
    """
    x, y = _two_groups(x, y)
    values, widening = _of_both(x, y, statistic, reps, seed)
    return between(statistic(x, axis=(0, 1)) - statistic(y, axis=(0, 1)), values, level, widening)


def seeds_to_settle(
    x: Any,
    y: Any,
    statistic: Statistic = iqm,
    power: float = 0.8,
    level: float = LEVEL,
    paired: bool = False,
    reps: int = 10_000,
    seed: int = 0,
) -> int | None:
    """How many runs a group would tell two groups apart, if they differ as much as they seem to; None: they do not.

    A difference `d` whose estimate has the standard error `s / sqrt(n)` leaves 0 out of its interval with probability
    `power` where `d >= (t + z) s / sqrt(n)`, with Student's t at `level` and the normal's z at `power` (Colas, Sigaud
    and Oudeyer 2018, "How Many Random Seeds?"). Here s comes from the bootstrap of the difference. What was measured is
    itself uncertain: this tells 10 from 100, not 10 from 12.

    Args:
        x: `[runs_x, tasks]`, or 1-D for one task; y: `[runs_y, tasks]`.
        statistic: whose difference is meant, see `stratified_bootstrap`.
        paired: run i of both is one seed, and it is the statistic of their differences that counts.

    Raises:
        UsageError: as `unpaired_difference`; a power outside (0, 1); pairs of different numbers.
    """
    if not 0 < power < 1:
        raise UsageError(f"a power lies between 0 and 1, such as 0.8, not {power}")
    checked_level(level)
    x, y = _two_groups(x, y)
    if paired and x.shape != y.shape:
        raise UsageError(f"pairs need the same runs on both sides, not {len(x)} and {len(y)}")
    if paired:
        x, y = x - y, np.zeros_like(y)
    difference = abs(float(statistic(x, axis=(0, 1)) - statistic(y, axis=(0, 1))))
    if difference == 0:
        return None
    values, widening = _of_both(x, y, statistic, reps, seed)
    runs, z = min(len(x), len(y)), NormalDist().inv_cdf(power)
    spread = float(values.std()) * math.sqrt(widening.variance * runs)

    def shown_by(number: int) -> float:
        freedom = widening.freedom * (number - 1) / (runs - 1)
        return (student_t(level, max(1.0, freedom)) + z) * spread / math.sqrt(number)

    few, many = 1, 2  # the least number that shows the difference lies above one and is at most the other
    while shown_by(many) > difference:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if shown_by(middle) > difference else (few, middle)
    return many


@dataclass(frozen=True)
class Spread:
    """How sure a difference is: its standard error, by source."""

    of_seeds: float  # variance of the difference that comes from the training seeds, 0 where they are not sampled
    of_episodes: float  # and from the episodes
    freedom: float  # degrees of freedom of the sum

    @property
    def error(self) -> float:
        """The standard error of the difference."""
        return math.sqrt(self.of_seeds + self.of_episodes)


def paired_difference(a: Any, b: Any, level: float = LEVEL) -> Interval:
    """`mean(a) - mean(b)` on shared episodes: how much better `a` is than `b`.

    `a` and `b` are `[runs, episodes]`. Column k of both is the episode that was started from the same seed, row i of
    both the same member (such as before and after compression) or training seed: what an easy episode or a lucky member
    gives to both cancels, as a difference of two separate intervals never would. The interval is Student's, for other
    runs and other episodes, see `difference_spread`; with one run for other episodes only.

    Raises:
        UsageError: the shapes differ, or there is but one pair.
        RlabError: a score is NaN.
    """
    a, b = _paired(a, b)
    gap, half = float(a.mean() - b.mean()), _half_width(a, b, level)
    return Interval(gap, gap - half, gap + half, level)


def paired_ratio(a: Any, b: Any, level: float = LEVEL) -> Interval:
    """`mean(a) / mean(b)` on shared episodes, such as the share of its return that a compressed policy keeps.

    It is the ratio of the means, not the mean of ratios, which one episode of return 0 would ruin. Its interval is that
    of the difference between `a` and so many times `b`, over the mean of `b` (the delta method). Where returns are
    negative a ratio above 1 is the **worse** one.

    Raises:
        UsageError: as `paired_difference`; also where the mean of `b` may be 0, for a ratio means nothing there: where
            `b` has both signs, or zeros, and the interval of its mean holds 0.
    """
    a, b = _paired(a, b)
    mean = float(b.mean())
    one_sign = bool((b > 0).all() or (b < 0).all())
    if not one_sign and abs(mean) <= _half_width(b, np.zeros_like(b), level):
        raise UsageError("a ratio means nothing when the mean it divides by may be 0; use the paired difference")
    ratio = float(a.mean()) / mean
    half = _half_width(a, ratio * b, level) / abs(mean)
    return Interval(ratio, ratio - half, ratio + half, level)


def difference_spread(a: np.ndarray, b: np.ndarray, same_members: bool = False) -> Spread | None:
    """The chance in `mean(a) - mean(b)` of returns `[S_a, E]` and `[S_b, E]` on the same E episodes; None where nothing
    shows it: of one episode, unless both have several members.

    With one member on a side the training seeds are taken as they are, and the episodes alone vary. Otherwise the
    variance of the members' means counts once for the seeds; of the variance of the episodes' means what the
    residual of the crossed design explains is taken off, since the members' means contain it already.
    """
    if same_members:
        rows, columns = [a - b], (a - b).mean(axis=0)
    else:
        rows, columns = [a, b], a.mean(axis=0) - b.mean(axis=0)
    episodes = len(columns)
    of_seeds = [float(each.mean(axis=1).var(ddof=1)) / len(each) for each in rows if len(each) > 1]
    if len(of_seeds) < len(rows):
        of_seeds = []
    if not of_seeds and episodes < 2:
        return None
    of_episodes = 0.0
    if episodes > 1:
        of_episodes = float(columns.var(ddof=1)) / episodes
        if of_seeds:
            of_episodes = max(0.0, of_episodes - sum(_residual(each) / each.size for each in rows))
    parts = [(value, len(each) - 1) for value, each in zip(of_seeds, rows, strict=bool(of_seeds))]
    parts.append((of_episodes, episodes - 1))
    total = sum(value for value, _ in parts)
    freedom = float(sum(count for _, count in parts))
    if total > 0:
        freedom = total**2 / sum(value**2 / count for value, count in parts if count)
    return Spread(sum(of_seeds), of_episodes, freedom)


def probability_of_improvement(x: Any, y: Any, level: float = LEVEL) -> Interval:
    """How likely a run of `x` beats a run of `y` on a task drawn at random; a tie counts one half.

    The Mann-Whitney U statistic over the number of pairs, averaged over tasks. Above 0.5 throughout: `x` is better. The
    interval is Newcombe's (2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic",
    method 5) with Student's t: the probabilities under which what was counted is not too far off. A bootstrap is sure
    of itself where all runs of `x` beat all of `y`, [1, 1] even of three runs each.

    Args:
        x: `[runs_x, tasks]`, or 1-D for one task.
        y: `[runs_y, tasks]`; the number of runs may differ.

    Raises:
        UsageError: fewer than two runs in either, or different numbers of tasks.
        RlabError: a score is NaN.
    """
    wins = _wins(*_two_groups(x, y))
    tasks, runs_x, runs_y = wins.shape
    counted = float(wins.mean())
    t = student_t(checked_level(level), tasks * (runs_x + runs_y - 2))

    def last_within(end: float) -> float:
        """The probability closest to `end` under which what was counted is within `t` standard errors."""
        near, far = counted, end
        while min(near, far) < (p := (near + far) / 2) < max(near, far):  # until no number lies between the two
            # Hanley and McNeil's (1982) variance of the statistic, largest where all tasks have the same probability.
            balance = (1 - p) / (2 - p) + p / (1 + p)
            variance = p * (1 - p) * (1 + ((runs_x + runs_y) / 2 - 1) * balance) / (runs_x * runs_y * tasks)
            near, far = (p, far) if (counted - p) ** 2 <= t**2 * variance else (near, p)
        return near

    return Interval(counted, last_within(0.0), last_within(1.0), level)


def probability_of_improvement_as_rliable(
    x: Any, y: Any, reps: int = REPS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """`probability_of_improvement` with rliable's interval: runs of `x` and of `y` are resampled inside each task."""
    wins = _wins(*_two_groups(x, y))
    tasks, runs_x, runs_y = wins.shape
    rng_x, rng_y = np.random.default_rng(seed).spawn(2)
    values = []
    for block in blocks(reps, tasks * (runs_x + runs_y)):
        drawn_x = _counts(rng_x, (block, tasks), runs_x).swapaxes(0, 1)  # [tasks, block, runs_x]
        drawn_y = _counts(rng_y, (block, tasks), runs_y).swapaxes(0, 1)
        won = ((drawn_x @ wins) * drawn_y).sum(axis=-1)  # [tasks, block]
        values.append(won.mean(axis=0) / (runs_x * runs_y))
    return between(wins.mean(), np.concatenate(values), level, None)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Who beats whom, `[tasks, runs_x, runs_y]`: 1, or 1/2 for a tie."""
    each_x, each_y = x.T[:, :, None], y.T[:, None, :]
    return (each_x > each_y) + 0.5 * (each_x == each_y)


def _two_groups(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_table(x), as_table(y)
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"both sides need the same tasks, not {x.shape[1]} and {y.shape[1]}")
    if min(len(x), len(y)) < 2:
        raise UsageError(f"an interval over runs needs two runs or more on both sides, not {len(x)} and {len(y)}")
    return x, y


def _paired(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise UsageError(f"paired returns must both be [runs, episodes] of one shape, not {a.shape} and {b.shape}")
    if a.size < 2:
        raise UsageError("a paired interval needs two episodes or two runs at least")
    refuse_nan(a)
    refuse_nan(b)
    return a, b


def _of_both(x: np.ndarray, y: np.ndarray, statistic: Statistic, reps: int, seed: int) -> tuple[np.ndarray, Widening]:
    """Resampled differences `[reps]` of a statistic of two groups, and what they lack."""
    rng_x, rng_y = np.random.default_rng(seed).spawn(2)
    of_x, of_y = resampled(x, statistic, reps, rng_x), resampled(y, statistic, reps, rng_y)
    return of_x - of_y, _pooled([(of_x.var(), widening_of(x, statistic)), (of_y.var(), widening_of(y, statistic))])


def _pooled(parts: Sequence[tuple[float, Widening]]) -> Widening:
    """The widening of a sum of independent parts, each with its variance among resamples (Welch 1947)."""
    variances = [variance * widening.variance for variance, widening in parts]
    if (total := sum(variances)) == 0:
        return Widening(min(widening.freedom for _, widening in parts), 1.0)
    freedom = total**2 / sum(v**2 / widening.freedom for v, (_, widening) in zip(variances, parts, strict=True))
    return Widening(freedom, total / sum(variance for variance, _ in parts))


def _half_width(a: np.ndarray, b: np.ndarray, level: float) -> float:
    """Of the interval of the paired difference of two `[runs, episodes]`."""
    spread = difference_spread(a, b, same_members=True)
    assert spread is not None  # there are two rows or two columns
    return student_t(checked_level(level), spread.freedom) * spread.error


def _residual(returns: np.ndarray) -> float:
    """What neither the member nor the episode explains of returns `[S, E]`: its variance."""
    members, episodes = returns.shape
    centred = returns - returns.mean(axis=1, keepdims=True) - returns.mean(axis=0) + returns.mean()
    return float((centred**2).sum()) / ((members - 1) * (episodes - 1))


def _counts(rng: np.random.Generator, shape: tuple[int, ...], n: int) -> np.ndarray:
    """How often each of n things is drawn when n are drawn with replacement: `[*shape, n]`, summing to n."""
    draws = rng.integers(n, size=(*shape, n)).reshape(-1, n)
    own_bins = draws + n * np.arange(len(draws))[:, None]
    return np.bincount(own_bins.ravel(), minlength=draws.size).reshape(*shape, n).astype(np.float64)
