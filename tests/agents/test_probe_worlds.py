"""The plain defaults of every agent that learns Q values from replay find those known on paper in all probe worlds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.agents import AGENTS, load_agent
from rlab.envs import PROBES
from rlab.runs.policies import load_policy

GAMMA = 0.9
OFF_POLICY = sorted(name for name in AGENTS if load_agent(name).data == "replay" and "q" in load_agent(name).heads)
OFF_POLICY.remove("rainbow")  # noise explores, so that of what is never done again nothing is known: test_rainbow.py


def train(agent: str, env_id: str, out: Path, seeds: int, env_steps: int) -> Any:
    settings = {"gamma": GAMMA, "seeds": seeds, "env_steps": env_steps, "eval_every": env_steps, "eval_episodes": 2}
    return rlab.train(agent, env_id, experiment="none", out=out, final_eval_episodes=20, **settings)


def check_solved(agent: str, env_id: str, out: Path, seeds: int, env_steps: int, tolerance: float) -> None:
    """Q and V within `tolerance` of the paper, as a share of the largest value, and the best possible return."""
    world = PROBES[env_id]
    run = train(agent, env_id, out, seeds, env_steps)
    policy = load_policy(out).policy
    known = world.values(GAMMA)
    scale = max(abs(row.value) for row in known)
    for row in known:
        q = policy.outputs(torch.tensor(row.obs).expand(seeds, 1, -1)).detach()[:, 0]  # [S, A]
        learned = q.amax(dim=-1) if row.action is None else q[:, row.action]
        worst = (learned - row.value).abs().max().item()
        assert worst <= tolerance * scale, f"{row} was learned as {learned.tolist()}"
    if env_id == "rlab/ProbeObservation-v0":
        return  # its return is its first coin, whatever one does
    np.testing.assert_allclose(run.evaluation.returns, world.episode_return)


# `make prove` has both in each, and the switches of the family.
DAILY = [("dqn", "rlab/ProbeCredit-v0"), ("double_dqn", "rlab/ProbeActionObservation-v0")]


@pytest.mark.parametrize(("agent", "env_id"), DAILY)
def test_plain_defaults_solve_a_probe_world(agent: str, env_id: str, tmp_path: Path) -> None:
    check_solved(agent, env_id, tmp_path / "run", seeds=3, env_steps=2_500, tolerance=0.02)


@pytest.mark.prove
@pytest.mark.parametrize("env_id", sorted(PROBES))
@pytest.mark.parametrize("agent", OFF_POLICY)
def test_plain_defaults_solve_a_probe_world_in_ten_of_ten_seeds(agent: str, env_id: str, tmp_path: Path) -> None:
    check_solved(agent, env_id, tmp_path / "run", seeds=10, env_steps=20_000, tolerance=0.02)


SWITCHES = ({"n_step": 3}, {"dueling": True}, {"target_tau": 0.2, "target_every": 8})


@pytest.mark.prove
@pytest.mark.parametrize("settings", SWITCHES, ids=str)
def test_the_switches_of_the_family_keep_the_values(settings: dict[str, Any], tmp_path: Path) -> None:
    # A time limit is where a wrong switch shows: windows of n steps are cut by it, and the value is 1 / (1 - 0.9).
    budget = {"env_steps": 5_000, "eval_every": 5_000, "eval_episodes": 2, "final_eval_episodes": 0, "seeds": 2}
    tuned = {"target_every": 50, "learning_rate": 3e-3, "lr_schedule": "linear", **settings}
    out = tmp_path / "run"
    rlab.train("dqn", "rlab/ProbeEndless-v0", experiment="none", gamma=GAMMA, out=out, **budget, **tuned)
    q = load_policy(out).policy.outputs(torch.zeros(2, 1, 1)).detach()
    torch.testing.assert_close(q, torch.full_like(q, 10.0), rtol=0.02, atol=0.0)
