"""With value rescaling the head predicts rescaled returns, and what is learned is what the world pays."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.envs import PROBES
from rlab.errors import UsageError
from rlab.learning.returns import rescaled, unscaled
from rlab.runs.policies import load_policy

DELAYED = "rlab/ProbeDelayed-v0"


@pytest.mark.parametrize("name", ["dqn", "double_dqn"])
def test_a_target_on_numbers_worked_by_hand(lab: SimpleNamespace, name: str) -> None:
    agent = lab.table_agent(name, value_rescaling=True, gamma=0.5, loss="squared")
    lab.set_table(agent.q_network, [[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    # the network says 2.008 of the best action in state 2, which is a return of 8: sqrt(8 + 1) - 1 + 0.008
    lab.set_table(agent.target_network, [[0.0, 0.0], [0.0, 0.0], [0.5, 2.008]])
    batch = agent.prepare(lab.windows([0, 1], [0, 1], [[4.0], [3.0]], [2, 2], [False, True]))
    _, _, error = agent.loss(agent.replayed.rows(batch))
    # 4 + 0.5 * 8 = 8, whose rescaled value is 2.008; where the world ended 3 alone: sqrt(3 + 1) - 1 + 0.003
    torch.testing.assert_close(error, torch.tensor([[2.008, 1.003]]))


def test_it_combines_with_the_plain_head_alone() -> None:
    config: Any = load_agent("dqn").Config
    with pytest.raises(UsageError, match="value_rescaling and munchausen do not combine"):
        config(value_rescaling=True, munchausen=True)
    with pytest.raises(UsageError, match="--value-rescaling has no effect here: it is for value_head q"):
        rlab.train("dqn", DELAYED, value_head="qr", value_rescaling=True, env_steps=100)


MEMORY = {"memory": "gru", "memory_size": 8, "sequence_length": 4, "burn_in": 2}


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize("more", [{}, pytest.param(MEMORY, marks=pytest.mark.prove)], ids=["plain", "memory"])
def test_the_values_are_those_known_on_paper(more: dict[str, Any], tmp_path: Path) -> None:
    settings = {"experiment": "none", "eval_every": 10**6, "final_eval_episodes": 1, "env_steps": 1_500, "seeds": 3}
    settings |= {"gamma": 0.9, "batch_size": 32, "learning_rate": 5e-3, "target_every": 50, "layer_norm": False}
    run = rlab.train("dqn", DELAYED, out=tmp_path / "run", value_rescaling=True, **{**settings, **more})
    policy = load_policy(run.path).policy
    state = policy.initial_state(1)
    worth = {row.obs: row.value for row in PROBES[DELAYED].values(0.9) if row.action is None}
    for obs, value in worth.items():  # in the order in which they are seen
        with torch.no_grad():
            outputs, state = policy.step(torch.tensor(obs).expand(3, 1, 1), state)
        assert (unscaled(policy.head.values(outputs)) - value).abs().max().item() <= 0.05
    assert rescaled(torch.tensor(1.0)).item() == pytest.approx(0.41521, abs=1e-5)  # sqrt(2) - 1 + 0.001
