"""An actor-critic in somebody else's file, with several networks and an optimizer for each, lives the life of
registered agents where its code is trusted."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlab
from rlab.cli.main import main

OUTSIDE = Path(__file__).parent / "outside"
JUDGED = ("--eval-every", "0", "--final-eval-episodes", "1")


@pytest.fixture(scope="module", autouse=True)
def _in_their_folder() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OUTSIDE)
        patch.delitem(sys.modules, "sac", raising=False)  # a clone in a folder of that name is a package to pytest
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of two members, by the command line."""
    out = tmp_path_factory.mktemp("outside") / "run"
    words = ["--env-steps", "120", "--seeds", "2", "--hidden", "8", "8", "--batch-size", "8", "--learning-starts", "16"]
    words += ["--updates-per-learn", "2", "--experiment", "none", "--sparsity", "0.25"]
    assert main(["train", "sac:SAC", "Pendulum-v1", *words, *JUDGED, "--out", str(out)]) == 0
    return out


def test_it_learns_its_probe_world_in_every_seed(tmp_path: Path) -> None:
    small = {"hidden": (16,), "batch_size": 32, "learning_starts": 50, "gamma": 0.9, "learning_rate": 5e-3}
    budget = {"seeds": 2, "env_steps": 1_000, "eval_every": 0, "final_eval_episodes": 10}
    run = rlab.train("sac:SAC", "rlab/ProbeContinuous-v0", out=tmp_path / "run", **budget, **small)
    assert run.evaluation is not None
    assert (run.evaluation.returns > 0.95).all(), run.evaluation.returns  # 1 - (action - observation)^2


def test_its_policy_needs_no_trust_and_its_learning_does(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert main(["eval", str(run), "--episodes", "1", "--stochastic"]) == 0
    assert main(["resume", str(again), "--env-steps", "160"]) == 1
    assert "which is code from outside rlab; add --trust" in capsys.readouterr().err
    assert main(["resume", str(again), "--env-steps", "160", "--trust"]) == 0
    assert json.loads((again / "result.json").read_text())["resumed_at"] == []  # exactly


def test_it_is_fine_tuned_and_keeps_its_critic(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", str(run), "--strategy", "lora", "--lora-rank", "1", "--sparsity", "0", "--env-steps", "40"]
    assert main([*words, *JUDGED, "--trust", "--out", str(tmp_path / "run")]) == 0
    assert "critic: from the run's checkpoint" in capsys.readouterr().out
