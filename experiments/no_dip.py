"""Does learning online spoil what was cloned? Judged greedily every 1 000 env steps on the same 20 episodes.

    python -m rlab.experiments.no_dip
"""

from typing import Any

import numpy as np

import rlab
from rlab import api
from rlab.evaluation.plots import Curve
from rlab.experiments.studies import demonstrations, expert, goal, picture, record, run_folder, say

ENV_STEPS, EVERY, EPISODES = 10_000, 1_000, 20
KEPT = 0.9  # share of the pretrained return below which no evaluation of a seed may fall
# Small steps while the replay is young, and demonstrations in half of every batch (Ball et al. 2023).
Q_VALUES: dict[str, Any] = {"demonstration_share": 0.5, "learning_rate": 3e-4}
# First the critic learns alone; then the policy takes small steps near where it began, without a bonus for entropy.
POLICY_GRADIENT: dict[str, Any] = {"critic_warmup": 4_000, "learning_rate": 1e-4, "entropy_weight": 0.0, "num_envs": 8}
STUDIES: tuple[tuple[str, str, int, int, dict[str, Any]], ...] = (
    # env, agent, seeds, updates of pretraining, settings of fine-tuning
    ("CartPole-v1", "dqn", 20, 3_000, Q_VALUES),
    ("CartPole-v1", "ppo", 20, 3_000, POLICY_GRADIENT),
    ("LunarLander-v3", "double_dqn", 10, 10_000, Q_VALUES),
    ("LunarLander-v3", "ppo", 10, 10_000, {**POLICY_GRADIENT, "rollout_steps": 128}),
)


def main() -> None:
    """Pretrain, go on online, record every evaluation."""
    results: list[dict[str, Any]] = []
    goals: list[dict[str, Any]] = []
    curves: dict[str, Curve] = {}
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
        found = describe(pretrained, tuned)
        held = sum(lowest >= KEPT for lowest in found["lowest_share"])
        if env == "CartPole-v1":
            goals.append(goal(f"{env}, {agent}: seeds never below {KEPT} of the pretrained return", held, 18))
        say(f"{env}, {agent}: {held} of {seeds} never fall below {KEPT} of the pretrained return")
        results.append({"env": env, "agent": agent, "settings": settings, "seeds_held": held, **found})
        when, after = tuned.curve()
        before = pretrained.curve()[1][:, -1:]
        values = np.concatenate([before, after], axis=1) / before
        curves[f"{agent}, {env}"] = (np.concatenate([[0], when]), values)
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


def describe(pretrained: api.Run, tuned: api.Run) -> dict[str, Any]:
    """The pretrained return of each seed, every return after it, and the lowest of these as a share."""
    before, after = pretrained.curve()[1][:, -1], tuned.curve()[1]
    lowest = (after / before[:, None]).min(axis=1)
    return {
        "pretrained": before.round(2).tolist(),
        "online": after.round(2).tolist(),
        "lowest_share": lowest.round(4).tolist(),
    }


if __name__ == "__main__":
    main()
