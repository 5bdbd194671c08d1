"""Learning-rate schedules: exact at the beginning, the middle and the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.learning.schedules import SCHEDULES, Schedule


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
    with pytest.raises(UsageError, match=r"final factor .* warm-up .* steps"):
        Schedule("linear", **settings)  # type: ignore[arg-type]


def test_an_unknown_schedule_names_the_near_miss() -> None:
    with pytest.raises(UsageError, match=r"unknown learning-rate schedule 'cosin'\. Did you mean 'cosine'\?"):
        Schedule("cosin")
