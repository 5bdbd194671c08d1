"""Does double DQN overestimate less than DQN? Both claim a value for the start state; then the episode is played.

Overestimation is max_a Q(s0, a) minus the discounted return that the greedy policy then collects from s0, averaged over
episodes (van Hasselt et al. 2016, figure 3, at the start state). Same settings for both, 1-step targets, final weights.

    python -m rlab.experiments.overestimation
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import rlab
from rlab.envs import EnvSpec, make_episodes
from rlab.evaluation.stats import iqm, probability_of_improvement, stratified_bootstrap
from rlab.runs.policies import load_policy

ENV = "LunarLander-v3"
SEEDS = 20
EPISODES = 20
FIRST_EPISODE_SEED = 100_000
GAMMA = 0.99
SETTINGS = {
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
        policy = load_policy(folder).policy
    envs = make_episodes(EnvSpec(ENV), SEEDS * EPISODES)
    obs = envs.reset([FIRST_EPISODE_SEED + k for _ in range(SEEDS) for k in range(EPISODES)])
    claimed = policy.outputs(torch.from_numpy(obs.reshape(SEEDS, EPISODES, -1))).amax(dim=-1).detach().numpy()
    realised = np.zeros(SEEDS * EPISODES)
    active, discount = np.ones(SEEDS * EPISODES, bool), 1.0
    while active.any():
        action = policy(obs.reshape(SEEDS, EPISODES, -1)).reshape(-1)
        obs, reward, terminated, truncated = envs.step(action, active)
        realised += discount * reward * active
        discount *= GAMMA
        active &= ~(terminated | truncated)
    envs.close()
    mean: np.ndarray = (claimed - realised.reshape(SEEDS, EPISODES)).mean(axis=1)
    return mean


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
