"""What hindsight and novelty are worth where random play hardly ever meets a reward: the same run with and without.

Ten seeds of each shipped experiment of the sparse probe worlds, and ten with its switch off and all else the same.

    python -m rlab.experiments.sparse_rewards
"""

from functools import partial
from typing import Any

import rlab
from rlab.experiments.studies import control, goal, judged, record, say

SEEDS = 10
# Agent, env, the switch, and from which mean return on a seed has solved the world.
CASES = (
    ("dqn", "rlab/ProbeBitFlip-v0", "hindsight", -8.0),  # half of 15 bits are wrong: -6.5 on average; -15 is never
    ("ppo", "rlab/ProbeChain-v0", "novelty", 10.0),
    ("dqn", "rlab/ProbeChain-v0", "novelty", 10.0),
)


def main() -> None:
    """Train, judge, record; what an interrupted study has trained is not trained again."""
    results: list[dict[str, Any]] = []
    goals: list[dict[str, Any]] = []
    for agent, env, switch, solved_from in CASES:
        ways: dict[str, dict[str, Any]] = {"with": {}, "without": {switch: "none"}}
        for words, settings in ways.items():
            train = partial(rlab.train, agent, env, seeds=SEEDS, progress=True, **settings)
            name = f"sparse-{agent}-{env.partition('/')[2]}-{words}-{switch}"
            found = judged(control(name, lambda out, train=train: train(out=out)))  # type: ignore[misc]
            solved = sum(value >= solved_from for value in found["per_seed"])
            what = f"{agent} on {env} {words} {switch}: seeds that solve it"
            goals.append(goal(what, solved, at_least=9) if words == "with" else goal(what, solved, at_most=1))
            results.append({"agent": agent, "env": env, "switch": switch, words: found, "solved_from": solved_from})
            record("sparse_rewards", {"goals": goals, "results": results})
    say(f"{sum(each['holds'] for each in goals)} of {len(goals)} goals met")


if __name__ == "__main__":
    main()
