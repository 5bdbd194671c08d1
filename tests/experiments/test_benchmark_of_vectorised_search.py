"""The benchmark of many settings in one stack, at small size."""

from rlab.experiments.benchmarks.vectorised_search import measure


def test_all_three_ways_are_timed_and_counted_for_all_members():
    found = measure(rates=2, seeds=2, env_steps=80, rounds=1)
    seconds = found["seconds"]
    assert list(seconds) == ["one stack", "one run after another", "one stack of seeds after another"]
    assert found["times_as_fast"]["median"] == seconds["one run after another"][0] / seconds["one stack"][0]
