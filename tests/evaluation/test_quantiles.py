"""The distributions behind the intervals against printed tables and numbers worked on paper."""

import pytest

from rlab.evaluation.quantiles import binomial_tail, normal_tail, student_t


@pytest.mark.parametrize(
    ("level", "freedom", "t"),
    [
        (0.95, 1, 12.7062047364),  # printed tables of Student's t; 1 degree of freedom: tan(0.95 pi / 2)
        (0.95, 2, 4.30265272991),
        (0.95, 9, 2.26215716280),
        (0.6, 4, 0.940964564),
        (0.95, 1e7, 1.95996422),
        (0.95, 1e15, 1.95996398),  # the normal distribution
        (0.0, 5, 0.0),
    ],
)
def test_the_quantiles_of_student_s_t_are_those_of_the_tables(level: float, freedom: float, t: float) -> None:
    assert student_t(level, freedom) == pytest.approx(t, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("freedom", [1.5, 2.7, 18.3, 49.0, 51.0, 400.0])
def test_student_s_t_between_whole_degrees_agrees_with_scipy(freedom: float) -> None:
    scipy = pytest.importorskip("scipy.stats")
    assert student_t(0.95, freedom) == pytest.approx(scipy.t.ppf(0.975, freedom), rel=1e-6)


@pytest.mark.parametrize(("z", "tail"), [(0.0, 0.5), (1.959963984540054, 0.025), (-1.0, 0.8413447460685429)])
def test_the_tail_of_the_normal_distribution_is_that_of_the_tables(z: float, tail: float) -> None:
    assert normal_tail(z) == pytest.approx(tail, rel=1e-12)


@pytest.mark.parametrize(
    ("k", "n", "p", "tail"),
    [
        (3, 3, 0.5, 1 / 8),
        (2, 3, 0.5, 4 / 8),  # three ways for two, one for three
        (0, 3, 0.2, 1.0),
        (1, 2, 0.1, 0.19),  # 1 - 0.9^2
        (2, 4, 0.0, 0.0),
        (2, 4, 1.0, 1.0),
        (5, 4, 0.3, 0.0),
    ],
)
def test_the_tail_of_the_binomial_distribution_on_paper(k: int, n: int, p: float, tail: float) -> None:
    assert binomial_tail(k, n, p) == pytest.approx(tail, abs=1e-15)
