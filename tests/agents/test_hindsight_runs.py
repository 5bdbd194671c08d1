"""Hindsight in whole runs: bits that are flipped to a goal, which without it is hardly ever reached."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.errors import UsageError
from rlab.runs.policies import load_policy

BITS = 6
BIT_FLIP = {"env_kwargs": {"bits": BITS}, "experiment": "none", "eval_every": 0}


def reached(out: Path, hindsight: str, **settings: Any) -> np.ndarray:
    """The share of 40 goals that each seed reaches, `[S]`."""
    run = rlab.train("dqn", "rlab/ProbeBitFlip-v0", out=out, hindsight=hindsight, **{**BIT_FLIP, **settings})
    assert run.evaluation is not None
    share: np.ndarray = (run.evaluation.returns > -BITS).mean(axis=1)
    return share


@pytest.mark.parametrize("vector", ["sync", pytest.param("tensor", marks=pytest.mark.prove)])
def test_dqn_reaches_a_goal_among_many_with_hindsight(vector: str, tmp_path: Path) -> None:
    few = {"seeds": 3, "env_steps": 2_500, "final_eval_episodes": 40}
    assert (reached(tmp_path / "hindsight", "future", **few, vector=vector) == 1.0).all()


@pytest.mark.prove
def test_without_hindsight_it_does_not(tmp_path: Path) -> None:
    few = {"seeds": 3, "env_steps": 2_500, "final_eval_episodes": 40, "vector": "tensor"}
    assert (reached(tmp_path / "none", "none", **few) < 0.7).all()


def test_a_member_learns_with_hindsight_what_it_learns_alone(tmp_path: Path) -> None:
    settings = {**BIT_FLIP, "hindsight": "future", "env_steps": 600, "final_eval_episodes": 1, "n_step": 2}
    rlab.train("dqn", "rlab/ProbeBitFlip-v0", out=tmp_path / "both", seeds=2, seed=4, **settings)
    rlab.train("dqn", "rlab/ProbeBitFlip-v0", out=tmp_path / "alone", seeds=1, seed=5, **settings)
    both, alone = (load_policy(tmp_path / name).policy.state_dict() for name in ("both", "alone"))
    for name, value in alone.items():
        # 250 updates whose sums may be rounded otherwise in a larger stack
        np.testing.assert_allclose(value[0].numpy(), both[name][1].numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


def test_an_env_without_goals_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--hindsight: CartPole-v1 has no goals"):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", hindsight="future")
    with pytest.raises(UsageError, match="hindsight_goals"):
        rlab.train("dqn", "rlab/ProbeBitFlip-v0", out=tmp_path / "run", hindsight_goals=0)
