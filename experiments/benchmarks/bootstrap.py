"""How fast an interval comes: rlab's bootstrap against rliable's, of one table of scores, with the ends of both.

python -m rlab.experiments.benchmarks.bootstrap
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np

from rlab.evaluation.stats import Interval, stratified_bootstrap
from rlab.experiments.benchmarks.timing import ROUNDS, in_turn, ratio, record

RUNS, TASKS, RESAMPLES = 10, 5, 50_000


def rliable() -> tuple[ModuleType, ModuleType]:
    """Its modules `library` and `metrics`.

    They use arch's bootstrap alone. The rest of arch 7, which its `__init__` imports, fails with pandas 3, so that the
    package is entered without its `__init__`.
    """
    if "arch" not in sys.modules:
        spec = importlib.util.find_spec("arch")
        if spec is not None:
            sys.modules["arch"] = importlib.util.module_from_spec(spec)
    from rliable import library, metrics

    return library, metrics


def rliables(scores: np.ndarray, resamples: int) -> Interval:
    """The IQM and its interval as rliable gives them."""
    library, metrics = rliable()
    points, ends = library.get_interval_estimates(
        {"one": scores}, lambda table: np.array([metrics.aggregate_iqm(table)]), reps=resamples
    )
    (low,), (high,) = ends["one"]
    return Interval(float(points["one"][0]), float(low), float(high))


def measure(resamples: int = RESAMPLES, rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of both in turn, the ratio, and what both say."""
    scores = np.random.default_rng(0).normal(size=(RUNS, TASKS))
    found: dict[str, Interval] = {}

    def keep(name: str, interval: Interval) -> None:
        found[name] = interval

    things = {
        "rliable": lambda: keep("rliable", rliables(scores, resamples)),
        "rlab": lambda: keep("rlab", stratified_bootstrap(scores, reps=resamples)),
        "rlab, plain percentiles": lambda: keep(
            "rlab, plain percentiles", stratified_bootstrap(scores, reps=resamples, as_rliable=True)
        ),
    }
    rliable()  # imports are not timed
    seconds = in_turn(things, rounds)
    return {
        "runs": RUNS,
        "tasks": TASKS,
        "resamples": resamples,
        "seconds": seconds,
        "times_as_fast": ratio(seconds["rliable"], seconds["rlab"]),
        "intervals": {name: [each.estimate, each.low, each.high] for name, each in found.items()},
    }


def main() -> None:
    """Time in turn, print, record."""
    result = measure()
    print({name: f"{np.median(each):.3f} s" for name, each in result["seconds"].items()}, result["times_as_fast"])
    record(__file__, result)


if __name__ == "__main__":
    main()
