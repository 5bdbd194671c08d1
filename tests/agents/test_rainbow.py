"""Rainbow is the paper's preset of the family's switches, and its plain defaults solve the probe worlds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.envs import PROBES
from rlab.errors import RlabWarning
from rlab.jobs.defaults import agent_config
from rlab.learning.value_losses import value_loss
from rlab.networks.heads import build_head
from rlab.networks.spaces import Discrete
from rlab.runs.policies import load_policy

GAMMA = 0.9


def check_solved(env_id: str, out: Path, seeds: int, env_steps: int) -> None:
    """The best possible return, and the value of the first state; noise explores, so that of what is never done again
    nothing is known."""
    settings: dict[str, Any] = {"env_steps": env_steps, "eval_every": env_steps, "eval_episodes": 2, "seeds": seeds}
    run = rlab.train("rainbow", env_id, experiment="none", gamma=GAMMA, out=out, final_eval_episodes=20, **settings)
    policy, known = load_policy(out).policy, PROBES[env_id].values(GAMMA)
    obs, scale = known[0].obs, max(abs(row.value) for row in known)
    value = max(row.value for row in known if row.obs == obs)
    with torch.no_grad():
        worth = policy.head.values(policy.outputs(torch.tensor(obs).expand(seeds, 1, -1)))[:, 0].amax(dim=-1)
    assert (worth - value).abs().max().item() <= 0.05 * scale, f"{obs} is worth {worth.tolist()}, not {value}"
    if env_id != "rlab/ProbeObservation-v0":  # its return is its first coin, whatever one does
        assert run.evaluation is not None
        np.testing.assert_allclose(run.evaluation.returns, PROBES[env_id].episode_return)


def test_plain_defaults_solve_a_probe_world(tmp_path: Path) -> None:
    check_solved("rlab/ProbeCredit-v0", tmp_path / "run", seeds=2, env_steps=1_500)


@pytest.mark.prove
@pytest.mark.parametrize("env_id", sorted(PROBES))
def test_plain_defaults_solve_a_probe_world_in_ten_of_ten_seeds(env_id: str, tmp_path: Path) -> None:
    check_solved(env_id, tmp_path / "run", seeds=10, env_steps=20_000)


def test_a_run_says_once_that_returns_leave_the_support(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"env_steps": 400, "learning_starts": 64, "log_every": 100, "eval_every": 10**6}
    settings |= {"experiment": "none", "final_eval_episodes": 0, "seeds": 2, "value_max": 2.0, "value_min": -2.0}
    said = r"returns leave what value_head c51 can tell apart, -2 \.\. 2: at \d+ env steps \d+% of its targets are "
    with pytest.warns(RlabWarning, match=said) as found:
        rlab.train("rainbow", "CartPole-v1", out=tmp_path / "run", **settings)
    assert len(found) == 1


def test_how_much_of_the_targets_is_outside_the_support_on_numbers_worked_by_hand() -> None:
    head = build_head({"kind": "categorical_value", "atoms": 3, "low": 0.0, "high": 2.0}, Discrete(2))
    logits = torch.tensor([[0.0, 0.5, 0.5], [0.25, 0.25, 0.5]]).log()  # worth 1.5 and 1.25: the first action follows
    batch = {"next_outputs": logits.reshape(1, 1, 6).expand(1, 3, 6), "discount": torch.tensor([[1.0, 1.0, 0.0]])}
    batch["reward"] = torch.tensor([[0.4, 1.0, 5.0]])
    # from 0, 1, 2 to 0.4, 1.4, 2.4: none is beyond by half; to 1, 2, 3: half of the first's; all to 5
    share = value_loss(head, None).metrics(batch)["q/outside_support"]
    torch.testing.assert_close(share, torch.tensor([(0.0 + 0.5 + 1.0) / 3]))


def test_its_switches_are_those_of_table_1() -> None:
    config = agent_config("rainbow")
    assert (config.n_step, config.value_head, config.atoms) == (3, "c51", 51)
    assert (config.value_min, config.value_max) == (-10.0, 10.0)
    assert (config.replay, config.priority_alpha, config.priority_beta) == ("prioritised", 0.5, 0.4)
    assert (config.noisy, config.noisy_sigma, config.epsilon(progress=0.0)) == (True, 0.5, 0.0)
    assert config.dueling
