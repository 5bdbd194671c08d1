"""The statistics beside rliable itself, where it is installed (extra `bench`)."""

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rliable", reason="rliable is not installed")

from rlab.evaluation.differences import probability_of_improvement, probability_of_improvement_as_rliable
from rlab.evaluation.stats import iqm, optimality_gap, performance_profile, stratified_bootstrap
from rlab.experiments.benchmarks.bootstrap import rliable

pytestmark = pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")

# Ten runs of five tasks; rounded and beside eight others, with ties within and between the two.
X = np.random.default_rng(0).gamma(4.0, 0.2, size=(10, 5))
X_TIES, Y_TIES = np.round(X, 1), np.round(np.random.default_rng(1).gamma(3.0, 0.2, size=(8, 5)), 1)


@pytest.fixture(scope="module")
def oracle() -> tuple[ModuleType, ModuleType]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the packages that it imports
        return rliable()


def median_of_task_means(scores: Any, axis: Any) -> Any:
    return np.median(scores.mean(axis=axis[0]), axis=-1)


AGGREGATES: dict[str, tuple[str, Callable[..., Any]]] = {
    "iqm": ("aggregate_iqm", iqm),
    "mean": ("aggregate_mean", np.mean),
    "median": ("aggregate_median", median_of_task_means),
    "optimality gap": ("aggregate_optimality_gap", lambda scores, axis: optimality_gap(scores, axis=axis)),
}


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("resamples", [2_000, pytest.param(50_000, marks=pytest.mark.prove)])
def test_points_are_rliable_s_to_the_last_digits_and_ends_to_a_percent(
    name: str, resamples: int, oracle: tuple[ModuleType, ModuleType]
) -> None:
    library, metrics = oracle
    theirs, ours = AGGREGATES[name]
    points, ends = library.get_interval_estimates(
        {"x": X},
        lambda table: np.array([getattr(metrics, theirs)(table)]),
        reps=resamples,
        random_state=np.random.RandomState(0),
    )
    interval = stratified_bootstrap(X, ours, reps=resamples, as_rliable=True)
    assert interval.estimate == pytest.approx(float(points["x"][0]), abs=1e-12)
    # A percentile of n resamples has the error sqrt(0.025 0.975 / n) / 0.058 deviations; four of those of both.
    deviation = (interval.high - interval.low) / (2 * 1.96)
    error = 4 * 2**0.5 * (0.025 * 0.975 / resamples) ** 0.5 / 0.058 * deviation
    low, high = (float(end[0]) for end in ends["x"])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=error)
    if resamples == 50_000:
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=0.01)


def test_the_probability_of_improvement_is_rliable_s(oracle: tuple[ModuleType, ModuleType]) -> None:
    library, metrics = oracle
    points, ends = library.get_interval_estimates(
        {"xy": (X_TIES, Y_TIES)},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=200,
        random_state=np.random.RandomState(0),
    )
    interval = probability_of_improvement_as_rliable(X_TIES, Y_TIES)
    assert interval.estimate == pytest.approx(float(points["xy"][0]), abs=1e-12)
    assert probability_of_improvement(X_TIES, Y_TIES).estimate == interval.estimate
    deviation = (interval.high - interval.low) / (2 * 1.96)
    error = 4 * (0.025 * 0.975 / 200) ** 0.5 / 0.058 * deviation
    assert (interval.low, interval.high) == pytest.approx([float(end[0]) for end in ends["xy"]], abs=error)


def test_profiles_are_rliable_s(oracle: tuple[ModuleType, ModuleType]) -> None:
    library, _ = oracle
    thresholds = np.array([0.0, 0.4, 0.8, 1.2])
    points, _ = library.create_performance_profile({"x": X_TIES}, thresholds, reps=50)
    ours = [each.estimate for each in performance_profile(X_TIES, thresholds, reps=50, as_rliable=True)]
    assert ours == pytest.approx(points["x"].tolist(), abs=1e-12)
