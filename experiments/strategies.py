"""Every fine-tuning strategy against training from scratch: CartPole-v1 with a longer pole under stronger gravity.

A population of PPO agents that solve the plain env goes on in the changed one, each seed from its own weights.

    python -m rlab.experiments.strategies
"""

from pathlib import Path
from typing import Any

import numpy as np

import rlab
from rlab import api
from rlab.evaluation.charts.curves import Series
from rlab.evaluation.differences import probability_of_improvement
from rlab.evaluation.stats import iqm
from rlab.experiments.studies import RUNS, control, goal, judged, of_seeds, picture, record, run_folder, say

ENV, CHANGED, SEEDS = "CartPole-v1", "CartPolePhysics:length=2,gravity=20", 20
COMMON: dict[str, Any] = {
    "experiment": "ppo-CartPole-v1",
    "env_steps": 40_000,
    "eval_every": 4_000,
    "eval_episodes": 20,
}
# Smaller steps than from scratch, and a bonus for entropy: a policy that is sure of itself finds nothing new.
TUNING: dict[str, Any] = {"learning_rate": 3e-4, "entropy_weight": 0.01}
STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {},
    "head": {"strategy": "head"},
    "last-2": {"strategy": "last-2"},
    "gradual": {"strategy": "gradual", "unfreeze_every": 5_000},
    "discriminative": {"strategy": "discriminative"},
    "lora": {"strategy": "lora", "lora_rank": 2, "lora_alpha": 8.0},
}
LORA_SHARE = 0.2  # the most of the policy's parameters that LoRA may train


def source() -> Path:
    """The population that solves the plain env."""
    path = RUNS / "strategies-source"
    if not (path / "result.json").exists():
        rlab.train("ppo", ENV, out=run_folder(path.name), seeds=SEEDS)
    return path


def scratch() -> api.Run:
    """The control: the same budget and env from fresh weights, with the settings tuned for that."""
    return control(
        "strategies-scratch", lambda out: rlab.train("ppo", ENV, wrappers=[CHANGED], out=out, seeds=SEEDS, **COMMON)
    )


def main() -> None:
    """Fine-tune with every strategy, compare, record."""
    begun = source()
    before = api.evaluate(begun, wrappers=[CHANGED]).per_seed_mean
    alone = scratch()
    results: dict[str, Any] = {"before": of_seeds(before), "scratch": judged(alone)}
    curves: dict[str, Series] = {"scratch": alone.curve()}
    means = {"scratch": _means(alone)}
    for name, settings in STRATEGIES.items():
        say(f"strategy {name}")
        out = run_folder(f"strategies-{name}")
        done = rlab.finetune(begun, ENV, wrappers=[CHANGED], out=out, **COMMON, **TUNING, **settings)
        curves[name], means[name] = done.curve(), _means(done)
        against = probability_of_improvement(means[name], means["scratch"])
        improvement = {"estimate": against.estimate, "ci95": [against.low, against.high]}
        results[name] = {**judged(done), "settings": settings, "learns": done.trainable, "above_scratch": improvement}
        say(f"{name}: IQM {results[name]['iqm']:.1f}, {done.trainable:.1%} of the policy learns")
    goals = [
        goal("lora: IQM over that of full fine-tuning", iqm(means["lora"]) / iqm(means["full"]), 0.98),
        goal("lora: share of the policy's parameters that stands still", 1 - results["lora"]["learns"], 1 - LORA_SHARE),
    ]
    settings = {"env": CHANGED, "common": COMMON, "tuning": TUNING}
    record("strategies", {**settings, "goals": goals, "results": results})
    picture("strategies", curves, "env steps in the changed env", "greedy return")


def _means(run: api.Run) -> np.ndarray:
    assert run.evaluation is not None
    return run.evaluation.per_seed_mean


if __name__ == "__main__":
    main()
