"""What do fewer neurons, fewer weights and lower ranks cost? On DQN and PPO policies, ten training seeds each.

`prune` cuts neurons out and retrains, `sparse` holds weights at 0, which saves bytes and no time, `lowrank` makes two
thin layers of a wide one. Networks of 256-256 are cut to 64-64 with no more than 400 updates of retraining. Agents that
learn with `sparsity` from the start are judged beside them.

    python -m rlab.experiments.pruning
"""

from typing import Any

import rlab
from rlab.experiments.studies import compressed, goal, of_seeds, population, record, say

AGENTS, ENVS = ("ppo", "dqn"), ("CartPole-v1", "Acrobot-v1", "LunarLander-v3")
STEPS = ("prune:0.25", "prune:0.5", "prune:0.75", "lowrank:8")
SPARSE = ("sparse:0.5", "sparse:0.8", "sparse:0.9", "sparse:0.8,int8")
# Whose networks of 256-256 are cut; those of DQN on LunarLander-v3 would take hours to train.
WIDE = (("ppo", ENVS[0]), ("dqn", ENVS[0]), ("ppo", ENVS[1]), ("dqn", ENVS[1]), ("ppo", ENVS[2]))
CUT, UPDATES = "prune:0.75", 400
TRAINED = (0.5, 0.8)  # shares of zeros that agents learn with on CartPole-v1


def main() -> None:
    """Prune every population in every way, judge, record."""
    rows: list[dict[str, Any]] = []
    for agent, env in WIDE:
        wide = population(agent, env, "-256x256", hidden=(256, 256))
        rows.append(compressed(wide, CUT, updates=UPDATES))
        rows.append(compressed(wide, CUT))
        rows.append(compressed(wide, "lowrank:16"))
        record("pruning", {"results": rows})  # as it goes, since it takes long
    for env in ENVS:
        for agent in AGENTS:
            source = population(agent, env)
            for steps in (*STEPS, *SPARSE):
                rows.append(compressed(source, steps))
                record("pruning", {"results": rows})
    record("pruning", {"goals": _goals(rows), "results": rows, "trained_sparse": trained_sparse()})


def trained_sparse() -> list[dict[str, Any]]:
    """What agents reach that learn with fewer and fewer weights."""
    found = []
    for agent in AGENTS:
        for share in (0.0, *TRAINED):
            run = population(agent, ENVS[0]) if share == 0 else population(agent, ENVS[0], f"-{share}", sparsity=share)
            means = rlab.evaluate(run).per_seed_mean
            found.append({"agent": agent, "env": ENVS[0], "sparsity": share, "return": of_seeds(means)})
            say(f"{agent} trained with {share:.0%} zeros: {means.round(1).tolist()}")
    return found


def _goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        if row["parent"].endswith("256x256") and row["steps"] == CUT and row["settings"]:
            what = f"{row['parent']}, {row['steps']}, {UPDATES} updates"
            parent, child = (next(each for each in side if each["batch"] == 64)["p50_us"] for side in row["latency"])
            found.append(goal(f"{what}: agreement", row["agreement"]["mean"], 0.99))
            found.append(goal(f"{what}: times faster at batch 64", parent / child, 4.0))
    return found


if __name__ == "__main__":
    main()
