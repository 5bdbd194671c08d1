"""The same code on a GPU, where there is one."""

from pathlib import Path

import numpy as np
import pytest
import torch

import rlab

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALL = {"env_steps": 1_500, "seeds": 2, "eval_episodes": 1, "final_eval_episodes": 2, "experiment": "none"}


@pytest.mark.parametrize("agent", ["dqn", "double_dqn"])
def test_a_population_trains_saves_and_resumes_on_cuda(agent: str, tmp_path: Path) -> None:
    settings = {"n_step": 3, "dropout": 0.1, "obs_scaling": "running", "dueling": True}
    run = rlab.train(agent, "CartPole-v1", out=tmp_path / "run", device="cuda", **SMALL, **settings)
    assert run.evaluation is not None
    assert run.evaluation.returns.shape == (2, 2)
    assert rlab.load(run.path)(np.zeros(4, np.float32)) in (0, 1)  # on the CPU


def test_the_first_weights_are_the_same_on_both_devices(tmp_path: Path) -> None:
    settings = {**SMALL, "env_steps": 8, "learning_starts": 1_000}
    weights = []
    for device in ("cpu", "cuda"):
        run = rlab.train("dqn", "CartPole-v1", out=tmp_path / device, device=device, **settings)
        weights.append([p.detach() for p in rlab.load(run.path).parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
