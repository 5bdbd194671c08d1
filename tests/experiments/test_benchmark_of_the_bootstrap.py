"""The benchmark of intervals, at small size."""

import warnings

import numpy as np
import pytest

pytest.importorskip("rliable", reason="rliable is not installed")

from rlab.experiments.benchmarks.bootstrap import measure, rliable


def test_both_are_timed_in_turn_and_say_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the packages that rliable imports
        rliable()
    found = measure(resamples=500, rounds=2)
    assert {len(each) for each in found["seconds"].values()} == {2}
    theirs, ours = (found["seconds"][name] for name in ("rliable", "rlab"))
    assert found["times_as_fast"]["median"] == pytest.approx(np.median(np.divide(theirs, ours)))
    theirs, ours = found["intervals"]["rliable"], found["intervals"]["rlab, plain percentiles"]
    assert theirs[0] == pytest.approx(ours[0], abs=1e-12)
