"""How good is a policy that was cloned from a few expert episodes, before it has met its env?

Every training seed draws its own episodes from a larger recording, so that the spread over seeds holds the luck of the
demonstrations too. The final weights are judged on episodes that nobody learned from.

    python -m rlab.experiments.cloning
"""

from typing import Any

import numpy as np

import rlab
from rlab import api
from rlab.experiments.studies import demonstrations, expert, goal, judged, of_seeds, record, run_folder, say

RECORDED = 200  # expert episodes, of which each seed draws its own
STUDIES: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    # env, episodes of each seed, seeds, settings
    ("CartPole-v1", 20, 20, {"updates": 3_000, "eval_every": 3_000}),
    ("CartPole-v1", 1, 20, {"updates": 3_000, "eval_every": 3_000}),
    ("LunarLander-v3", 20, 10, {"updates": 10_000, "eval_every": 10_000}),
    ("LunarLander-v3", 1, 10, {"updates": 10_000, "eval_every": 10_000}),
)
LEARNERS = ("ppo", "double_dqn")  # whose networks are cloned: logits and Q values


def clone(env: str, agent: str, dataset: Any, episodes: int, seeds: int, settings: dict[str, Any]) -> api.Run:
    """Clone with `seeds` members, each from `episodes` episodes of its own."""
    out = run_folder(f"clone-{agent}-{env}-{episodes}")
    return rlab.pretrain("bc", dataset, agent=agent, out=out, seeds=seeds, dataset_episodes=episodes, **settings)


def main() -> None:
    """Clone, judge, record."""
    results, goals, experts = [], [], {}
    for env, episodes, seeds, settings in STUDIES:
        source = expert("ppo", env)
        dataset = demonstrations(f"{env}-expert", source, RECORDED)
        experts[env] = rlab.evaluate(source).per_seed_mean.mean()
        for agent in LEARNERS:
            say(f"{env}: {agent} from {episodes} episodes")
            done = clone(env, agent, dataset, episodes, seeds, settings)
            assert done.evaluation is not None
            means = done.evaluation.per_seed_mean
            results.append({"env": env, "agent": agent, "episodes": episodes, "settings": settings, **judged(done)})
            goals.append(_goal(env, agent, episodes, means, experts[env]))
    expert_returns = {env: float(value) for env, value in experts.items()}
    record("cloning", {"expert_return": expert_returns, "goals": [g for g in goals if g], "results": results})


def _goal(env: str, agent: str, episodes: int, means: np.ndarray, of_expert: float) -> dict[str, Any] | None:
    what = f"{env}, {agent}, {episodes} episodes"
    found = of_seeds(means)
    if env == "CartPole-v1" and episodes == 20:
        return goal(f"{what}: seeds at 475 or more", (means >= 475).sum(), 19)
    if env == "CartPole-v1":
        return goal(f"{what}: IQM", found["iqm"], 475)
    if episodes == 20:
        return goal(f"{what}: IQM over the expert's return", found["iqm"] / of_expert, 0.95)
    say(f"{what}: IQM {found['iqm']:.1f}, the expert has {of_expert:.1f}")
    return None


if __name__ == "__main__":
    main()
