"""The same command gives the same bytes, and what watches a run does not change it."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.errors import RlabError, UsageError
from rlab.learning.determinism import WORKSPACE, deterministic_torch
from rlab.learning.runtime import own_surroundings
from rlab.runs.tables import read_episodes

pytestmark = pytest.mark.usefixtures("quick_disk")
RUN: dict[str, Any] = {"seed": 3, "seeds": 2, "num_envs": 2, "env_steps": 300, "experiment": "none", "hidden": (8,)}
RUN |= {"eval_every": 100, "eval_episodes": 1, "final_eval_episodes": 1, "log_every": 100, "checkpoint_every": 150}
RUN |= {"max_episode_steps": 20, "obs_scaling": "running"}
ROLLOUT = {**RUN, "rollout_steps": 16, "reward_scaling": "running"}
AGENTS = {
    "dqn": {**RUN, "learning_starts": 20, "batch_size": 8},
    "ppo": {**ROLLOUT, "epochs": 2, "minibatches": 2},
    "a2c": ROLLOUT,
    "reinforce": ROLLOUT,
}


def trained(name: str, out: Path, **changed: Any) -> bytes:
    """The weights of a run, to the byte."""
    rlab.train(name, "CartPole-v1", out=out, **{**AGENTS[name], **changed})
    (weights,) = (out / "policy").glob("weights-*.safetensors")
    return weights.read_bytes()


@pytest.mark.parametrize("name", AGENTS)
def test_the_same_command_twice_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    once, again = (trained(name, tmp_path / out, deterministic=True, log_episodes=True) for out in ("one", "two"))
    assert once == again
    for log in ("metrics.jsonl", "eval.jsonl", "result.json"):
        assert (tmp_path / "one" / log).read_bytes() == (tmp_path / "two" / log).read_bytes()
    one, two = (read_episodes(tmp_path / out) for out in ("one", "two"))
    assert len(one) > 10
    for column in set(one.dtype.names or ()) - {"time"}:
        assert (one[column] == two[column]).all()
    assert trained(name, tmp_path / "three") == once  # on a CPU the flag refuses, and changes nothing


class Meddles(rlab.Listener):
    """Draws from every global generator, and changes what is global, whenever it is called."""

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        self._meddle(metrics)

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        returns.fill(0.0)
        self._meddle({})

    def on_save(self, env_steps: int) -> None:
        self._meddle({})

    def on_episode(self, episode: Any) -> None:
        self._meddle({})

    def _meddle(self, metrics: dict[str, np.ndarray]) -> None:
        for value in metrics.values():
            value.fill(0.0)
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)


WATCHING: dict[str, dict[str, Any]] = {
    "never judged": {"eval_every": 0, "final_eval_episodes": 0},
    "judged often": {"eval_every": 20, "eval_episodes": 3, "eval_envs": 1},
    "judged alone": {"eval_every": 40, "eval_alone": True},
    "logged often": {"log_every": 10, "log": "csv"},
    "logged once": {"log_every": 1000},
    "saved often": {"checkpoint_every": 40, "keep_checkpoints": 1},
    "saved once": {"checkpoint_every": 1000},
    "episodes logged": {"log_episodes": True},
    "progress shown": {"progress": True},
    "listeners": {"listeners": [Meddles()]},
    "members may be dropped": {"on_nan": "drop-member"},
}


@pytest.mark.parametrize("name", ["ppo", pytest.param("dqn", marks=pytest.mark.prove)])
def test_what_watches_a_run_does_not_change_it(tmp_path: Path, name: str) -> None:
    plain = trained(name, tmp_path / "plain")
    for how, changed in WATCHING.items():
        assert trained(name, tmp_path / how.replace(" ", "-"), **changed) == plain, how


def settings() -> list[object]:
    cudnn = torch.backends.cudnn
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        *(cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        os.environ.get(WORKSPACE),
    ]


def test_the_settings_are_in_force_inside_and_as_they_were_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with own_surroundings(1, deterministic=True):
        assert settings() == [True, False, True, False, False, False, ":4096:8"]
    assert settings() == before
    with own_surroundings(1):
        assert settings() == before


def test_an_operation_without_a_deterministic_algorithm_is_named() -> None:
    reason = "put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'"
    named = r"^--deterministic: put_ does not have .* \(torch .*\)\. Use --device cpu"
    with pytest.raises(RlabError, match=named), deterministic_torch():
        raise RuntimeError(reason)
    with pytest.raises(RuntimeError, match="of another kind"), deterministic_torch():
        raise RuntimeError("of another kind")
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_deterministic_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":8:8")
    with pytest.raises(UsageError, match=rf"cuBLAS needs the environment variable {WORKSPACE}=:4096:8 .* it is :8:8"):
        rlab.train("dqn", "CartPole-v1", deterministic=True, env_steps=10)
    with pytest.raises(UsageError, match=r"^--deterministic: envpool steps its envs in threads of its own"):
        rlab.train("dqn", "CartPole-v1", deterministic=True, vector="envpool", env_steps=10)
