"""Learning-rate schedules and epsilon: exact at the beginning, the middle and the end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.learning.exploration import epsilon_greedy, linear
from rlab.learning.schedules import SCHEDULES, Schedule
from rlab.randomness import stream


@pytest.mark.parametrize(
    ("name", "start", "middle", "end"),
    [
        ("constant", 1.0, 1.0, 1.0),
        ("linear", 1.0, 0.6, 0.2),
        ("cosine", 1.0, 0.6, 0.2),  # 0.2 + 0.8 * (1 + cos(pi/2)) / 2
        ("step", 1.0, 0.2, 0.04),  # three stretches: 1, 0.2, 0.2^2
    ],
)
def test_a_schedule_is_exact_at_start_middle_and_end(name: str, start: float, middle: float, end: float) -> None:
    schedule = Schedule(name, final=0.2)
    assert schedule.factor(0.0) == start
    assert schedule.factor(0.5) == pytest.approx(middle, abs=1e-15)
    assert schedule.factor(1.0) == pytest.approx(end, abs=1e-15)


def test_the_step_schedule_changes_at_its_stretches_and_not_before() -> None:
    schedule = Schedule("step", final=0.1, steps=4)
    at = [0.0, 0.2499, 0.25, 0.4999, 0.5, 0.75, 1.0]
    assert [schedule.factor(p) for p in at] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_warm_up_rises_linearly_from_zero_and_the_rest_is_the_schedule_squeezed(name: str) -> None:
    plain, warm = Schedule(name, final=0.2), Schedule(name, final=0.2, warmup_fraction=0.2)
    assert [warm.factor(p) for p in (0.0, 0.05, 0.1)] == pytest.approx([0.0, 0.25, 0.5])
    assert warm.factor(0.2) == 1.0
    assert warm.factor(0.6) == pytest.approx(plain.factor(0.5))  # 0.6 is halfway from 0.2 to 1
    assert warm.factor(1.0) == pytest.approx(plain.factor(1.0))


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0, 1), st.floats(0, 0.99), st.floats(0, 1), st.integers(1, 9))
def test_a_factor_stays_between_zero_and_one(name: str, final: float, warm: float, progress: float, steps: int) -> None:
    assert 0.0 <= Schedule(name, final, warm, steps).factor(progress) <= 1.0


@pytest.mark.parametrize("settings", [{"final": -0.1}, {"final": 1.1}, {"warmup_fraction": 1.0}, {"steps": 0}])
def test_a_schedule_out_of_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="final factor .* warm-up .* steps"):
        Schedule("linear", **settings)  # type: ignore[arg-type]


def test_an_unknown_schedule_names_the_near_miss() -> None:
    with pytest.raises(UsageError, match=r"unknown learning-rate schedule 'cosin'\. Did you mean 'cosine'\?"):
        Schedule("cosin")


def test_epsilon_is_exact_at_start_middle_and_end() -> None:
    assert [linear(1.0, 0.1, 0.5, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert linear(1.0, 0.1, fraction=0.0, progress=0.0) == 0.1


def test_every_env_has_its_own_coin_and_every_member_its_own_stream() -> None:
    greedy = np.zeros((2, 1000), np.int64)
    actions = epsilon_greedy(greedy, 10, 0.5, [stream(1, "exploration"), stream(2, "exploration")])
    # half the coins fall, and one in ten of those picks action 0 anyway: 45 % differ from greedy
    assert np.abs((actions != 0).mean(axis=1) - 0.45).max() < 0.06
    assert 0 < (actions[0, :8] != 0).sum() < 8  # one coin for all eight envs would give 0 or 8
    alone = epsilon_greedy(greedy[:1], 10, 0.5, [stream(2, "exploration")])
    assert (alone[0] == actions[1]).all()


def test_epsilon_zero_is_greedy_and_one_is_uniform() -> None:
    greedy = np.full((1, 4000), 2)
    assert (epsilon_greedy(greedy, 4, 0.0, [stream(0, "exploration")]) == 2).all()
    counts = np.bincount(epsilon_greedy(greedy, 4, 1.0, [stream(0, "exploration")])[0], minlength=4)
    # chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 16.3


def test_epsilon_changes_no_draw_that_follows() -> None:
    low, high = stream(0, "exploration"), stream(0, "exploration")
    epsilon_greedy(np.zeros((1, 3), np.int64), 2, 0.0, [low])
    epsilon_greedy(np.zeros((1, 3), np.int64), 2, 1.0, [high])
    assert low.random() == high.random()
