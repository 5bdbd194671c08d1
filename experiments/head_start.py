"""Does pretraining save env steps? Pretrained and fine-tuned against from scratch, with the shipped settings.

Scratch has its whole budget; what was pretrained on 20 expert episodes gets a half of it and a tenth of it, and is
judged with its final weights in the end, as scratch is.

    python -m rlab.experiments.head_start
"""

from typing import Any

import numpy as np

import rlab
from rlab import api
from rlab.evaluation.charts.curves import Series
from rlab.evaluation.differences import probability_of_improvement
from rlab.evaluation.stats import iqm
from rlab.experiments.studies import control, demonstrations, expert, goal, judged, picture, record, run_folder, say

AGENT, DEMONSTRATIONS = "double_dqn", 20
# Small steps from where the policy is, and demonstrations in half of every batch (Ball et al. 2023). In MountainCar
# these hold the policy at what the expert does, a step short of what can be done (IQM -99.6; -98.7 without them and
# with the learning rate from scratch): there the env steps that pretraining saves are spent on twice the updates.
CAREFUL: dict[str, Any] = {"demonstration_share": 0.5, "learning_rate": 3e-4}
EAGER: dict[str, Any] = {"learning_rate": 1e-3, "updates_per_learn": 128}
STUDIES: tuple[tuple[str, str, int, int, int, dict[str, Any]], ...] = (
    # env, agent of the expert, seeds, env steps from scratch, updates of pretraining, settings of fine-tuning
    ("MountainCar-v0", "double_dqn", 20, 120_000, 5_000, EAGER),
    ("LunarLander-v3", "ppo", 10, 300_000, 10_000, CAREFUL),
)
SHARES = (0.5, 0.1)  # of the budget from scratch


def scratch(env: str, seeds: int, env_steps: int) -> api.Run:
    """The control, with the shipped settings."""
    settings: dict[str, Any] = {"seeds": seeds, "env_steps": env_steps, "eval_every": env_steps // 20}
    settings["eval_episodes"] = 20
    return control(f"start-scratch-{env}", lambda out: rlab.train(AGENT, env, out=out, **settings))


def main() -> None:
    """Train, pretrain and fine-tune, compare, record."""
    goals, results = [], []
    curves: dict[str, Series] = {}
    for env, of_expert, seeds, env_steps, updates, tuning in STUDIES:
        dataset = demonstrations(f"{env}-{DEMONSTRATIONS}", expert(of_expert, env), DEMONSTRATIONS)
        say(f"{env}: from scratch, {env_steps} env steps")
        alone = scratch(env, seeds, env_steps)
        say(f"{env}: pretraining")
        pretrained = rlab.pretrain(
            "bc", dataset, agent=AGENT, out=run_folder(f"start-pretrained-{env}"), seeds=seeds, updates=updates
        )
        of_scratch = _means(alone)
        found: dict[str, Any] = {"env": env, "tuning": tuning}
        found |= {"scratch": judged(alone), "pretrained": judged(pretrained)}
        curves[f"{env}, scratch"] = alone.curve()
        for share in SHARES:
            say(f"{env}: fine-tuning, {share:.0%} of the env steps")
            given = {**tuning, "dataset": str(dataset)} if "demonstration_share" in tuning else tuning
            done = finetune(pretrained, env, int(share * env_steps), share, given)
            better = probability_of_improvement(_means(done), of_scratch)
            found[f"finetuned_{share:g}"] = {
                **judged(done),
                "env_steps": int(share * env_steps),
                "above_scratch": {"estimate": better.estimate, "ci95": [better.low, better.high]},
            }
            margin = iqm(_means(done)) - iqm(of_scratch)
            goals.append(goal(f"{env}: IQM with {share:.0%} of the env steps less that of scratch", margin, 0.0))
            if share == SHARES[0]:
                curves[f"{env}, pretrained"] = done.curve()
        results.append(found)
    record("head_start", {"agent": AGENT, "goals": goals, "results": results})
    for env, *_ in STUDIES:
        shown = {name: curve for name, curve in curves.items() if name.startswith(env)}
        picture(f"head_start-{env}", shown, "env steps", "greedy return")


def finetune(pretrained: api.Run, env: str, env_steps: int, share: float, tuning: dict[str, Any]) -> api.Run:
    """Learn online with a part of the budget."""
    return rlab.finetune(
        pretrained.path,
        agent=AGENT,
        out=run_folder(f"start-finetuned-{env}-{share:g}"),
        env_steps=env_steps,
        eval_every=max(env_steps // 10, 1_000),
        eval_episodes=20,
        **tuning,
    )


def _means(run: api.Run) -> np.ndarray:
    assert run.evaluation is not None
    return run.evaluation.per_seed_mean


if __name__ == "__main__":
    main()
