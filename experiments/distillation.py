"""How small can a student be? Widths from 4 to 32, on DQN and PPO policies of three envs, ten training seeds each.

A student learns from what its teacher says of states that both visit. The largest whose parameters are at most 7 % of
the teacher's is held to the goal of Rusu et al. (2016): nothing lost. On CartPole-v1 one whose weights take less than
2 kB must reach 475 in every seed.

    python -m rlab.experiments.distillation
"""

from typing import Any

import numpy as np

from rlab.experiments.studies import compressed, goal, population, record, smaller

AGENTS, ENVS = ("ppo", "dqn"), ("CartPole-v1", "Acrobot-v1", "LunarLander-v3")
WIDTHS = (4, 8, 12, 16, 32)
SMALL = {"dqn-LunarLander-v3": 28}  # its networks have 128 neurons in a layer, all others 64
LONGER = 6_000  # updates, three times as many as by default


def main() -> None:
    """Distil every population into every width, judge, record."""
    rows: list[dict[str, Any]] = []
    for env in ENVS:
        for agent in AGENTS:
            source, small = population(agent, env), SMALL.get(f"{agent}-{env}", 12)
            for width in sorted({*WIDTHS, small}):
                rows.append(compressed(source, f"distil:{width}x{width}"))
                record("distillation", {"results": rows})  # as it goes, since it takes long
            rows.append(compressed(source, f"distil:{small}x{small}", updates=LONGER))
    record("distillation", {"goals": _goals(rows), "results": rows})


def _goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        width = SMALL.get(row["parent"], 12)
        longer = f", {LONGER} updates" if row["settings"] else ""
        what = f"{row['parent']}, {row['steps']}{longer}"
        if row["steps"] != f"distil:{width}x{width}":
            continue
        found.append(goal(f"{what}: parameters", smaller(row, "parameters"), at_most=0.07))
        found.append(goal(f"{what}: lower end of the return ratio", row["return_ratio"][1], 0.95))
        if "CartPole" in row["parent"]:
            solved = np.array(row["returns"][1]["per_seed"]) >= 475
            found.append(goal(f"{what}: bytes of the weights", row["weight_bytes"][1], at_most=2_000))
            found.append(goal(f"{what}: seeds at 475 or more", solved.sum(), 10))
    return found


if __name__ == "__main__":
    main()
