"""The statistics against numbers worked on paper and against rliable's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.evaluation import stats
from rlab.evaluation.differences import (
    paired_difference,
    probability_of_improvement,
    probability_of_improvement_as_rliable,
    unpaired_difference,
)
from rlab.evaluation.quantiles import normal_tail
from rlab.evaluation.stats import (
    COVERAGE,
    LEVEL,
    Interval,
    iqm,
    mean_interval,
    optimality_gap,
    performance_profile,
    stratified_bootstrap,
)

# Two algorithms on three tasks, made up, with ties within and between them. All numbers named "rliable" below were
# printed by rliable 1.2.0 (arch 7.2.0, scipy 1.17.1, numpy 2.4.6) for these two tables.
X = np.array(
    [
        [0.92, 0.31, 1.20],
        [0.88, 0.45, 0.75],
        [1.00, 0.12, 1.05],
        [0.41, 0.38, 0.98],
        [0.95, 0.50, 1.31],
        [0.79, 0.27, 0.66],
        [0.99, 0.38, 1.12],
    ]
)
Y = np.array([[0.80, 0.31, 0.90], [0.92, 0.22, 1.05], [0.35, 0.12, 0.71], [0.76, 0.40, 0.98], [0.66, 0.18, 0.52]])

scores_1d = st.lists(st.integers(-1000, 1000), min_size=1, max_size=30).map(lambda v: np.array(v, dtype=float))


def median_of_task_means(scores, axis):
    return np.median(scores.mean(axis=axis[0]), axis=-1)


# --- equal to rliable ---


def test_point_estimates_equal_rliables():
    assert iqm(X) == pytest.approx(0.7527272727272727, abs=1e-12)
    assert iqm(Y) == pytest.approx(0.6011111111111112, abs=1e-12)
    assert iqm(X[:, 0]) == pytest.approx(0.906, abs=1e-12)
    assert optimality_gap(X) == pytest.approx(0.2980952380952381, abs=1e-12)
    assert optimality_gap(X, gamma=0.5) == pytest.approx(0.05619047619047618, abs=1e-12)
    assert probability_of_improvement(X, Y).estimate == pytest.approx(0.7476190476190476, abs=1e-12)
    assert probability_of_improvement(Y, X).estimate == pytest.approx(0.2523809523809524, abs=1e-12)


@pytest.mark.parametrize(
    ("statistic", "low", "high"),
    [
        (iqm, 0.63545454, 0.85136364),  # 0.8518 and 0.8509 in two runs of rliable
        (np.mean, 0.65380952, 0.80738095),
        (median_of_task_means, 0.69, 0.9564),  # 0.6886 and 0.6914; 0.9557 and 0.9571
        (lambda scores, axis: optimality_gap(scores, axis=axis), 0.23904762, 0.36714286),
    ],
    ids=["iqm", "mean", "median", "optimality gap"],
)
def test_intervals_equal_rliables_within_monte_carlo_error(statistic, low, high):
    interval = stratified_bootstrap(X, statistic, as_rliable=True)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.003)  # rliable against itself: 0.003


def test_interval_of_a_single_task_equals_rliables():
    interval = stratified_bootstrap(X[:, :1], as_rliable=True)
    assert (interval.low, interval.high) == pytest.approx((0.688, 0.974), abs=1e-9)  # few values are possible


def test_interval_of_the_probability_of_improvement_equals_rliables():
    interval = probability_of_improvement_as_rliable(X, Y)
    assert interval.estimate == probability_of_improvement(X, Y).estimate
    assert (interval.low, interval.high) == pytest.approx((0.571, 0.897), abs=0.01)  # 10 000 resamples there


def test_performance_profile_equals_rliables():
    profile = performance_profile(X, [0.25, 0.38, 0.5, 0.75, 1.0], reps=50_000, as_rliable=True)
    assert [p.estimate for p in profile] == pytest.approx([20 / 21, 16 / 21, 13 / 21, 11 / 21, 4 / 21], abs=1e-12)
    assert [p.low for p in profile] == pytest.approx([18 / 21, 14 / 21, 11 / 21, 8 / 21, 1 / 21], abs=1e-9)
    assert [p.high for p in profile] == pytest.approx([1.0, 18 / 21, 14 / 21, 14 / 21, 6 / 21], abs=1e-9)


# --- the interquartile mean ---


@pytest.mark.parametrize(
    ("n", "expected"),  # of the squares 0, 1, 4 ...; floor(n / 4) go at either end
    [(1, 0.0), (2, 0.5), (3, 5 / 3), (4, 2.5), (5, 14 / 3), (6, 7.5), (7, 11.0), (8, 13.5)],
)
def test_iqm_cuts_a_quarter_rounded_down_at_either_end(n, expected):
    assert iqm(np.arange(n)[::-1] ** 2) == pytest.approx(expected, abs=1e-12)


def test_iqm_along_axes_equals_iqm_of_each_part():
    cube = np.random.default_rng(0).normal(size=(4, 5, 6))
    np.testing.assert_allclose(iqm(cube, axis=(0, 2)), [iqm(cube[:, i]) for i in range(5)], rtol=0, atol=1e-15)
    np.testing.assert_allclose(iqm(cube[0], axis=-1), [iqm(row) for row in cube[0]], rtol=0, atol=1e-15)


@given(scores_1d, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_iqm_knows_no_order_and_lies_within_the_scores(scores, random):
    shuffled = random.sample(scores.tolist(), len(scores))
    assert iqm(shuffled) == iqm(scores)
    assert scores.min() <= iqm(scores) <= scores.max()


def test_a_nan_is_refused_rather_than_sorted_to_the_best_end():
    with pytest.raises(RlabError, match="NaN"):
        iqm([1.0, 2.0, 3.0, float("nan")])
    with pytest.raises(RlabError, match="NaN"):
        stratified_bootstrap([1.0, float("nan")], np.mean)
    with pytest.raises(RlabError, match="NaN"):
        paired_difference([[1.0, float("nan")]], [[1.0, 2.0]])


# --- the bootstrap ---


def test_bootstrap_of_two_runs_has_the_ends_known_on_paper():
    # Mean of two draws from {0, 1}: 0, 0.5, 1 with probability 1/4, 1/2, 1/4.
    assert stratified_bootstrap([0.0, 1.0], np.mean) == Interval(0.5, 0.0, 1.0)
    assert stratified_bootstrap([0.0, 1.0], np.mean, level=0.4, as_rliable=True) == Interval(0.5, 0.5, 0.5, level=0.4)


def test_bootstrap_resamples_inside_each_task_and_tasks_apart():
    tasks_far_apart = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    assert stratified_bootstrap(tasks_far_apart, np.mean) == Interval(50.0, 50.0, 50.0)
    # Rows drawn together would always give 0.5 here; drawn apart, all four of (0, 1) x (0, 1) can come up.
    opposed = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert stratified_bootstrap(opposed, np.mean, level=0.99) == Interval(0.5, 0.0, 1.0, level=0.99)


@pytest.mark.parametrize(
    ("shape", "statistic", "freedom", "variance"),
    [
        ((10, 1), np.mean, 9, 10 / 9),  # the variance of a mean over resamples is 9 / 10 of what it should be
        ((10, 1), iqm, 9, 1.0),
        ((10, 5), iqm, 45, 49 / 45),
        ((10, 5), np.mean, 45, 10 / 9),
    ],
)
def test_ends_are_the_percentiles_at_student_s_t(shape, statistic, freedom, variance):
    scores = np.random.default_rng(0).normal(size=shape)
    values = stats.resampled(scores, statistic, 5_000, np.random.default_rng(0))
    interval = stratified_bootstrap(scores, statistic, reps=5_000)
    tail = normal_tail({9: 2.26215716, 45: 2.01410336}[freedom] * variance**0.5)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(values, [tail, 1 - tail])), rel=1e-6)


def test_bootstrap_repeats_itself_and_a_seed_changes_it():
    assert stratified_bootstrap(X) == stratified_bootstrap(X)
    assert unpaired_difference(X, Y) == unpaired_difference(X, Y)
    noisy = np.random.default_rng(0).normal(size=9)
    assert stratified_bootstrap(noisy, reps=500) != stratified_bootstrap(noisy, reps=500, seed=1)


def test_memory_blocks_do_not_change_a_digit(monkeypatch):
    def all_of_them():
        return [
            stratified_bootstrap(X, reps=999),
            unpaired_difference(X, Y, reps=999),
            probability_of_improvement_as_rliable(X, Y, reps=999),
        ]

    whole = all_of_them()
    monkeypatch.setattr(stats, "_BLOCK_ELEMENTS", 100)
    assert all_of_them() == whole


@pytest.mark.parametrize("elements", [1, 7, 10**9])
def test_blocks_add_up_and_stay_within_the_limit(elements):
    blocks = list(stats.blocks(1000, elements))
    assert sum(blocks) == 1000
    assert max(blocks) * elements <= max(stats._BLOCK_ELEMENTS, elements)


def test_fifty_thousand_resamples_of_twenty_runs_are_not_a_loop_in_python():
    shapes = []

    def counted(scores, axis):
        shapes.append(scores.shape)
        return iqm(scores, axis)

    stratified_bootstrap(np.random.default_rng(0).normal(size=(20, 1)), counted)
    assert sum(shape[0] for shape in shapes if len(shape) == 3) == 50_000
    assert len(shapes) < 10  # blocks of many, or they would take seconds


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(loc=3.0, size=(300, 20))
    intervals = [mean_interval(sample, reps=1000) for sample in samples]
    covered = np.mean([i.low <= 3.0 <= i.high for i in intervals])
    assert 0.88 <= covered <= 0.98  # a percentile bootstrap of 20 values falls a little short of 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stratified_bootstrap([500.0]), "two runs or more"),
        (lambda: stratified_bootstrap(np.zeros((2, 2, 2))), "must be .runs, tasks."),
        (lambda: stratified_bootstrap([]), "not empty"),
        (lambda: stratified_bootstrap([1.0, 2.0], level=95), "between 0 and 1"),
        (lambda: stratified_bootstrap([1.0, 2.0], reps=0), "one resample or more"),
        (lambda: mean_interval([1.0]), "two values or more"),
        (lambda: iqm([]), "one score or more"),
    ],
)
def test_a_wrong_request_is_one_clear_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- words ---


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        (Interval(500.0, 498.25, 500.0), "500.0 [498.2, 500.0]"),
        (Interval(-76.64, -80.0, -70.126), "-76.64 [-80.00, -70.13]"),
        (Interval(0.9644, 0.95, 0.9701), "0.964 [0.950, 0.970]"),
    ],
)
def test_an_interval_prints_the_digits_that_matter(interval, shown):
    assert str(interval) == shown


@pytest.mark.parametrize("runs", [2, 3, 4, 5])
def test_an_interval_from_few_runs_holds_the_true_value_as_rarely_as_is_said(runs):
    """It is [lowest, highest], which misses the median 0 when all runs are on one side of it: 2 / 2^n."""
    assert COVERAGE[runs] == 1 - 2 / 2**runs
    scores = np.random.default_rng(1).normal(size=runs)
    interval = stratified_bootstrap(scores)
    assert (interval.low, interval.high) == pytest.approx((scores.min(), scores.max()), abs=1e-12)


def test_what_few_runs_are_worth_is_said_where_it_is_less_than_promised():
    assert list(COVERAGE) == [2, 3, 4, 5]
    assert all(value < LEVEL <= 1 - 2 / 2**6 for value in COVERAGE.values())
