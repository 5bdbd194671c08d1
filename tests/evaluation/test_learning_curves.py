"""Curves of many runs against numbers worked on paper."""

import numpy as np
import pytest

from rlab.errors import RlabError, UsageError
from rlab.evaluation.learning_curves import area_under_curve, efficiency_curve, on_common_steps, steps_to_threshold
from rlab.evaluation.stats import iqm, stratified_bootstrap

WHEN = np.array([0.0, 100.0, 300.0])
CURVES = np.array([[0.0, 10.0, 10.0], [0.0, 4.0, 8.0], [2.0, 2.0, 2.0]])
INF = float("inf")


def test_a_curve_is_the_iqm_and_the_interval_of_every_point() -> None:
    curves = np.random.default_rng(0).normal(size=(8, 3)).cumsum(axis=1)
    curve = efficiency_curve(WHEN, curves, reps=500)
    assert (curve.runs, curve.when.tolist()) == (8, WHEN.tolist())
    for column, middle, low, high in zip(curves.T, curve.iqm, curve.low, curve.high, strict=True):
        assert middle == iqm(column)
        point = stratified_bootstrap(column, reps=500)
        assert (low, high) == (point.low, point.high)


def test_all_points_of_a_curve_draw_the_same_runs() -> None:
    """Curves that only rise by what all of them rise have a band of one width."""
    curve = efficiency_curve(WHEN, np.random.default_rng(0).normal(size=(6, 1)) + np.array([0.0, 32.0, 64.0]))
    assert curve.high - curve.low == pytest.approx(np.full(3, curve.high[0] - curve.low[0]), abs=1e-12)


def test_the_curve_of_one_run_has_no_interval() -> None:
    curve = efficiency_curve(WHEN, CURVES[:1])
    assert curve.iqm.tolist() == [0.0, 10.0, 10.0]
    assert np.isnan(curve.low).all()
    assert np.isnan(curve.high).all()


def test_runs_logged_at_other_times_meet_at_the_times_of_all_where_all_have_a_value() -> None:
    when, curves = on_common_steps([([0, 10, 20], [0.0, 1.0, 3.0]), ([5, 15, 25], [5.0, 7.0, 9.0])])
    assert when.tolist() == [5, 10, 15, 20]  # 0 and 25 only one run covers
    assert curves.tolist() == [[0.5, 1.0, 2.0, 3.0], [5.0, 6.0, 7.0, 8.0]]


def test_runs_of_one_clock_stay_as_they_are() -> None:
    when, curves = on_common_steps([(WHEN, curve) for curve in CURVES])
    assert (when.tolist(), curves.tolist()) == (WHEN.tolist(), CURVES.tolist())


def test_the_area_under_a_curve_is_its_mean_height() -> None:
    # (0 + 10) / 2 over 100 steps and 10 over 200; 2 over 100 and 6 over 200; 2 throughout
    assert area_under_curve(WHEN, CURVES).tolist() == pytest.approx([2500 / 300, 1400 / 300, 2.0], abs=1e-12)


def test_runs_that_never_reach_a_threshold_count_as_later_than_the_budget() -> None:
    found = steps_to_threshold(WHEN, CURVES, threshold=4.0)
    assert found.steps.tolist() == [100.0, 100.0, INF]
    assert (found.reached, found.budget, found.median.estimate) == (2, 300.0, 100.0)
    assert found.restricted_mean is not None
    assert found.restricted_mean.estimate == pytest.approx(500 / 3)  # 100, 100 and all of 300
    assert str(found) == "2 of 3 runs reach 4; the median run after 100 steps"


def test_leaving_out_runs_that_fail_would_make_the_failing_agent_look_quicker() -> None:
    steady = steps_to_threshold(WHEN, np.array([[0.0, 0.0, 9.0]] * 6), threshold=9.0)
    lucky = steps_to_threshold(WHEN, np.array([[0.0, 9.0, 9.0]] * 2 + [[0.0, 0.0, 0.0]] * 4), threshold=9.0)
    assert lucky.steps[np.isfinite(lucky.steps)].mean() < steady.steps.mean()
    assert lucky.median.estimate == INF > steady.median.estimate == 300.0
    assert str(lucky) == "2 of 6 runs reach 9; the median run does not within 300 steps"


def test_a_threshold_reached_at_once_or_lost_again_counts_from_its_first_point() -> None:
    found = steps_to_threshold(WHEN, [[5.0, 0.0, 5.0]], threshold=5.0)
    assert (found.steps.tolist(), found.restricted_mean) == ([0.0], None)


def test_of_six_runs_the_interval_of_the_median_reaches_from_the_first_to_the_last() -> None:
    """Fewer runs cannot exclude anything: all of five are on one side of the median in 2 / 2^5 of cases."""
    curves = np.array([[0.0, float(i < 4), float(i < 5)] for i in range(6)])
    six, five = steps_to_threshold(WHEN, curves, 1.0).median, steps_to_threshold(WHEN, curves[:5], 1.0).median
    assert (six.estimate, six.low, six.high) == (100.0, 100.0, INF)
    assert (five.low, five.high) == (-INF, INF)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: efficiency_curve(WHEN, CURVES[:, :2]), r"not \(3, 2\) and \(3,\)"),
        (lambda: efficiency_curve([0, 0, 1], CURVES), "must rise"),
        (lambda: area_under_curve([5], [[1.0]]), "two points or more"),
        (lambda: on_common_steps([]), "no run"),
        (lambda: on_common_steps([([0, 1], [0, 0]), ([5, 6], [0, 0])]), "one begins at 5 and another ends at 1"),
        (lambda: steps_to_threshold(WHEN, CURVES[0], 1.0), "curves must be"),
    ],
)
def test_a_wrong_request_is_one_clear_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_curve_with_a_hole_is_refused() -> None:
    with pytest.raises(RlabError, match="NaN"):
        efficiency_curve(WHEN, [[0.0, float("nan"), 1.0]])
