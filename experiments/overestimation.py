"""Does double DQN overestimate less than DQN? Both claim a value for the start state; then the episode is played.

Overestimation is max_a Q(s0, a) minus the discounted return that the greedy policy then collects from s0, averaged over
episodes (van Hasselt et al. 2016, figure 3, at the start state). Same settings for both, 1-step targets, final weights.

    python -m rlab.experiments.overestimation
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import rlab
from rlab.evaluation.differences import probability_of_improvement
from rlab.evaluation.stats import iqm, stratified_bootstrap

ENV = "LunarLander-v3"
SEEDS = 20
EPISODES = 20
FIRST_EPISODE_SEED = 100_000
GAMMA = 0.99
SETTINGS: dict[str, Any] = {
    "env_steps": 60_000,
    "n_step": 1,
    "gamma": GAMMA,
    "hidden": (64, 64),
    "layer_norm": False,
    "obs_scaling": "none",
    "learning_rate": 1e-3,
    "batch_size": 64,
    "replay_capacity": 60_000,
    "learn_every": 8,
    "updates_per_learn": 4,
    "target_every": 500,
    "epsilon_end": 0.1,
    "epsilon_fraction": 0.3,
    "eval_every": 60_000,
    "final_eval_episodes": 0,
}


def overestimation(agent: str) -> np.ndarray:
    """Train SEEDS members and return, for each, the mean of claimed minus realised value, `[S]`."""
    with tempfile.TemporaryDirectory() as folder:
        rlab.train(agent, ENV, experiment="none", out=folder, seeds=SEEDS, progress=True, **SETTINGS)
        policies = [rlab.load(folder, seed) for seed in range(SEEDS)]
    env = gymnasium.make(ENV)
    gaps = np.array([[gap(policy, env, FIRST_EPISODE_SEED + k) for k in range(EPISODES)] for policy in policies])
    env.close()
    mean: np.ndarray = gaps.mean(axis=1)
    return mean


def gap(policy: Any, env: gymnasium.Env, episode_seed: int) -> float:
    """What the policy claims for the start state of one episode, minus the discounted return it then collects."""
    obs, _ = env.reset(seed=episode_seed)
    claimed = policy.outputs(torch.from_numpy(obs)).max().item()
    realised, discount, ended = 0.0, 1.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        realised += discount * float(reward)
        discount *= GAMMA
        ended = terminated or truncated
    return claimed - realised


def main() -> None:
    """Measure, print, record."""
    found = {agent: overestimation(agent) for agent in ("dqn", "double_dqn")}
    less = probability_of_improvement(-found["double_dqn"], -found["dqn"])
    result = {
        "format": 1,
        "env_id": ENV,
        "settings": SETTINGS,
        "overestimation": {agent: {"per_seed": values.tolist(), "iqm": iqm(values)} for agent, values in found.items()},
        "probability_that_double_is_lower": {"estimate": less.estimate, "ci95": [less.low, less.high]},
        "holds": less.low > 0.5,
    }
    Path(__file__).with_suffix(".result.json").write_text(json.dumps(result, indent=2) + "\n")
    for agent, values in found.items():
        print(f"{agent}: overestimation {stratified_bootstrap(values)} (IQM of {SEEDS} seeds)")
    print(f"probability that double DQN overestimates less: {less}")


if __name__ == "__main__":
    main()
