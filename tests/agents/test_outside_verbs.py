"""Whatever rlab does, it does with an outsider's agent as it is, or says in one line why not before it begins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.learning.finetune_config import STRATEGIES
from rlab.runs.policies import load_policy

AGENTS = {
    "soft_dqn": "SoftDQN",
}
FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "numpy": ".npz", "c": ".h"}
STEPS = ("int8", "prune:0.5", "distil:8")
TINY = (
    *("--experiment", "none", "--env-steps", "128", "--learning-starts", "96", "--batch-size", "8"),
    *("--eval-every", "1000000", "--final-eval-episodes", "1"),
)
NEW = ("--hidden", "16", "8", "--seeds", "2")

pytestmark = pytest.mark.usefixtures("quick_disk", "few_visits", "importable")


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "outside"))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, importable: None) -> dict[str, Path]:
    """A run of each agent and of dqn, by name, and episodes of dqn's, `data`."""
    folder = tmp_path_factory.mktemp("runs")
    found = {name: folder / name for name in (*AGENTS, "dqn", "data")}
    for name, place in list(found.items())[:-1]:
        agent = f"{name}:{AGENTS[name]}" if name in AGENTS else name
        assert main(["train", agent, "CartPole-v1", *TINY, *NEW, "--out", str(place)]) == 0
    assert main(["collect", str(found["dqn"]), "--episodes", "4", "--out", str(found["data"])]) == 0
    return found


@pytest.fixture(params=sorted(AGENTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refused(words: list[str], why: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says `why` in one line and leaves nothing on the disk."""
    capsys.readouterr()
    assert main(words) in (1, 2)
    printed = capsys.readouterr().err.strip()
    assert "\n" not in printed
    assert why in printed
    assert not out.exists()


def test_its_help_names_its_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"soft_dqn": "softness"}
    assert main(["train", f"{name}:{AGENTS[name]}", "CartPole-v1", "--help-all"]) == 0
    assert f"--{own[name]} " in capsys.readouterr().out


def test_it_is_judged_watched_recorded_and_gone_on_with(
    name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, film, data = str(runs[name]), str(tmp_path / "film.gif"), str(tmp_path / "data")
    assert main(["eval", run, "--episodes", "1", "--trust"]) == 0
    assert main(["play", run, "--video", film, "--trust"]) == 0
    assert main(["collect", run, "--episodes", "2", "--out", data, "--trust"]) == 0
    refused(
        ["resume", run, "--env-steps", "160"], "which is code from outside rlab; add --trust", tmp_path / "x", capsys
    )
    assert main(["resume", run, "--env-steps", "160", "--trust"]) == 0


@pytest.mark.parametrize("name", sorted(AGENTS))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_is_fine_tuned_with_every_strategy(name: str, strategy: str, runs: dict[str, Path], tmp_path: Path) -> None:
    words = ["finetune", str(runs[name]), "--strategy", strategy, "--out", str(tmp_path / "run"), *TINY, "--trust"]
    assert main(words) == 0
    network = load_policy(tmp_path / "run", trust=True).policy.network
    kinds = {type(layer).__name__ for layer in network.modules()}
    assert ("StackedLoraLinear" in kinds) is (strategy == "lora")


def test_it_goes_on_from_another_agent_and_another_from_it(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    agent, there, back = f"{name}:{AGENTS[name]}", tmp_path / "there", tmp_path / "back"
    words = ["finetune", str(runs["dqn"]), "--agent", agent, "--out", str(there), *TINY, "--trust"]
    assert main(words) == 0
    words = ["finetune", str(runs[name]), "--agent", "dqn", "--out", str(back), *TINY, "--trust"]
    assert main(words) == 0


@pytest.mark.parametrize("name", sorted(AGENTS))
@pytest.mark.parametrize("step", STEPS)
def test_its_policy_is_compressed(name: str, step: str, runs: dict[str, Path], tmp_path: Path) -> None:
    out, few = tmp_path / "small", ("--episodes", "1", "--updates", "2", "--min-return-ratio", "0")
    words = ["compress", str(runs[name]), "--steps", step, "--out", str(out), *few, "--trust"]
    assert main(words) == 0
    assert rlab.load(out)([0.0, 0.1, 0.0, 0.1]) in (0, 1)  # its layers are rlab's


@pytest.mark.parametrize("name", sorted(AGENTS))
@pytest.mark.parametrize("format", FORMATS)
def test_its_policy_is_exported(name: str, format: str, runs: dict[str, Path], tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"policy{FORMATS[format]}"
    words = ["export", str(runs[name]), "--format", format, "--out", str(out), "--trust"]
    assert main(words) == 0
    assert out.exists()


def test_it_becomes_sparse_has_a_teacher_and_demonstrations(
    name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", f"{name}:{AGENTS[name]}", "CartPole-v1", *TINY, *NEW, "--out"]
    sparse = [*train, str(tmp_path / "sparse"), "--sparsity", "0.5"]
    assert main(sparse) == 0
    network = load_policy(tmp_path / "sparse").policy.network
    assert all((p == 0).float().mean() >= 0.4 for n, p in network.named_parameters() if n == "0.weight")
    assert main([*train, str(tmp_path / "taught"), "--teacher", str(runs["dqn"])]) == 0
    shown = ["--dataset", str(runs["data"]), "--demonstration-share", "0.5", "--demonstration-loss", "margin"]
    assert main([*train, str(tmp_path / "shown"), *shown]) == 0
    taught = ["train", "dqn", "CartPole-v1", *TINY, *NEW, "--teacher", str(runs[name]), "--trust"]
    assert main([*taught, "--out", str(tmp_path / "student")]) == 0


def test_the_same_from_python(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    agent, small = f"{name}:{AGENTS[name]}", {"eval_every": 10**6, "final_eval_episodes": 1, "batch_size": 8}
    quick: dict[str, Any] = {**small, "learning_starts": 96, "experiment": "none"}
    run = rlab.train(agent, "CartPole-v1", out=tmp_path / "run", env_steps=128, hidden=(8,), **quick)
    assert run.finished
    assert rlab.resume(run, env_steps=160, trust=True).time == 160
    assert rlab.evaluate(run, episodes=2, trust=name).returns.shape == (1, 2)
    policy = rlab.load(run, trust=True)
    state = policy.initial_state()
    action, _ = policy([0.0, 0.1, 0.0, 0.1], state=state)
    assert action in (0, 1)
    again = rlab.finetune(run, out=tmp_path / "again", env_steps=128, strategy="last-1", trust=True, **quick)
    assert again.finished
    assert rlab.collect(run, tmp_path / "data", episodes=2, trust=True).dataset.summary()["episodes"] == 2
    assert len(rlab.play(run, episodes=1, frames=True, trust=True).returns) == 1


BODY = """
from rlab.networks.spec import LayerSpec, NetworkSpec


def remembering(shape):
    return NetworkSpec((LayerSpec("gru", {"in_features": shape[0], "hidden": 8, "sequence": True}),))
"""


@pytest.mark.parametrize("agent", ["sac", "dqfd", "cql", "iql", "bc"])
def test_an_agent_without_a_use_for_memory_refuses_a_network_that_has_it(
    agent: str,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "body_with_memory.py").write_text(BODY)
    monkeypatch.syspath_prepend(tmp_path)
    out, data = tmp_path / "run", str(runs["data"])
    words = ["pretrain", "bc", data] if agent == "bc" else ["train", agent, "CartPole-v1"]
    words += ["--network", "body_with_memory:remembering", "--out", str(out)]
    words += ["--dataset", data] if agent in ("dqfd", "cql", "iql") else []
    refused(words, f"{agent} cannot learn with a network that has memory, such as a gru", out, capsys)


def test_a_network_with_memory_of_one_s_own_serves_an_agent_that_learns_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "body_with_memory.py").write_text(BODY)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["train", "dqn", "CartPole-v1", "--network", "body_with_memory:remembering", *TINY]
    windows = ["--sequence-length", "6", "--burn-in", "2", "--memory", "lstm", "--memory-size", "32"]
    assert main([*words, *windows, "--out", str(tmp_path / "run")]) == 0
    state = load_policy(tmp_path / "run").policy.initial_state(3)
    assert sorted(tuple(tensor.shape) for tensor in state.values()) == [(1, 3, 8), (1, 3, 32), (1, 3, 32)]
    assert all(torch.count_nonzero(tensor) == 0 for tensor in state.values())
