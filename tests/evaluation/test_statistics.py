"""The statistics against numbers worked on paper and against rliable's."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.evaluation import stats
from rlab.evaluation.differences import (
    paired_difference,
    paired_ratio,
    probability_of_improvement,
    probability_of_improvement_as_rliable,
)
from rlab.evaluation.exact_intervals import success_rate_interval
from rlab.evaluation.quantiles import normal_tail, student_t
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


def test_bootstrap_repeats_itself_and_a_seed_changes_it():
    assert stratified_bootstrap(X) == stratified_bootstrap(X)
    assert paired_difference(X[:5], Y) == paired_difference(X[:5], Y)
    noisy = np.random.default_rng(0).normal(size=9)
    assert stratified_bootstrap(noisy, reps=500) != stratified_bootstrap(noisy, reps=500, seed=1)


def test_memory_blocks_do_not_change_a_digit(monkeypatch):
    def all_of_them():
        return [
            stratified_bootstrap(X, reps=999),
            paired_difference(X[:5], Y, reps=999),
            paired_ratio(X[:5], Y, reps=999),
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
        (lambda: paired_difference(np.zeros((2, 3)), np.zeros((3, 3))), "of one shape"),
        (lambda: paired_difference(np.zeros(3), np.zeros(3)), "of one shape"),
        (lambda: paired_difference([[1.0]], [[2.0]]), "two episodes or two runs"),
        (lambda: probability_of_improvement(X, Y[:, :2]), "same tasks, not 3 and 2"),
        (lambda: probability_of_improvement(X, Y[:1]), "not 7 and 1"),
        (lambda: success_rate_interval(4, 3), "4 of 3"),
        (lambda: success_rate_interval(0, 0), "0 of 0"),
        (lambda: success_rate_interval(1, 2, level=0.0), "between 0 and 1"),
    ],
)
def test_a_wrong_request_is_one_clear_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- pairs ---


def test_pairing_takes_out_what_the_episodes_share():
    rng = np.random.default_rng(0)
    easy_or_hard = rng.normal(scale=100.0, size=(1, 50))
    b = easy_or_hard + np.zeros((3, 1))
    assert paired_difference(b + 2.0, b).low == pytest.approx(2.0, abs=1e-9)
    assert paired_difference(b + 2.0, b).high == pytest.approx(2.0, abs=1e-9)
    assert mean_interval(b[0]).high - mean_interval(b[0]).low > 20.0  # alone, each is uncertain


def test_pairing_takes_out_what_the_members_share():
    lucky = np.array([[0.0], [100.0], [300.0]]) + np.zeros((1, 4))
    difference = paired_difference(lucky - 1.5, lucky)
    assert (difference.low, difference.high) == pytest.approx((-1.5, -1.5), abs=1e-9)


def test_with_one_run_only_episodes_are_resampled():
    gap = np.array([[0.0, 1.0]])  # as in the bootstrap of two values: 0, 0.5, 1
    assert paired_difference(gap, np.zeros((1, 2))) == Interval(0.5, 0.0, 1.0)
    assert paired_difference(gap.T, np.zeros((2, 1))) == Interval(0.5, 0.0, 1.0)  # and with one episode only runs


def test_difference_of_means_and_its_resamples_equal_the_plain_way():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    rows, columns = rng.integers(4, size=(20_000, 4)), rng.integers(6, size=(20_000, 6))
    plain = [(a - b)[np.ix_(r, c)].mean() for r, c in zip(rows, columns, strict=True)]
    interval = paired_difference(a, b)
    assert interval.estimate == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    # Rows have the variance v_r among resamples and 4 - 1 degrees of freedom, columns v_c and 6 - 1.
    v_r, v_c = (a - b).mean(axis=1).var() / 4, (a - b).mean(axis=0).var() / 6
    true_r, true_c = v_r * 4 / 3, v_c * 6 / 5
    freedom = (true_r + true_c) ** 2 / (true_r**2 / 3 + true_c**2 / 5)
    tail = normal_tail(student_t(0.95, freedom) * ((true_r + true_c) / (v_r + v_c)) ** 0.5)
    low, high = np.quantile(plain, [tail, 1 - tail])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.1)  # far out in the tails, of 20 000


def test_ratio_is_of_means_and_exact_where_all_pairs_agree():
    b = np.array([[1.0, 2.0, 30.0], [4.0, 5.0, 6.0]])
    ratio = paired_ratio(0.75 * b, b)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((0.75, 0.75, 0.75), abs=1e-12)
    assert paired_ratio([[1.0, 9.0]], [[10.0, 10.0]]).estimate == 0.5


@pytest.mark.parametrize("b", [[[0.0, 0.0]], [[-1.0, 1.0]], [[-1.0, 5.0]]])
def test_ratio_to_a_mean_that_may_be_zero_is_refused(b):
    with pytest.raises(UsageError, match="paired difference"):
        paired_ratio([[1.0, 2.0]], b)


# --- probability of improvement ---


def test_probability_of_improvement_counts_pairs_and_half_of_ties():
    # 3 beats 1 and ties 3; 5 beats both: (1 + 0.5 + 2) / 4
    assert probability_of_improvement([3.0, 5.0], [1.0, 3.0]).estimate == 3.5 / 4
    assert probability_of_improvement(X, X).estimate == 0.5
    assert probability_of_improvement_as_rliable([2.0, 3.0], [0.0, 1.0, 1.5]) == Interval(1.0, 1.0, 1.0)


@given(scores_1d, scores_1d)
@settings(deadline=None)
def test_probability_of_improvement_and_its_opposite_add_up_to_one(x, y):
    x, y = np.append(x, 0.0), np.append(y, 0.0)
    there, back = (probability_of_improvement(*pair) for pair in [(x, y), (y, x)])
    assert there.estimate + back.estimate == pytest.approx(1.0, abs=1e-12)
    assert 0.0 <= there.low <= there.high <= 1.0


# --- success rates ---


@pytest.mark.parametrize(
    ("successes", "n", "level", "low", "high"),  # scipy 1.17.1: binomtest(k, n).proportion_ci(level, "exact")
    [
        (3, 3, 0.95, 0.2924017738212867, 1.0),  # 0.025 ** (1 / 3)
        (20, 20, 0.95, 0.8315665290169145, 1.0),
        (3, 3, 0.90, 0.3684031498640386, 1.0),  # one-sided 95 %: 0.05 ** (1 / 3)
        (20, 20, 0.90, 0.8608916593316243, 1.0),
        (19, 20, 0.95, 0.7512672372279723, 0.998734910502044),
        (16, 20, 0.95, 0.5633859970033314, 0.942666002949976),
        (7, 11, 0.95, 0.30790471501181976, 0.890736556181063),
        (0, 10, 0.95, 0.0, 0.30849710781876294),
    ],
)
def test_success_rate_interval_is_clopper_and_pearsons(successes, n, level, low, high):
    interval = success_rate_interval(successes, n, level)
    assert interval.estimate == successes / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_success_rate_interval_leaves_a_fortieth_in_either_tail(case):
    k, n = case
    interval = success_rate_interval(k, n)
    if k > 0:
        at_least = sum(comb(n, i) * interval.low**i * (1 - interval.low) ** (n - i) for i in range(k, n + 1))
        assert at_least == pytest.approx(0.025, abs=1e-9)
    if k < n:
        at_most = sum(comb(n, i) * interval.high**i * (1 - interval.high) ** (n - i) for i in range(k + 1))
        assert at_most == pytest.approx(0.025, abs=1e-9)
    assert interval.low <= k / n <= interval.high


def test_success_rate_of_very_many_episodes_is_quick_and_finite():
    interval = success_rate_interval(50_000, 100_000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (0.25 / 100_000) ** 0.5, rel=0.01)


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
