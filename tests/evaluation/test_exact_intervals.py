"""Intervals from order statistics and binomials against numbers worked on paper."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlab.errors import RlabError, UsageError
from rlab.evaluation.exact_intervals import median_interval, success_rate_interval, tolerance_interval

INF = float("inf")


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


# --- the median ---


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [
        (1, -INF, INF),
        (5, -INF, INF),  # all five on one side: 2 / 2^5 = 0.0625 of cases
        (6, 1, 6),  # 2 / 2^6 = 0.031
        (8, 1, 8),  # at most one on a side: 2 (1 + 8) / 2^8 = 0.070, so that it must be none
        (9, 2, 8),  # 2 (1 + 9) / 2^9 = 0.039
        (20, 6, 15),  # 2 (1 + 20 + 190 + 1140 + 4845 + 15504) / 2^20 = 0.041
    ],
)
def test_the_ends_of_a_median_s_interval_are_the_values_of_the_sign_test(n: int, low: float, high: float) -> None:
    interval = median_interval(np.arange(n, 0, -1))
    assert (interval.estimate, interval.low, interval.high) == ((n + 1) / 2, low, high)


def test_a_median_between_a_number_and_never_is_never() -> None:
    assert median_interval([3.0, INF, 1.0, INF]).estimate == INF
    assert median_interval([3.0, INF, 1.0]).estimate == 3.0
    assert median_interval([INF, INF]).estimate == INF
    assert median_interval([5.0, 1.0, 2.0, 3.0, 4.0, INF]).high == INF


# --- tolerance intervals ---


def test_the_range_of_ten_runs_holds_60_percent_of_all_runs_and_90_take_46() -> None:
    """At 95 %: of p, 1 - 10 p^9 + 9 p^10 = 0.95 gives 0.606; 46 is in Wilks' table."""
    found = tolerance_interval([10.0, 3.0, 5.0, 4.0, 8.0, 7.0, 6.0, 9.0, 1.0, 2.0])
    assert (found.low, found.high, found.runs_needed) == (1.0, 10.0, 46)
    assert found.share == pytest.approx(0.606, abs=5e-4)
    assert 1 - 10 * found.share**9 + 9 * found.share**10 == pytest.approx(0.95, abs=1e-12)
    assert not found.enough_runs
    assert str(found) == (
        "[1.00, 10.00] holds 61 % of runs or more (95 % confidence): 10 runs are too few for 90 %, which takes 46"
    )


@pytest.mark.parametrize(
    ("n", "share", "rank"),
    [
        (46, 0.9, 1),  # from here on the range from the lowest to the highest
        (89, 0.9, 2),
        (8, 0.5, 1),  # 1 - (1 + 8) / 2^8 = 0.965; of seven runs 1 - 8 / 2^7 = 0.938
        (22, 0.8, 1),
    ],
)
def test_enough_runs_hold_the_share_between_the_ranks_of_wilks(n: int, share: float, rank: int) -> None:
    found = tolerance_interval(np.arange(1, n + 1), share)
    assert (found.low, found.high, found.share, found.enough_runs) == (rank, n + 1 - rank, share, True)
    fewer = tolerance_interval(np.arange(1, n), share)
    assert fewer.enough_runs == (rank > 1)
    # At most n - 2 rank of n runs lie within, each with the probability `share`.
    confidence = sum(comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(n - 2 * rank + 1))
    assert confidence >= 0.95


def test_a_tolerance_interval_says_what_it_holds() -> None:
    scores = 100.0 * np.arange(50)
    assert str(tolerance_interval(scores)) == "[0.0, 4900.0] holds 90 % of runs or more (95 % confidence)"


def test_a_tolerance_interval_holds_its_share_in_95_of_100_studies() -> None:
    scores = np.random.default_rng(0).random((400, 30))  # uniform: an interval holds the share that it is long
    found = [tolerance_interval(each, share=0.8) for each in scores]
    held = np.mean([each.high - each.low >= 0.8 for each in found])
    assert held >= 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: success_rate_interval(4, 3), "4 of 3"),
        (lambda: success_rate_interval(0, 0), "0 of 0"),
        (lambda: success_rate_interval(1, 2, level=0.0), "between 0 and 1"),
        (lambda: tolerance_interval([1.0]), "two runs or more"),
        (lambda: tolerance_interval([1.0, 2.0], share=1.0), "share of runs in a tolerance interval"),
        (lambda: tolerance_interval([1.0, 2.0], level=95), "between 0 and 1"),
        (lambda: tolerance_interval([[1.0, 2.0]]), "in one row"),
        (lambda: median_interval([]), "in one row"),
    ],
)
def test_a_wrong_request_is_one_clear_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_failed_run_is_refused() -> None:
    with pytest.raises(RlabError, match="NaN"):
        tolerance_interval([1.0, float("nan")])
