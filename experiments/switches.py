"""Which switches of DQN's family hold together? CartPole-v1 in the budget of its experiment file: each switch alone on
double DQN, every two of five of them together, and Rainbow with each of its parts taken away, as in Hessel et al. 2018,
figure 3.

    python -m rlab.experiments.switches
"""

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import Any

import rlab
from rlab.evaluation.charts.curves import Series
from rlab.experiments.studies import control, judged, picture, record, say

ENV, SEEDS = "CartPole-v1", 10
FILE, RAINBOW_FILE = "dqn-CartPole-v1-25k", "rainbow-CartPole-v1"
SUPPORT: dict[str, Any] = {"value_head": "c51", "value_min": 0.0, "value_max": 100.0}
ALONE: dict[str, dict[str, Any]] = {
    "double_dqn": {},
    "double_dqn with one step": {"n_step": 1},
    "dueling": {"dueling": True},
    "prioritised": {"replay": "prioritised"},
    "noisy": {"noisy": True},
    "c51": SUPPORT,
    "qr": {"value_head": "qr"},
    "iqn": {"value_head": "iqn"},
    "munchausen": {"munchausen": True},
}
PAIRS = {
    f"{one} and {other}": ALONE[one] | ALONE[other]
    for one, other in combinations(("dueling", "prioritised", "noisy", "c51", "munchausen"), 2)
}
WITHOUT: dict[str, dict[str, Any]] = {
    "rainbow": {},
    "rainbow without dueling": {"dueling": False},
    "rainbow without priorities": {"replay": "uniform"},
    "rainbow without noise": {"noisy": False},
    "rainbow without a distribution": {"value_head": "q"},
    "rainbow with one step": {"n_step": 1},
}


def main() -> None:
    """Train, judge, record; what an interrupted study has trained is not trained again."""
    results: dict[str, Any] = {}
    alone = family(results, "double_dqn", FILE, ALONE)
    picture("switches-double_dqn", alone, "env steps", "greedy return")
    without = family(results, "rainbow", RAINBOW_FILE, WITHOUT)
    picture("switches-rainbow", without, "env steps", "greedy return")
    family(results, "double_dqn", FILE, PAIRS)


def family(results: dict[str, Any], agent: str, file: str, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Series]:
    """The curves of an agent with each of several settings over its file's; `results` takes what they reach."""
    curves: dict[str, Series] = {}
    for name, settings in cases.items():
        train = partial(rlab.train, agent, ENV, experiment=file, seeds=SEEDS, **settings)
        run = control(f"switches-{name.replace(' ', '-')}", lambda out, train=train: train(out=out))  # type: ignore[misc]
        results[name], curves[name.removeprefix("rainbow ")] = judged(run), run.curve()
        say(f"{name}: IQM {results[name]['iqm']:.1f}")
        record("switches", {"env": ENV, "results": results})
    return curves


if __name__ == "__main__":
    main()
