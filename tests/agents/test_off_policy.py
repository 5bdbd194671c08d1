"""What SAC, TD3 and DDPG have in common: acting, bounds, replay, and the life of their policies."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.agents import load_agent
from rlab.cli.main import main
from rlab.networks.spaces import Box
from rlab.runs.encoding import decode, encode
from rlab.runs.logs import read_json_lines
from rlab.runs.policies import load_policy
from rlab.types import Clock

AGENTS = ("crossq", "ddpg", "droq", "sac", "td3")
EACH = pytest.mark.parametrize("agent", AGENTS)
CPU = torch.device("cpu")
PROBE = "rlab/ProbeContinuous-v0"
SMALL = {"hidden": (16,), "batch_size": 32, "learning_starts": 50, "gamma": 0.9, "learning_rate": 5e-3}
JUDGED = ("--eval-every", "0", "--final-eval-episodes", "1")


@pytest.fixture(scope="module", params=["crossq", "sac", "td3"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of two members, by the command line."""
    out = tmp_path_factory.mktemp("off_policy") / "run"
    words = ["--env-steps", "160", "--seeds", "2", "--hidden", "8", "8", "--batch-size", "8", "--learning-starts", "16"]
    words += ["--updates-per-learn", "3", "--experiment", "none", "--sparsity", "0.25"]
    assert main(["train", request.param, "Pendulum-v1", *words, *JUDGED, "--out", str(out)]) == 0
    return out


def test_what_is_not_reported_at_every_update_is_logged(run: Path) -> None:
    _, (*_, rows) = read_json_lines(run / "metrics.jsonl")
    assert {"loss/critics", "loss/actor", "sparsity/zeros"} <= rows.keys()  # TD3 moves its actor every other update
    assert rows["train/updates"] == 3 * 145


def test_its_policy_is_judged_watched_and_recorded(run: Path, tmp_path: Path) -> None:
    assert main(["eval", str(run), "--episodes", "1", "--stochastic"]) == 0
    assert main(["play", str(run), "--video", str(tmp_path / "film.gif")]) == 0
    assert (tmp_path / "film.gif").stat().st_size > 0
    assert main(["collect", str(run), "--episodes", "1", "--out", str(tmp_path / "data")]) == 0
    demonstrations = ["--dataset", str(tmp_path / "data"), "--demonstration-share", "0.5", "--env-steps", "40"]
    small = ["--batch-size", "8", "--learning-starts", "16", *JUDGED, "--out", str(tmp_path / "run")]
    assert main(["train", agent_of(run), "Pendulum-v1", *demonstrations, *small]) == 0


def agent_of(run: Path) -> str:
    return str(json.loads((run / "config.json").read_text())["agent"])


def test_its_run_is_listed_and_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert main(["list", "runs", "--root", str(tmp_path)]) == 0
    assert agent_of(run) in capsys.readouterr().out
    assert main(["resume", str(again), "--env-steps", "200"]) == 0
    assert json.loads((again / "result.json").read_text())["resumed_at"] == []  # exactly
    assert rlab.resume(again, env_steps=240).evaluation is not None


@EACH
def test_its_state_is_all_that_training_needs_to_go_on(agent: str) -> None:
    agent_class: Any = load_agent(agent)
    box = Box((3,), "float32", -1.0, 1.0), Box((2,), "float32", -2.0, 2.0)
    config = agent_class.Config(hidden=(8,), learning_starts=0, obs_scaling="running", lr_schedule="linear")
    one, other = (agent_class(config, *box, (3, 5), torch.device("cpu")) for _ in range(2))
    draws = torch.Generator().manual_seed(1)

    def learn(each: Any, times: int, first: int) -> list[np.ndarray]:
        """What it does and reports over some updates, from the same rows whoever learns."""
        seen = []
        for update in range(first, first + times):
            draws.manual_seed(update)
            obs, next_obs = (torch.rand(2, 8, 3, generator=draws) for _ in range(2))
            batch = {"obs": obs, "next_obs": next_obs, "action": torch.rand(2, 8, 2, generator=draws)}
            batch |= {"reward": torch.rand(2, 8, 1, generator=draws), "steps": torch.ones(2, 8, dtype=torch.long)}
            batch |= {"terminated": torch.zeros(2, 8, dtype=torch.bool)}
            now = each.scheduled(Clock(update, 100))
            each.preprocess.observe(obs, torch.ones(2, 8, dtype=torch.bool))
            seen += [value.numpy() for value in each.update(each.prepare(batch), now).metrics.values()]
            seen.append(each.act(obs[:, :4], now, {}).action.numpy())
        return seen

    learn(one, 3, first=0)  # an odd number: TD3 is between two steps of its actor
    learn(other, 2, first=50)
    other.load_state(decode(*copy.deepcopy(encode(one.state()))))
    expected, found = learn(one, 4, first=3), learn(other, 4, first=3)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def daily_and(daily: list[str], proofs: list[str]) -> Any:
    """Those of `make test` and those that `make prove` adds."""
    return [*daily, *(pytest.param(each, marks=pytest.mark.prove) for each in proofs)]


@pytest.mark.parametrize("strategy", daily_and(["last-1", "lora"], ["full", "gradual", "discriminative"]))
def test_it_is_fine_tuned_by_every_strategy_and_keeps_its_critic(
    run: Path, strategy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(run), "--strategy", strategy, "--env-steps", "40", "--out", str(tmp_path / "run"), *JUDGED]
    words += ["--sparsity", "0", "--lora-rank", "1"] if strategy == "lora" else []
    assert main(words) == 0
    assert "critic: from the run's checkpoint" in capsys.readouterr().out


def test_its_actor_stands_still_while_its_critic_learns_alone(run: Path, tmp_path: Path) -> None:
    budget = {"env_steps": 40, "critic_warmup": 39, "eval_every": 0, "final_eval_episodes": 0, "num_envs": 1}
    rlab.finetune(run, out=tmp_path / "run", sparsity=0.0, **budget)
    before, after = (load_policy(each / "policy").policy.named_parameters() for each in (run, tmp_path / "run"))
    moved = max((new - old).abs().max().item() for (_, old), (_, new) in zip(before, after, strict=True))
    # 6 updates at the last two of 40 env steps, each by at most about 0.3 times the learning rate; 69 came before
    rate = load_agent(agent_of(run)).Config().learning_rate  # type: ignore[attr-defined]
    assert 0.0 < moved < 6.5 * rate


def test_it_learns_from_a_teacher(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--teacher", str(run), "--seeds", "2", "--env-steps", "40", "--learning-starts", "16", "--batch-size", "8"]
    out = tmp_path / "run"
    assert main(["train", agent_of(run), "Pendulum-v1", *words, *JUDGED, "--out", str(out)]) == 0
    assert "loss/teacher" in (out / "metrics.jsonl").read_text()


@pytest.mark.parametrize("steps", daily_and(["prune:0.5,int8"], ["distil:4x4,sparse:0.5", "lowrank:1,qat8", "int4"]))
def test_it_is_compressed(run: Path, steps: str, tmp_path: Path) -> None:
    words = ["--steps", steps, "--episodes", "1", "--updates", "3", "--min-return-ratio", "0"]
    assert main(["compress", str(run), *words, "--out", str(tmp_path / "small")]) == 0
    assert main(["eval", str(tmp_path / "small"), "--episodes", "1"]) == 0


@pytest.mark.parametrize("ending", daily_and(["npz", "h"], ["onnx", "pt2"]))
def test_it_is_exported(run: Path, ending: str, tmp_path: Path) -> None:
    form = {"npz": "numpy", "h": "c", "onnx": "onnx", "pt2": "torch-export"}[ending]
    file = tmp_path / f"policy.{ending}"
    assert main(["export", str(run), "--format", form, "--out", str(file)]) == 0
    assert main(["eval", str(file), "--episodes", "1", "--trust"]) == 0
