"""What `rlab tune` finds from the plain defaults: DQN on CartPole, 40 trials on two cores in half an hour.

Seeds 0 to 4 search, twenty others choose among the best five trials and the defaults, and twenty others again are
reported.

    python -m rlab.experiments.tuning
"""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab.experiments.studies import goal, record, say

AGENT, ENV = "dqn", "CartPole-v1"
FOLDER = Path("studies/tuning")
# The ranges that the config states, but for what costs much time and little return on four observations: the widest
# network, the largest batches, and more than one update for every two env steps.
RANGES: dict[str, Any] = {
    "hidden": ["None", [64], [128, 128]],  # None: 64 64
    "batch_size": {"low": 32, "high": 256},
    "updates_per_learn": {"low": 1, "high": 4},
}
SEARCH: dict[str, Any] = {"env_steps": 50_000, "seeds": 5, "trials": 40, "jobs": 2}
JUDGED: dict[str, Any] = {"finalists": 5, "finalist_seeds": 20, "report_seeds": 20}
SOLVED = 475.0  # mean return of a seed; Gymnasium's bound for CartPole-v1
LEAST, MINUTES = 19, 30  # of twenty seeds that chose nothing; on two cores


def searched(folder: Path, **settings: Any) -> tuple[Any, float]:
    """The search and the minutes that it took; settings of the call over those above."""
    began = time.monotonic()
    tuned = rlab.tune(AGENT, ENV, out=folder, ranges=RANGES, progress=True, **(SEARCH | JUDGED | settings))
    return tuned, (time.monotonic() - began) / 60.0


def summary(tuned: Any) -> dict[str, Any]:
    """What is recorded of it: what was found, on which seeds, and beside what."""
    means = {row["seed"]: row["return_mean"] for row in tuned.evaluation["per_seed"]}
    history = tuned.history()
    states = [row["state"] for row in history]
    return {
        "settings": tuned.settings,
        "ranges": tuned.facts["space"],
        "seeds": tuned.facts["seeds"],
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "importance": tuned.facts["importance"],
        "finalists": [
            {name: each[name] for name in ("trial", "start", "search_iqm", "iqm", "per_seed")}
            for each in tuned.facts["finalists"]
        ],
        "defaults_solved": [
            int((np.array(each["per_seed"]) >= SOLVED).sum()) for each in tuned.facts["finalists"] if each["start"]
        ],
        "per_seed": means,
        "solved": sum(mean >= SOLVED for mean in means.values()),
        "iqm": tuned.evaluation["iqm"],
        "ci95": tuned.evaluation["ci95"],
    }


def main() -> None:
    """Search, say, record."""
    if FOLDER.exists():
        shutil.rmtree(FOLDER)  # the goal is about a whole search
    tuned, minutes = searched(FOLDER)
    found = summary(tuned)
    say(tuned.report())
    goals = [
        goal(f"of 20 fresh seeds with a mean return of {SOLVED:g} or more", found["solved"], at_least=LEAST),
        goal("minutes", minutes, at_most=MINUTES),
    ]
    record("tuning", {"goals": goals, "minutes": round(minutes, 1), **SEARCH, **JUDGED, **found})


if __name__ == "__main__":
    main()
