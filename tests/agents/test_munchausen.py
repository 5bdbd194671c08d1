"""Munchausen targets as a switch of DQN and double DQN, on numbers worked by hand and in a probe world."""

from math import exp, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rlab
from rlab.agents.dqn import DQNConfig
from rlab.envs import PROBES, ProbeValue
from rlab.errors import UsageError
from rlab.learning.munchausen import Munchausen
from rlab.runs.policies import load_policy

CREDIT = "rlab/ProbeCredit-v0"


def test_a_reward_grows_by_the_clipped_log_probability_of_what_was_done() -> None:
    # a softmax at temperature 2 of values 2 ln 3 apart: 3/4 and 1/4
    q = torch.tensor([[2.0 * log(3.0), 0.0]] * 3)
    added = Munchausen(alpha=0.5, temperature=2.0, clip=-2.0).reward(q, torch.tensor([0, 1, 1]))
    assert added.tolist() == pytest.approx([0.5 * 2.0 * log(0.75), 0.5 * -2.0, 0.5 * -2.0])  # 2 ln(1/4) is -2.8
    assert Munchausen(0.5, 2.0, -9.0).reward(q[:1], torch.tensor([1])).item() == pytest.approx(0.5 * 2.0 * log(0.25))


def test_what_comes_next_is_the_mean_and_the_entropy_of_the_softmax_over_what_is_allowed() -> None:
    soft = Munchausen(alpha=0.9, temperature=0.5, clip=-1.0)
    policy = soft.policy(torch.tensor([0.5 * log(3.0), 0.0, -torch.inf]))
    assert policy.tolist() == pytest.approx([0.75, 0.25, 0.0])
    assert soft.bonus(policy).item() == pytest.approx(0.5 * (0.75 * log(4 / 3) + 0.25 * log(4.0)))


@pytest.mark.parametrize("name", ["dqn", "double_dqn"])
def test_the_loss_is_that_of_equation_two(lab: SimpleNamespace, name: str) -> None:
    settings: dict[str, Any] = {"munchausen_alpha": 0.5, "munchausen_temperature": 2.0, "munchausen_clip": -9.0}
    agent = lab.table_agent(name, gamma=0.5, loss="squared", munchausen=True, **settings)
    # what comes next is worth 4 and 6 to the target network; double DQN's softmax is over 4 and 2
    lab.set_table(agent.q_network, [[0.0, 0.0], [4.0, 2.0], [0.0, 0.0]])
    lab.set_table(agent.target_network, [[0.0, 2.0], [4.0, 6.0], [0.0, 0.0]])
    loss = agent.loss(agent.prepare(lab.windows([0], [0], [[1.0]], [1], [False])))[0].item()
    likely = 1.0 / (1.0 + exp(-1.0))  # of the better of two actions whose values are 2 apart
    share = likely if name == "dqn" else 1.0 - likely  # of the second next action
    value = share * (6.0 - 2.0 * log(share)) + (1.0 - share) * (4.0 - 2.0 * log(1.0 - share))
    target = 1.0 + 0.5 * 2.0 * log(1.0 - likely) + 0.5 * value
    assert loss == pytest.approx(0.5 * target**2)


def credit_values(gamma: float, alpha: float = 0.9, tau: float = 0.03) -> list[ProbeValue]:
    """In -1 and 1 both actions have the chance 1/2, whose log is added to the reward and the entropy to the value; in 0
    the wrong action is so unlikely that its log probability is clipped to -1, and the right one is certain."""
    half = tau * log(2.0)
    last = {x: x - alpha * half for x in (-1.0, 1.0)}  # Q, and V is higher by the entropy
    first = {0: gamma * (last[-1.0] + half) - alpha, 1: gamma * (last[1.0] + half)}
    rows = [ProbeValue((0.0,), action, value) for action, value in first.items()]
    return [*rows, *(ProbeValue((x,), action, last[x]) for x in last for action in (0, 1))]


@pytest.mark.parametrize("name", ["dqn", pytest.param("double_dqn", marks=pytest.mark.prove)])
def test_it_learns_the_values_known_on_paper(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"munchausen": True, "target_every": 25, "epsilon_end": 0.3, "gamma": 0.9}
    budget: dict[str, Any] = {"experiment": "none", "env_steps": 2_500, "eval_every": 10**6, "seeds": 3}
    run = rlab.train(name, CREDIT, out=tmp_path / "run", final_eval_episodes=5, **budget, **settings)
    assert run.evaluation is not None
    assert (run.evaluation.returns == PROBES[CREDIT].episode_return).all()
    policy = load_policy(run.path).policy
    for row in credit_values(0.9):
        q = policy.outputs(torch.tensor(row.obs).expand(3, 1, -1))[:, 0]
        assert (q[:, row.action] - row.value).abs().max() < 0.05, row


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"munchausen_clip 1\.0 must be 0 or less"):
        DQNConfig(munchausen_clip=1.0)
    with pytest.raises(UsageError, match=r"munchausen_temperature 0\.0 must be above 0"):
        DQNConfig(munchausen_temperature=0.0)
