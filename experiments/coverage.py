"""How often intervals over training seeds hold the true value: simulated studies of a few runs, whose truth is known.

Each distribution of returns is given by its quantile function, so that its true IQM is an integral. Five methods are
measured for single groups: rlab's, and four that were weighed against it. Then two groups of one distribution are
compared, which should come out as "no difference" in 95 of 100 studies.

    python -m rlab.experiments.coverage
"""

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from rlab.evaluation.differences import paired_difference, probability_of_improvement, unpaired_difference
from rlab.evaluation.quantiles import normal_tail, student_t
from rlab.evaluation.stats import LEVEL, Interval, between, iqm, resampled, widening_of
from rlab.experiments.studies import goal, record, say

STUDIES = 4_000  # of rlab's intervals and rliable's; a thousand would leave the shares a standard error of 0.7 %
FEWER = 1_000  # of all else
RESAMPLES = 2_000
RUNS = (10, 20)
LEAST, MOST = 0.93, 0.97  # of a 95 % interval that is honest
GRID = 200_000  # points of a quantile function

Quantile = Callable[[np.ndarray], np.ndarray]  # of probabilities in (0, 1), never falling
inverse_normal = np.vectorize(NormalDist().inv_cdf, otypes=[float])


def two_modes(lower: float) -> Quantile:
    """Runs that fail around 0, a share `lower` of all, and runs that succeed around 1, both with deviation 0.1."""

    def quantile(p: np.ndarray) -> np.ndarray:
        low = p < lower
        within = np.where(low, p / lower, (p - lower) / (1 - lower))
        return np.where(low, 0.0, 1.0) + 0.1 * inverse_normal(np.clip(within, 1e-12, 1 - 1e-12))

    return quantile


# Returns of runs, by kind. The last two have an IQM at the bound itself or beside a great mass there.
DISTRIBUTIONS: Mapping[str, Quantile] = {
    "symmetric: normal": inverse_normal,
    "bounded: uniform": lambda p: p,
    "bounded: most near the top": lambda p: (1 - (1 - p) ** 0.5) ** 0.25,  # Kumaraswamy (1980), a = 4, b = 2
    "bounded: at both ends": lambda p: np.sin(np.pi * p / 2) ** 2,  # the arcsine distribution
    "bounded: half of the runs at the bound": lambda p: np.minimum(inverse_normal(p), 0.0),
    "skewed: exponential": lambda p: -np.log1p(-p),
    "skewed: lognormal": lambda p: np.exp(inverse_normal(p)),
    "skewed: a long way down": np.log,
    "bimodal: 1 of 10 runs fails": two_modes(0.1),
    "bimodal: 3 of 10 runs fail": two_modes(0.3),
    "bimodal: half of the runs fail": two_modes(0.5),
    "3 of 10 runs anywhere below the bound, the rest at it": lambda p: np.minimum(p / 0.3, 1.0),
    "2 of 10 runs anywhere below the bound, the rest at it": lambda p: np.minimum(p / 0.2, 1.0),
}


def true_iqm(quantile: Quantile) -> float:
    """The mean of the middle half of the distribution."""
    return float(quantile((np.arange(GRID) + 0.5) / GRID)[GRID // 4 : GRID - GRID // 4].mean())


def trimmed_t(runs: np.ndarray) -> Interval:
    """Student's t of the trimmed mean, by its winsorised variance (Tukey and McLaughlin 1963)."""
    n, cut = len(runs), len(runs) // 4
    ordered = np.sort(runs)
    winsorised = np.clip(ordered, ordered[cut], ordered[n - cut - 1])
    error = winsorised.std(ddof=1) / ((1 - 2 * cut / n) * n**0.5)
    half = student_t(LEVEL, n - 2 * cut - 1) * error
    return Interval(iqm(runs), iqm(runs) - half, iqm(runs) + half)


def bca(runs: np.ndarray, values: np.ndarray) -> Interval:
    """Efron's (1987) bias-corrected and accelerated percentiles."""
    estimate, normal = iqm(runs), NormalDist()
    share = ((values < estimate).mean() + (values <= estimate).mean()) / 2
    without = np.array([iqm(np.delete(runs, each)) for each in range(len(runs))])
    off = without.mean() - without
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5) if off.any() else 0.0
    bias = normal.inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
    shifted = [bias + z for z in (normal.inv_cdf((1 - LEVEL) / 2), normal.inv_cdf((1 + LEVEL) / 2))]
    low, high = np.quantile(values, [1 - normal_tail(bias + z / (1 - acceleration * z)) for z in shifted])
    return Interval(estimate, float(low), float(high))


def studentised(runs: np.ndarray, rng: np.random.Generator) -> Interval:
    """The bootstrap of the trimmed mean over its winsorised error (bootstrap-t)."""
    n, cut = len(runs), len(runs) // 4

    def errors(ordered: np.ndarray) -> np.ndarray:
        winsorised = np.clip(ordered, ordered[..., [cut]], ordered[..., [n - cut - 1]])
        return np.asarray(winsorised.std(axis=-1, ddof=1) / ((1 - 2 * cut / n) * n**0.5))

    drawn = np.sort(runs[rng.integers(n, size=(RESAMPLES, n))], axis=-1)
    off, error, estimate = iqm(drawn, axis=-1) - iqm(runs), errors(drawn), iqm(runs)
    far = np.where(off == 0, 0.0, np.sign(off) * 1e9)  # where a resample shows no spread
    t = np.divide(off, error, out=far, where=error > 0)
    low, high = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    own = float(errors(np.sort(runs)))
    return Interval(estimate, estimate - high * own, estimate - low * own)


def held(interval: Interval, truth: float) -> bool:
    """Whether the interval holds it; sums round in the last digits."""
    return bool(interval.low - 1e-9 <= truth <= interval.high + 1e-9)


def of_one_group(name: str, runs: int, studies: int = STUDIES, tasks: int = 1) -> dict[str, float]:
    """How often each method's interval holds the true IQM, in studies of so many runs on so many tasks."""
    quantile, rng = DISTRIBUTIONS[name], np.random.default_rng([runs, *name.encode()])
    truth = true_iqm(quantile)
    hits: dict[str, list[bool]] = {}
    for study in range(studies):
        table = quantile(rng.random((runs, tasks)))
        values = resampled(table, iqm, RESAMPLES, np.random.default_rng(study))
        found = {
            "rlab": between(iqm(table), values, LEVEL, widening_of(table, iqm)),
            "percentile (rliable)": between(iqm(table), values, LEVEL, None),
        }
        if tasks == 1 and study < FEWER:
            single = table[:, 0]
            found["BCa"] = bca(single, values)
            found["studentised"] = studentised(single, np.random.default_rng(study))
            found["t of the trimmed mean"] = trimmed_t(single)
        for method, interval in found.items():
            hits.setdefault(method, []).append(held(interval, truth))
    return {method: sum(each) / len(each) for method, each in hits.items()}


def of_two_groups(name: str, runs: int, studies: int = FEWER, episodes: int = 20) -> dict[str, float]:
    """How often two groups of one distribution come out as not different.

    Pairs are runs of `episodes` episodes, each with an ease that both sides share.
    """
    quantile, rng = DISTRIBUTIONS[name], np.random.default_rng([runs, *name.encode()])
    hits = {"unpaired_difference": 0, "probability_of_improvement": 0, "paired_difference": 0}
    for study in range(studies):
        x, y = quantile(rng.random((2, runs)))
        hits["unpaired_difference"] += held(unpaired_difference(x, y, reps=RESAMPLES, seed=study), 0.0)
        hits["probability_of_improvement"] += held(probability_of_improvement(x, y), 0.5)
        a, b = quantile(rng.random((2, runs, 1))) + 0.1 * rng.normal(size=(2, runs, episodes))
        ease = rng.normal(size=(1, episodes))
        hits["paired_difference"] += held(paired_difference(a + ease, b + ease), 0.0)
    return {method: count / studies for method, count in hits.items()}


def main() -> None:
    """Measure, say, record."""
    one: dict[str, Any] = {}
    two: dict[str, Any] = {}
    for runs in RUNS:
        for name in DISTRIBUTIONS:
            one.setdefault(f"{runs} runs", {})[name] = single = of_one_group(name, runs)
            two.setdefault(f"{runs} runs", {})[name] = pairs = of_two_groups(name, runs)
            say(f"{runs} runs, {name}: {single} {pairs}")
    tasks = {
        f"{runs} runs": {name: of_one_group(name, runs, FEWER, tasks=5) for name in DISTRIBUTIONS} for runs in (5, 10)
    }
    usual = [name for name in DISTRIBUTIONS if ":" in name]
    found = [one[f"{runs} runs"][name]["rlab"] for runs in RUNS for name in usual]
    same = [min(two[f"{runs} runs"][name].values()) for runs in RUNS for name in DISTRIBUTIONS]
    goals = [
        goal("least coverage of bounded, skewed and bimodal returns, 10 and 20 runs", min(found), at_least=LEAST),
        goal("greatest coverage of them", max(found), at_most=MOST),
        goal('least share of comparisons of equals that say "no difference"', min(same), at_least=LEAST),
    ]
    record("coverage", {"goals": goals, "one group": one, "one group on 5 tasks": tasks, "two equal groups": two})


if __name__ == "__main__":
    main()
