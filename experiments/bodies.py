"""Is a body worth pretraining? PPO in LunarLander-v3 with a small budget, its body learned from data without rewards.

The data is a medium policy's; the encoder learns from it what actions do (inverse and forward dynamics), or which
action was taken (classification). Then the whole network is fine-tuned, its head fresh; the control starts from fresh
weights.

    python -m rlab.experiments.bodies
"""

from typing import Any

import rlab
from rlab.evaluation.charts.curves import Series
from rlab.evaluation.differences import probability_of_improvement
from rlab.experiments.studies import demonstrations, judged, picture, record, run_folder, say

ENV, AGENT, SEEDS, UPDATES = "LunarLander-v3", "ppo", 10, 3_000
MEDIUM: dict[str, Any] = {"env_steps": 51_200, "seed": 1_000}
BUDGET: dict[str, Any] = {
    "env_steps": 51_200,
    "eval_every": 5_120,
    "eval_episodes": 20,
    "experiment": "ppo-LunarLander-v3",
}
OBJECTIVES = ("inverse", "forward", "dynamics", "classification")


def main() -> None:
    """Pretrain bodies, learn with each, compare, record."""
    medium = rlab.train(AGENT, ENV, out=run_folder("bodies-medium"), **MEDIUM)
    dataset = demonstrations("bodies", medium.path, 50, stochastic=True)
    control = rlab.train(AGENT, ENV, out=run_folder("bodies-scratch"), seeds=SEEDS, **BUDGET)
    results: dict[str, Any] = {"scratch": judged(control)}
    curves: dict[str, Series] = {"scratch": control.curve()}
    for objective in OBJECTIVES:
        say(objective)
        out = run_folder(f"bodies-{objective}")
        settings: dict[str, Any] = {"seeds": SEEDS, "updates": UPDATES, "eval_every": UPDATES, "final_eval_episodes": 0}
        encoder = rlab.pretrain("encoder", dataset, agent=AGENT, out=out, objective=objective, **settings)
        done = rlab.finetune(encoder.path, agent=AGENT, out=run_folder(f"bodies-{objective}-tuned"), **BUDGET)
        assert done.evaluation is not None
        assert control.evaluation is not None
        better = probability_of_improvement(done.evaluation.per_seed_mean, control.evaluation.per_seed_mean)
        above = {"estimate": better.estimate, "ci95": [better.low, better.high]}
        results[objective] = {**judged(done), "above_scratch": above}
        curves[objective] = done.curve()
        say(f"{objective}: IQM {results[objective]['iqm']:.1f}, above scratch with probability {better}")
    record("bodies", {"env": ENV, "budget": BUDGET, "updates": UPDATES, "results": results})
    picture("bodies", curves, "env steps", "greedy return")


if __name__ == "__main__":
    main()
