"""Two groups of runs, paired and not: numbers worked on paper, and what two equal groups give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.evaluation.differences import (
    paired_difference,
    paired_ratio,
    probability_of_improvement,
    probability_of_improvement_as_rliable,
    seeds_to_settle,
    unpaired_difference,
)
from rlab.evaluation.quantiles import normal_tail, student_t
from rlab.evaluation.stats import Interval, iqm, mean_interval, resampled

scores_1d = st.lists(st.integers(-1000, 1000), min_size=1, max_size=30).map(lambda v: np.array(v, dtype=float))

# --- unpaired ---


def test_a_difference_is_that_of_the_iqms_and_changes_sign_with_its_sides() -> None:
    x, y = np.arange(8.0), np.arange(4.0) + 10.0  # IQMs 3.5 and 11.5
    there, back = unpaired_difference(x, y), unpaired_difference(y, x)
    assert (there.estimate, back.estimate) == (-8.0, 8.0)
    assert there.high < 0 < back.low
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.2)  # of other draws


def test_the_degrees_of_freedom_of_two_groups_are_welch_s() -> None:
    """Groups of 9 and 4 degrees, whose difference has the variance of both: (v + w)^2 / (v^2 / 9 + w^2 / 4)."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 1)), 3.0 * rng.normal(size=(5, 1))
    of_x, of_y = (resampled(z, iqm, 5_000, r) for z, r in zip((x, y), np.random.default_rng(0).spawn(2), strict=True))
    v, w = of_x.var(), of_y.var()
    tail = normal_tail(student_t(0.95, float((v + w) ** 2 / (v**2 / 9 + w**2 / 4))))
    interval = unpaired_difference(x, y, reps=5_000)
    low, high = np.quantile(of_x - of_y, [tail, 1 - tail])
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)


def test_runs_compared_with_themselves_show_no_difference() -> None:
    runs = np.random.default_rng(0).normal(size=10)
    for interval in (unpaired_difference(runs, runs), paired_difference(runs[:, None], runs[:, None])):
        assert interval.estimate == 0.0
        assert interval.low <= 0.0 <= interval.high
    assert probability_of_improvement(runs, runs).estimate == 0.5


def test_runs_that_all_end_alike_differ_by_exactly_that() -> None:
    assert unpaired_difference([500.0, 500.0, 500.0], [200.0, 200.0]) == Interval(300.0, 300.0, 300.0)


def test_two_groups_of_one_kind_show_no_difference_in_95_of_100_tries() -> None:
    rng, tries = np.random.default_rng(0), 300
    groups = 100.0 * rng.exponential(size=(tries, 2, 10))  # skewed, as returns are
    unpaired = [unpaired_difference(x, y, reps=500) for x, y in groups]
    wins = [probability_of_improvement(x, y) for x, y in groups]
    # A share of 300 has a standard error of 0.0126 at 0.95.
    assert np.mean([each.low <= 0.0 <= each.high for each in unpaired]) == pytest.approx(0.96, abs=0.04)
    assert np.mean([each.low <= 0.5 <= each.high for each in wins]) == pytest.approx(0.96, abs=0.04)


# --- how many runs would settle it ---


def test_seeds_that_settle_a_difference_are_those_of_the_formula() -> None:
    """Deviation 1 in both, difference 1: (1.96 + 0.84)^2 * 2 = 15.7 runs each; with Student's t 17 (Cohen 1988)."""
    z = np.linspace(-1.0, 1.0, 500)
    runs = z / z.std()  # any shape: it is the mean that is compared
    assert seeds_to_settle(runs + 1.0, runs, np.mean) == pytest.approx(17, abs=1)
    assert seeds_to_settle(runs + 0.5, runs, np.mean) == pytest.approx(64, abs=2)
    assert seeds_to_settle(runs, runs + 0.5, np.mean, power=0.9) == pytest.approx(86, abs=3)


def test_pairs_settle_by_the_spread_of_their_differences() -> None:
    lucky = np.random.default_rng(0).normal(size=20)
    small = np.tile([0.0, 0.2], 10)  # deviation 0.1, mean 0.1: 1 deviation, (1.96 + 0.84)^2 = 7.8, with t about 10
    assert seeds_to_settle(lucky + small, lucky, np.mean, paired=True) == pytest.approx(10, abs=1)
    unpaired = seeds_to_settle(lucky + small, lucky, np.mean)
    assert unpaired is not None
    assert unpaired > 500


def test_equal_groups_are_not_settled_by_any_number_and_clear_ones_by_two() -> None:
    assert seeds_to_settle([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) is None
    assert seeds_to_settle([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]) == 2


def test_so_many_seeds_do_settle_it_in_about_four_of_five_studies() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=400) + 1.2, rng.normal(size=400)
    runs = seeds_to_settle(x, y)
    assert runs is not None
    studies = [unpaired_difference(rng.choice(x, runs), rng.choice(y, runs), reps=500) for _ in range(150)]
    assert np.mean([study.low > 0 for study in studies]) == pytest.approx(0.8, abs=0.12)  # standard error 0.033


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


def test_with_one_run_only_episodes_vary_and_with_one_episode_only_runs() -> None:
    """Gaps 0 and 1: mean 0.5, standard error 0.5, and t of 1 degree of freedom, 12.706."""
    gap = np.array([[0.0, 1.0]])
    half = 12.7062047362 * 0.5
    for a in (gap, gap.T):
        interval = paired_difference(a, np.zeros_like(a))
        assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_a_difference_over_runs_and_episodes_has_the_variances_of_both() -> None:
    """Gaps [[0, 2], [4, 10]]: row means 1 and 7, column means 2 and 6, residuals of 1 each way, 4 of variance.

    Runs: 18 / 2 = 9 of the mean's variance; episodes: 8 / 2 less 4 / 4, which the runs contain: 3. By Satterthwaite
    12^2 / (9^2 + 3^2) = 1.6 degrees of freedom.
    """
    gap = np.array([[0.0, 2.0], [4.0, 10.0]])
    interval = paired_difference(gap + 7.0, np.full_like(gap, 7.0))
    half = student_t(0.95, 1.6) * 12**0.5
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((4.0, 4.0 - half, 4.0 + half))


def test_ratio_is_of_means_and_exact_where_all_pairs_agree():
    b = np.array([[1.0, 2.0, 30.0], [4.0, 5.0, 6.0]])
    ratio = paired_ratio(0.75 * b, b)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((0.75, 0.75, 0.75), abs=1e-12)
    ratio = paired_ratio([[1.0, 9.0]], [[10.0, 10.0]])
    # Gaps to half of the other side: -4 and 4, of standard error 4; a tenth of that, times t.
    assert (ratio.estimate, ratio.high) == (0.5, pytest.approx(0.5 + 12.7062047362 * 0.4))


@pytest.mark.parametrize("b", [[[0.0, 0.0]], [[-1.0, 1.0]], [[-1.0, 5.0]]])
def test_ratio_to_a_mean_that_may_be_zero_is_refused(b):
    with pytest.raises(UsageError, match="paired difference"):
        paired_ratio([[1.0, 2.0]], b)


# --- probability of improvement ---


def test_probability_of_improvement_counts_pairs_and_half_of_ties():
    # 3 beats 1 and ties 3; 5 beats both: (1 + 0.5 + 2) / 4
    assert probability_of_improvement([3.0, 5.0], [1.0, 3.0]).estimate == 3.5 / 4
    assert probability_of_improvement_as_rliable([2.0, 3.0], [0.0, 1.0, 1.5]) == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("x", [[5.0, 6.0, 7.0, 8.0], [2.5, 6.0, 7.0, 1.5]])
def test_the_ends_of_its_interval_are_t_standard_errors_away(x: list[float]) -> None:
    """The error that Hanley and McNeil (1982) give for the end itself, of four runs each: t of 6 is 2.447."""
    found = probability_of_improvement(x, [1.0, 2.0, 3.0, 4.0])
    for end in {found.low, found.high} - {1.0}:
        one, two = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + 3 * (one - end**2) + 3 * (two - end**2)) / 16
        assert abs(found.estimate - end) == pytest.approx(2.44691185 * variance**0.5, rel=1e-6)


def test_runs_that_all_win_do_not_show_that_all_others_would() -> None:
    few, many = (probability_of_improvement(np.arange(n) + n, np.arange(n)) for n in (3, 20))
    assert (few.estimate, few.high, many.high) == (1.0, 1.0, 1.0)
    assert few.low < 0.7 < many.low < 0.95


@given(scores_1d, scores_1d)
@settings(deadline=None)
def test_probability_of_improvement_and_its_opposite_add_up_to_one(x, y):
    x, y = np.append(x, 0.0), np.append(y, 0.0)
    there, back = (probability_of_improvement(*pair) for pair in [(x, y), (y, x)])
    assert there.estimate + back.estimate == pytest.approx(1.0, abs=1e-12)
    assert 0.0 <= there.low <= there.high <= 1.0


# --- asked for wrongly ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference(np.zeros((2, 3)), np.zeros((3, 3))), "of one shape"),
        (lambda: paired_difference(np.zeros(3), np.zeros(3)), "of one shape"),
        (lambda: paired_difference([[1.0]], [[2.0]]), "two episodes or two runs"),
        (lambda: unpaired_difference(np.zeros((7, 3)), np.zeros((5, 2))), "same tasks, not 3 and 2"),
        (lambda: probability_of_improvement(np.zeros((7, 3)), np.zeros((1, 3))), "not 7 and 1"),
        (lambda: seeds_to_settle([1.0, 2.0], [1.0, 2.0], power=1.0), "a power lies between 0 and 1"),
        (lambda: seeds_to_settle([1.0, 2.0], [1.0, 2.0], level=95), "level of an interval"),
        (lambda: seeds_to_settle([1.0, 2.0], [1.0, 2.0, 3.0], paired=True), "the same runs on both sides, not 2 and 3"),
    ],
)
def test_a_wrong_request_is_one_clear_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_failed_run_is_refused() -> None:
    with pytest.raises(RlabError, match="NaN"):
        unpaired_difference([1.0, float("nan")], [1.0, 2.0])
