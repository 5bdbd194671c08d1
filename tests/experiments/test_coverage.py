"""The study of coverage, at small size and in full."""

import numpy as np
import pytest

from rlab.experiments import coverage
from rlab.experiments.coverage import DISTRIBUTIONS, FEWER, LEAST, MOST, RUNS, of_one_group, of_two_groups, true_iqm


def test_the_true_iqm_is_the_mean_of_the_middle_half() -> None:
    assert true_iqm(DISTRIBUTIONS["bounded: uniform"]) == pytest.approx(0.5, abs=1e-9)
    # The integral of -ln(1 - p) from 1/4 to 3/4, doubled: with f(q) = q ln q - q, 2 (f(1/4) - f(3/4)).
    exact = 2 * ((0.25 * np.log(0.25) - 0.25) - (0.75 * np.log(0.75) - 0.75))
    assert true_iqm(DISTRIBUTIONS["skewed: exponential"]) == pytest.approx(exact, abs=1e-6)
    # Three of ten runs uniform below 1: from 1/4 to 3/10 their mean is 11/12, the rest is 1.
    near = true_iqm(DISTRIBUTIONS["3 of 10 runs anywhere below the bound, the rest at it"])
    assert near == pytest.approx(2 * (0.05 * 11 / 12 + 0.45), abs=1e-5)


@pytest.mark.parametrize(
    "name",
    ["bounded: half of the runs at the bound", "skewed: exponential", "bimodal: 3 of 10 runs fail"],
)
def test_intervals_of_ten_runs_hold_the_truth_as_often_as_they_say_and_plain_percentiles_do_less(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "RESAMPLES", 400)
    found = of_one_group(name, 10, studies=300)
    error = (0.05 * 0.95 / 300) ** 0.5  # of a share of 300 studies
    assert LEAST - 3 * error <= found["rlab"] <= MOST + 3 * error
    assert found["percentile (rliable)"] < found["rlab"]
    assert {share <= 1.0 for share in found.values()} == {True}


@pytest.mark.prove
@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if ":" in name])
def test_intervals_hold_the_truth_in_93_to_97_percent_of_studies(name: str, runs: int) -> None:
    assert LEAST <= of_one_group(name, runs)["rlab"] <= MOST
    assert min(of_two_groups(name, runs).values()) >= LEAST - 2 * (0.07 * 0.93 / FEWER) ** 0.5
