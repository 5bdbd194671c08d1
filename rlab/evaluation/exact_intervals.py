"""Intervals that hold for any distribution of returns: of a success rate, of a median, and around most runs."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.evaluation.quantiles import binomial_tail
from rlab.evaluation.stats import LEVEL, Interval, checked_level, refuse_nan, shown_digits


def success_rate_interval(successes: int, n: int, level: float = LEVEL) -> Interval:
    """The exact interval of Clopper and Pearson (1934) for a success rate, two-sided.

    At 95 %, 3 of 3 leave 0.292 as the lowest rate that cannot be ruled out, 20 of 20 leave 0.832. The one-sided
    statement "at least p, with 95 % confidence" is the lower end at `level=0.90`: 0.368 and 0.861.

    Raises:
        UsageError: not `0 <= successes <= n`, `n` below 1, or a level outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"a success rate needs 0 <= successes <= n and n >= 1, not {successes} of {n}")
    tail = (1 - checked_level(level)) / 2
    low = 0.0 if successes == 0 else _rate_with_tail(successes, n, tail)
    # Seen from the failures: n - successes or more of them become too unlikely at the same tail.
    high = 1.0 if successes == n else 1.0 - _rate_with_tail(n - successes, n, tail)
    return Interval(successes / n, low, high, level)


def median_interval(values: Any, level: float = LEVEL) -> Interval:
    """The median of values `[n]` and its exact interval, whose ends are two of the values (Thompson 1936).

    Between the k-th value from below and the k-th from above lies the median unless fewer than k values are on one side
    of it. Of five values or fewer not even the outermost hold it in 95 % of cases: the ends are infinite then. Values
    may be infinite: later than was waited for.

    Raises:
        UsageError: no values, or a level outside (0, 1).
        RlabError: a value is NaN.
    """
    values = _sorted(values)
    n, tail = len(values), (1 - checked_level(level)) / 2
    k = sum(1 - binomial_tail(below + 1, n, 0.5) <= tail for below in range(n // 2))  # P(at most `below` on one side)
    low, high = (values[k - 1], values[n - k]) if k else (-np.inf, np.inf)
    return Interval(_median(values), float(low), float(high), level)


@dataclass(frozen=True, slots=True)
class ToleranceInterval:
    """The range that holds at least a share of all runs that there could be, not only of those that were made."""

    low: float
    high: float
    share: float  # of the runs that it holds at least, with confidence `level`
    asked_share: float  # above `share` where there are too few runs; the range is from the lowest to the highest then
    level: float
    runs: int
    runs_needed: int  # from which on the range from the lowest to the highest holds the share that was asked for

    @property
    def enough_runs(self) -> bool:
        """Whether it holds the share that was asked for."""
        return self.share >= self.asked_share

    def __str__(self) -> str:
        digits = shown_digits(self.low, self.high)
        said = f"[{self.low:.{digits}f}, {self.high:.{digits}f}] holds {100 * self.share:.0f} % of runs or more"
        said += f" ({100 * self.level:.0f} % confidence)"
        if self.enough_runs:
            return said
        return (
            f"{said}: {self.runs} runs are too few for {100 * self.asked_share:.0f} %, which takes {self.runs_needed}"
        )


def tolerance_interval(scores: Any, share: float = 0.9, level: float = LEVEL) -> ToleranceInterval:
    """How one more run would turn out: the range of at least `share` of all runs, with confidence `level`.

    An interval of the IQM narrows with the number of runs; this one does not, for it is about single runs, and is what
    Patterson et al. 2023, "Empirical Design in Reinforcement Learning", ask for beside it. By order statistics (Wilks
    1941): between the k-th lowest and the k-th highest of n runs lies at least `share` of all runs with the probability
    of at most n - 2k successes in n trials that succeed with probability `share`. No distribution is assumed. With too
    few runs even the range of all of them holds less; the result says what it holds, and how many runs it takes.

    Args:
        scores: one score of each run, `[n]`.

    Raises:
        UsageError: fewer than two runs; a share or a level outside (0, 1).
        RlabError: a score is NaN.
    """
    values = _sorted(scores)
    n = len(values)
    if n < 2:
        raise UsageError("a tolerance interval needs two runs or more: train more seeds, for example --seeds 50")
    if not 0 < share < 1:
        raise UsageError(f"the share of runs in a tolerance interval lies between 0 and 1, such as 0.9, not {share}")
    checked_level(level)
    k = sum(_confidence(n, rank, share) >= level for rank in range(1, n // 2 + 1))
    needed = _runs_needed(share, level)
    if k:
        return ToleranceInterval(float(values[k - 1]), float(values[n - k]), share, share, level, n, needed)
    low, high = 0.0, share
    while low < (held := (low + high) / 2) < high:  # until no number lies between the two
        low, high = (held, high) if _confidence(n, 1, held) >= level else (low, held)
    return ToleranceInterval(float(values[0]), float(values[-1]), low, share, level, n, needed)


@lru_cache
def _runs_needed(share: float, level: float) -> int:
    """From how many runs on the range of all of them holds this share with this confidence."""
    runs = 2
    while _confidence(runs, 1, share) < level:
        runs += 1
    return runs


def _confidence(n: int, k: int, share: float) -> float:
    """The probability that at least this share of all runs lies between the k-th lowest and the k-th highest of n."""
    return 1 - binomial_tail(n - 2 * k + 1, n, share)


def _rate_with_tail(k: int, n: int, tail: float) -> float:
    """The rate p at which k or more successes of n have probability `tail`; that probability grows with p."""
    low, high = 0.0, 1.0
    while low < (p := (low + high) / 2) < high:  # until no number lies between the two
        low, high = (p, high) if binomial_tail(k, n, p) < tail else (low, p)
    return p


def _median(values: np.ndarray) -> float:
    """Of sorted values; between two of which one is infinite it is infinite."""
    low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
    return float(low if low == high else (low + high) / 2)


def _sorted(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UsageError(f"one score of each run is needed, in one row, not shape {values.shape}")
    refuse_nan(values)
    return np.sort(values)
