"""Learning from bad data: half of the transitions are random, half those of a medium policy, in CartPole-v1.

Cloning copies what is there; CQL and IQL read from the rewards which of it was good. CQL's settings were chosen on
seeds 0 to 9: IQM 173 with the defaults, 297 with 5-step targets, 482 with a weight of 0.3, 500 with 0.1, 469 with 0.03.
IQL has its defaults.

    python -m rlab.experiments.offline
"""

from pathlib import Path
from typing import Any

import rlab
from rlab import api
from rlab.evaluation.differences import probability_of_improvement
from rlab.experiments.studies import goal, judged, record, run_folder, say

ENV, FIRST_SEED, SEEDS, UPDATES = "CartPole-v1", 100, 20, 10_000
TRANSITIONS = 10_000  # or a little more, of each half
MEDIUM: dict[str, Any] = {"env_steps": 8_192, "seed": 1_000, "eval_every": 100_000}  # of PPO: stopped early
SCALING = {"obs_scaling": "fixed", "obs_scale": (2.4, 3.0, 0.2095, 3.0)}
LEARNERS: dict[str, dict[str, Any]] = {"bc": {}, "cql": {"n_step": 5, "demonstration_weight": 0.1}, "iql": {}}


def mixed() -> tuple[Path, dict[str, Any]]:
    """The dataset, and what is in it."""
    medium = rlab.train("ppo", ENV, out=run_folder("medium-ppo"), **MEDIUM)
    parts, facts = [], {}
    for name, source in (("random", None), ("medium", medium.path)):
        episodes = 400 if source is None else 20
        while True:
            path = run_folder(f"data-offline-{name}")
            if source is None:
                found = api.collect_random(ENV, path, episodes=episodes)
            else:
                found = rlab.collect(source, path, episodes=episodes, stochastic=True)
            if found.dataset.transitions >= TRANSITIONS:
                break
            episodes = episodes * TRANSITIONS // found.dataset.transitions + 1
        parts.append(path)
        facts[name] = found.dataset.summary()
    return api.merge_datasets(parts, run_folder("data-offline-mixed")).path, facts


def main() -> None:
    """Learn with each, compare over seeds, record."""
    dataset, facts = mixed()
    found, results = {}, []
    for agent, settings in LEARNERS.items():
        say(agent)
        common = {"seed": FIRST_SEED, "seeds": SEEDS, "updates": UPDATES, "eval_every": UPDATES, **SCALING, **settings}
        done = rlab.train(agent, ENV, out=run_folder(f"offline-{agent}"), dataset=str(dataset), **common)
        assert done.evaluation is not None
        found[agent] = done.evaluation.per_seed_mean
        results.append({"agent": agent, "settings": settings, **judged(done)})
        say(f"{agent}: IQM {results[-1]['iqm']:.1f}")
    goals = []
    for agent in ("cql", "iql"):
        better = probability_of_improvement(found[agent], found["bc"])
        goals.append(goal(f"{agent} above bc: lower end of the probability of improvement", better.low, 0.5))
        goals[-1]["ci95"] = [better.low, better.high]
    record("offline", {"env": ENV, "data": facts, "goals": goals, "results": results})


if __name__ == "__main__":
    main()
