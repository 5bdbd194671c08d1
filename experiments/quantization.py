"""What do fewer bits cost? Every kind of rounding, on DQN and PPO policies of three envs, ten training seeds each.

Weights-only rounding is corrected by states that the policy visits; `qat` trains beside the rounding. Parent and child
play the same 100 episodes per seed, and the agreement of their greedy actions is taken on other states.

    python -m rlab.experiments.quantization
"""

from typing import Any

from rlab.experiments.studies import compressed, goal, population, record, smaller

AGENTS, ENVS = ("ppo", "dqn"), ("CartPole-v1", "Acrobot-v1", "LunarLander-v3")
STEPS = ("fp16", "bf16", "int8", "int4", "int2", "dynamic8", "static8", "qat8", "qat4", "qat2")
STUDENTS = ("distil:12x12,int8", "distil:12x12,qat4")  # few neurons of few bits


def main() -> None:
    """Round every population in every way, judge, record."""
    rows: list[dict[str, Any]] = []
    for env in ENVS:
        for agent in AGENTS:
            source = population(agent, env)
            for steps in (*STEPS, *STUDENTS):
                rows.append(compressed(source, steps))
                record("quantization", {"results": rows})  # as it goes, since it takes long
    record("quantization", {"goals": _goals(rows), "results": rows})


def _goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        what = f"{row['parent']}, {row['steps']}"
        agreed, low = row["agreement"]["mean"], row["return_ratio"][1]
        if row["steps"] == "int8":
            found.append(goal(f"{what}: agreement", agreed, 0.999))
            found.append(goal(f"{what}: lower end of the return ratio", low, 0.98))
            found.append(goal(f"{what}: size of the weights", smaller(row, "weight_bytes"), at_most=0.30))
        if row["steps"] == "qat4":
            found.append(goal(f"{what}: agreement", agreed, 0.99))
            found.append(goal(f"{what}: lower end of the return ratio", low, 0.95))
    return found


if __name__ == "__main__":
    main()
