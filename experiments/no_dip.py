"""Does learning online spoil what was cloned? Judged greedily every 1 000 env steps on the same 20 episodes.

python -m rlab.experiments.no_dip
"""

from typing import Any

import rlab
from rlab import api
from rlab.evaluation.charts.curves import Series
from rlab.experiments.studies import demonstrations, expert, goal, picture, record, run_folder, say

ENV_STEPS, EVERY, EPISODES = 10_000, 1_000, 20
KEPT = 0.9  # share of the pretrained return below which no evaluation of a seed may fall
# Fine-tuning as it comes: smaller steps, exploration no more than the policy's own, and a fresh critic that first
# learns alone, here for 4 000 env steps; for Q values demonstrations in half of every batch (Ball et al. 2023).
Q_VALUES: dict[str, Any] = {"demonstration_share": 0.5}
POLICY_GRADIENT: dict[str, Any] = {"critic_warmup": 4_000}
STUDIES: tuple[tuple[str, str, int, int, dict[str, Any]], ...] = (
    # env, agent, seeds, updates of pretraining, settings of fine-tuning
    ("CartPole-v1", "dqn", 20, 3_000, Q_VALUES),
    ("CartPole-v1", "ppo", 20, 3_000, POLICY_GRADIENT),
    ("LunarLander-v3", "double_dqn", 10, 10_000, Q_VALUES),
    ("LunarLander-v3", "ppo", 10, 10_000, POLICY_GRADIENT),
)


def main() -> None:
    """Pretrain, go on online, record every evaluation."""
    results: list[dict[str, Any]] = []
    goals: list[dict[str, Any]] = []
    curves: dict[str, Series] = {}
    for env, agent, seeds, updates, settings in STUDIES:
        say(f"{env}: {agent}")
        dataset = demonstrations(f"{env}-20", expert("ppo", env), 20)
        pretrained = rlab.pretrain(
            "bc",
            dataset,
            agent=agent,
            out=run_folder(f"dip-{agent}-{env}-pretrained"),
            seeds=seeds,
            updates=updates,
            eval_every=updates,
            eval_episodes=EPISODES,
            final_eval_episodes=0,
        )
        tuned = online(pretrained, agent, {**settings, "dataset": str(dataset)} if agent != "ppo" else settings)
        found = describe(tuned)
        held = sum(lowest >= KEPT for lowest in found["lowest_share"])
        if env == "CartPole-v1":
            goals.append(goal(f"{env}, {agent}: seeds never below {KEPT} of the pretrained return", held, 18))
        say(f"{env}, {agent}: {held} of {seeds} never fall below {KEPT} of the pretrained return")
        results.append({"env": env, "agent": agent, "settings": settings, "seeds_held": held, **found})
        when, returns = tuned.curve()  # the first is what it began with
        curves[f"{agent}, {env}"] = (when, returns / returns[:, :1])
    record("no_dip", {"goals": goals, "results": results})
    picture("no_dip", curves, "env steps after pretraining", "greedy return / pretrained return")


def online(pretrained: api.Run, agent: str, settings: dict[str, Any]) -> api.Run:
    """The first env steps after pretraining, judged again and again."""
    return rlab.finetune(
        pretrained.path,
        agent=agent,
        out=run_folder(f"{pretrained.path.name}-online"),
        env_steps=ENV_STEPS,
        eval_every=EVERY,
        eval_episodes=EPISODES,
        final_eval_episodes=0,
        **settings,
    )


def describe(tuned: api.Run) -> dict[str, Any]:
    """The pretrained return of each seed, every return after it, and the lowest of these as a share."""
    returns = tuned.curve()[1]
    before, after = returns[:, 0], returns[:, 1:]
    lowest = (after / before[:, None]).min(axis=1)
    return {
        "pretrained": before.round(2).tolist(),
        "online": after.round(2).tolist(),
        "lowest_share": lowest.round(4).tolist(),
    }


if __name__ == "__main__":
    main()
