"""Which switches of DQN's family hold together? CartPole-v1 in the budget of its experiment file: each switch alone on
double DQN, and Rainbow with each of its parts taken away, as in Hessel et al. 2018, figure 3.

    python -m rlab.experiments.switches
"""

from functools import partial
from typing import Any

import rlab
from rlab.evaluation.charts.curves import Series
from rlab.experiments.studies import control, judged, picture, record, say

ENV, SEEDS = "CartPole-v1", 10
FILE, RAINBOW_FILE = "dqn-CartPole-v1-25k", "rainbow-CartPole-v1"
SUPPORT: dict[str, Any] = {"value_head": "c51", "value_min": 0.0, "value_max": 100.0}
ALONE: dict[str, dict[str, Any]] = {
    "double_dqn": {},
    "dueling": {"dueling": True},
    "prioritised": {"replay": "prioritised"},
    "noisy": {"noisy": True},
    "c51": SUPPORT,
    "qr": {"value_head": "qr"},
    "iqn": {"value_head": "iqn"},
    "munchausen": {"munchausen": True},
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
    for agent, file, cases in (("double_dqn", FILE, ALONE), ("rainbow", RAINBOW_FILE, WITHOUT)):
        curves: dict[str, Series] = {}
        for name, settings in cases.items():
            train = partial(rlab.train, agent, ENV, experiment=file, seeds=SEEDS, **settings)
            run = control(f"switches-{name.replace(' ', '-')}", lambda out, train=train: train(out=out))  # type: ignore[misc]
            results[name], curves[name.removeprefix("rainbow ")] = judged(run), run.curve()
            say(f"{name}: IQM {results[name]['iqm']:.1f}")
            record("switches", {"env": ENV, "results": results})
        picture(f"switches-{agent}", curves, "env steps", "greedy return")


if __name__ == "__main__":
    main()
