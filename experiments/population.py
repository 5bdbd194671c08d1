"""Does a population find its own settings? PBT of PPO on LunarLander from the plain defaults, ten members of a million
env steps each, against the settings that were tuned for it, which were trained for as many.

python -m rlab.experiments.population
"""

import json
from typing import Any

import numpy as np

import rlab
from rlab.evaluation.stats import iqm
from rlab.experiments.studies import HERE, RUNS, goal, record, say

ENV, ENV_STEPS, MEMBERS = "LunarLander-v3", 1_000_000, 10


def study(env: str = ENV, env_steps: int = ENV_STEPS, members: int = MEMBERS, **settings: Any) -> dict[str, Any]:
    """Train the population and its schedule on fresh seeds; what was found, and the result of the tuned settings."""
    out = RUNS / f"study-pbt-{env}"  # an interrupted one goes on
    bred = rlab.tune("ppo", env, method="pbt", seeds=members, env_steps=env_steps, out=out, progress=True, **settings)
    tuned = json.loads((HERE / "ppo-LunarLander-v3.result.json").read_text())["evaluation"]
    return {
        "env": env,
        "env_steps": env_steps,
        "members": members,
        "population_returns": bred.facts["population_returns"],
        "population_iqm": iqm(np.array(bred.facts["population_returns"])),  # of relatives, so that it has no interval
        "best_member": bred.facts["winner"]["population_return"],
        "schedule": bred.facts["winner"]["schedule"],
        "replayed": {name: bred.evaluation[name] for name in ("iqm", "ci95")},
        "tuned": {name: tuned[name] for name in ("iqm", "ci95")},
        "exploits": bred.facts["exploits"],
    }


def main() -> None:
    """Train, compare, record."""
    found = study()
    say(f"schedule on fresh seeds: {found['replayed']}; best member {found['best_member']:.1f}")
    say(f"tuned settings: {found['tuned']}")
    say(f"population: {found['population_iqm']:.1f}")
    goals = [
        goal("IQM of the population", found["population_iqm"], found["tuned"]["iqm"]),
        goal("IQM of the schedule on fresh seeds", found["replayed"]["iqm"], found["tuned"]["iqm"]),
        goal("return of the best member", found["best_member"], found["tuned"]["iqm"]),
    ]
    record("population", {"goals": goals, "results": [found]})


if __name__ == "__main__":
    main()
