"""Novelty in whole runs: a chain whose far end pays, which without it is hardly ever reached."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.agents import AGENTS, load_agent
from rlab.networks.spaces import Discrete
from rlab.runs.logs import read_json_lines
from rlab.runs.policies import load_policy

SMALL: dict[str, Any] = {"num_envs": 4, "experiment": "none", "eval_every": 0, "final_eval_episodes": 1}


ONLINE = sorted(name for name in AGENTS if getattr(load_agent(name), "data", "") in ("replay", "rollout"))


EVERY_DAY = ("rainbow", "td3", "a2c", "ppo gru")  # replay and rollouts, choices and numbers, memory


@pytest.mark.parametrize(
    "agent",
    [*EVERY_DAY, *(pytest.param(name, marks=pytest.mark.prove) for name in ONLINE if name not in EVERY_DAY)],
)
def test_every_agent_that_acts_takes_novelty_and_its_returns_stay_the_env_s(agent: str, tmp_path: Path) -> None:
    agent, _, memory = agent.partition(" ")
    kind: Any = load_agent(agent)
    env = "rlab/ProbeCredit-v0" if Discrete in kind.action_spaces else "rlab/ProbeContinuous-v0"
    own: dict[str, Any] = {"learning_starts": 32, "batch_size": 8} if kind.data == "replay" else {"rollout_steps": 16}
    own |= {"hidden": (16,)} | ({"memory": memory} if memory else {}) | ({"utd": 1} if agent == "droq" else {})
    settings = {**SMALL, **own, "env_steps": 256, "log_every": 64, "novelty": "rnd", "novelty_weight": 3.0}
    rlab.train(agent, env, out=tmp_path / "run", seeds=2, **settings)
    _, rows = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert {len(rows[-1][name]) for name in ("loss/novelty", "novelty/reward")} == {2}
    assert min(rows[-1]["novelty/reward"]) > 0.0
    if env == "rlab/ProbeCredit-v0":
        assert (
            max(map(abs, rows[-1]["train/episode_return"])) <= 1.0
        )  # though a reward for novelty has a size near 1 too
    names = load_policy(tmp_path / "run").policy.state_dict()
    assert not any("novelty" in name for name in names)


@pytest.mark.parametrize("agent", ["ppo", pytest.param("dqn", marks=pytest.mark.prove)])
def test_a_member_learns_with_novelty_what_it_learns_alone(agent: str, tmp_path: Path) -> None:
    own = {"rollout_steps": 20} if agent == "ppo" else {"n_step": 2, "learning_starts": 60}
    settings = {**SMALL, **own, "env_steps": 400, "novelty": "rnd", "hidden": (16,)}
    rlab.train(agent, "rlab/ProbeChain-v0", out=tmp_path / "both", seeds=2, seed=4, **settings)
    rlab.train(agent, "rlab/ProbeChain-v0", out=tmp_path / "alone", seeds=1, seed=5, **settings)
    both, alone = (load_policy(tmp_path / name).policy.state_dict() for name in ("both", "alone"))
    for name, value in alone.items():
        # a few hundred updates whose sums may be rounded otherwise in a larger stack
        np.testing.assert_allclose(value[0].numpy(), both[name][1].numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_fine_tuned_policy_takes_novelty(tmp_path: Path) -> None:
    settings = {**SMALL, "rollout_steps": 16, "env_steps": 128}
    rlab.train("ppo", "CartPole-v1", out=tmp_path / "first", **settings)
    settings.pop("experiment")
    run = rlab.finetune(tmp_path / "first", out=tmp_path / "second", novelty="rnd", **settings)
    assert run.finished
