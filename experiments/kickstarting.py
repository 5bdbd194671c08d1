"""Does a teacher save env steps? Agents with and without one, the same small budget, LunarLander-v3.

The teacher is a PPO expert that was trained with another seed; its share in the loss falls to 0 over half the budget,
so that what is judged in the end has learned on without it.

    python -m rlab.experiments.kickstarting
"""

from typing import Any

import rlab
from rlab.evaluation.charts.curves import Series
from rlab.evaluation.differences import probability_of_improvement
from rlab.experiments.studies import EXPERT_SEED, expert, goal, judged, picture, record, run_folder, say

ENV, SEEDS, EXPERT_AGENT = "LunarLander-v3", 10, "ppo"
STUDIES: dict[str, dict[str, Any]] = {
    "ppo": {"env_steps": 51_200, "num_envs": 16},
    "double_dqn": {"env_steps": 30_000},
}
TEACHER: dict[str, Any] = {"teacher_member": EXPERT_SEED, "teacher_weight": 1.0, "teacher_fraction": 0.5}


def main() -> None:
    """Train with and without, compare, record."""
    teacher = expert(EXPERT_AGENT, ENV)
    goals, results = [], []
    curves: dict[str, Series] = {}
    for agent, settings in STUDIES.items():
        found, means = {}, {}
        for name, further in (("alone", {}), ("with a teacher", {"teacher": str(teacher), **TEACHER})):
            say(f"{agent}, {name}")
            every = settings["env_steps"] // 10
            out = run_folder(f"kickstarting-{agent}-{len(further)}")
            done = rlab.train(
                agent, ENV, out=out, seeds=SEEDS, eval_every=every, eval_episodes=20, **settings, **further
            )
            assert done.evaluation is not None
            found[name], means[name] = judged(done), done.evaluation.per_seed_mean
            curves[f"{agent}, {name}"] = done.curve()
            say(f"{agent}, {name}: IQM {found[name]['iqm']:.1f}")
        better = probability_of_improvement(means["with a teacher"], means["alone"])
        goals.append(goal(f"{agent}: lower end of the probability that the teacher helps", better.low, 0.5))
        results.append({"agent": agent, "settings": settings, "teacher": TEACHER, **found})
    record("kickstarting", {"env": ENV, "goals": goals, "results": results})
    picture("kickstarting", curves, "env steps", "greedy return")


if __name__ == "__main__":
    main()
