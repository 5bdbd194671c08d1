"""The switches of DQN's family combine: every pair learns a world whose values are known on paper."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.agents.dqn import DQN
from rlab.envs import PROBES
from rlab.errors import UsageError
from rlab.jobs.defaults import agent_config
from rlab.jobs.settings import merge
from rlab.networks.spaces import Box, Discrete
from rlab.types import Clock

CREDIT, GAMMA = "rlab/ProbeCredit-v0", 0.9
HEAD = "value_head"
SWITCHES: dict[str, dict[str, Any]] = {
    "double": {"agent": "double_dqn"},
    "n-step": {"n_step": 2},
    "dueling": {"dueling": True},
    "prioritised": {"replay": "prioritised"},
    "noisy": {"noisy": True},
    "c51": {HEAD: "c51", "value_min": -1.5, "value_max": 1.5},
    "qr": {HEAD: "qr", "quantiles": 8},
    "iqn": {HEAD: "iqn"},
    "munchausen": {"munchausen": True},
    "soft targets": {"target_tau": 0.1, "target_every": 8},
    "dropout": {"dropout": 0.1},
}
PAIRS = [pair for pair in combinations(SWITCHES, 2) if not all(HEAD in SWITCHES[name] for name in pair)]


def both(pair: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """The agent and the settings of two switches."""
    settings = {**SWITCHES[pair[0]], **SWITCHES[pair[1]]}
    return settings.pop("agent", "dqn"), settings


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_every_pair_of_switches_makes_an_update_in_which_every_weight_learns(pair: tuple[str, str]) -> None:
    name, settings = both(pair)
    config = merge(agent_config(name), {"hidden": (8,), **settings}, "here")
    agent: DQN = load_agent(name)(config, Box((1,), "float32", -1.0, 1.0), Discrete(2), (3, 4), torch.device("cpu"))
    obs = torch.linspace(-1, 1, 12).reshape(2, 6, 1)
    zeros, steps = torch.zeros(2, 6), torch.full((2, 6), config.n_step)
    rows = {"obs": obs, "next_obs": obs.flip(1), "action": steps % 2, "reward": torch.ones(2, 6, config.n_step)}
    rows |= {"terminated": zeros.bool(), "truncated": zeros.bool(), "steps": steps, "weight": zeros + 0.5}
    before = {key: value.clone() for key, value in agent.q_network.state_dict().items()}
    now = agent.scheduled(Clock(0, 10))
    updated = agent.update(agent.prepare(rows), now)
    assert updated.feedback is not None
    assert updated.feedback.shape == (2, 6)
    assert all(value.isfinite().all() for value in updated.metrics.values())
    still = [key for key, value in agent.q_network.state_dict().items() if torch.equal(value, before[key])]
    assert not still


@pytest.mark.prove
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_every_pair_of_switches_learns_to_act_in_every_seed(pair: tuple[str, str], tmp_path: Path) -> None:
    agent, settings = both(pair)
    budget = {"experiment": "none", "env_steps": 4_000, "eval_every": 10**6, "eval_episodes": 1, "seeds": 10}
    run = rlab.train(agent, CREDIT, out=tmp_path / "run", gamma=GAMMA, final_eval_episodes=20, **budget, **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns == PROBES[CREDIT].episode_return).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"priority_alpha": 0.5}, "--priority-alpha has no effect here: replay is uniform"),
        ({"noisy": True, "epsilon_end": 0.1}, "--epsilon-end has no effect here: noisy layers explore instead"),
        ({"noisy_sigma": 0.1}, "--noisy-sigma has no effect here: noisy is off"),
    ],
)
def test_a_setting_whose_switch_is_off_is_refused_in_one_line(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", experiment="none", **settings)
