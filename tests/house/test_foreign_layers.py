"""Layers and heads from outside rlab are trained, saved, loaded, fine-tuned, compressed and exported."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.errors import RlabError
from rlab.networks.describe import spec_of
from rlab.networks.merging import merged, merged_spec
from rlab.networks.policy import build_policy
from rlab.networks.stacking import stack, unstack
from rlab.runs.policies import load_policy, save_policy

pytestmark = pytest.mark.usefixtures("quick_disk", "few_visits", "importable")

MODULE = "layers_of_a_stranger"
BUDGET: dict[str, Any] = {"env_steps": 64, "eval_every": 10**6, "final_eval_episodes": 1, "experiment": "none"}
SETTINGS: dict[str, Any] = {**BUDGET, "learning_starts": 16, "seeds": 2}
COMPRESS = ("--trust", "--episodes", "2", "--updates", "2", "--min-return-ratio", "0")


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, importable: None) -> Path:
    out = tmp_path_factory.mktemp("foreign") / "run"
    rlab.train("dqn", "CartPole-v1", network=f"{MODULE}:body", out=out, progress=False, **SETTINGS)
    return out


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, importable: None) -> Path:
    out = tmp_path_factory.mktemp("foreign") / "bare"
    rlab.train("dqn", "CartPole-v1", network=f"{MODULE}:bare", out=out, progress=False, **SETTINGS)
    return out


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory, importable: None) -> dict[str, Path]:
    """Policies with heads from outside, on CartPole-v1."""
    folder = tmp_path_factory.mktemp("heads")
    run = rlab.train("ppo", "CartPole-v1", out=folder / "ppo", progress=False, hidden=(8,), seeds=2, **BUDGET)
    saved = load_policy(run.path)
    for name in ("Choice", "Silent"):
        spec = replace(saved.policy.spec, head={"kind": f"{MODULE}:{name}"})
        policy = build_policy(spec, saved.policy.seeds, trust=True)
        policy.load_state_dict(saved.policy.state_dict())
        save_policy(folder / name, policy, saved.extra)
    return {name: folder / name for name in ("Choice", "Silent")}


def one_line(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(argv) == code
    printed = capsys.readouterr().err.strip()
    assert "\n" not in printed
    return printed


def test_a_run_with_a_foreign_layer_is_loaded_where_it_is_trusted(run: Path) -> None:
    with pytest.raises(RlabError, match=f"layer '{MODULE}:Noisy' runs code from outside rlab; add --trust"):
        rlab.load(run)
    assert rlab.load(run, trust=MODULE)([0.0, 0.1, 0.0, 0.1]) in (0, 1)


def test_a_foreign_layer_leaves_its_stack_comes_back_and_is_described(run: Path) -> None:
    network, x = load_policy(run, trust=True).policy.network, torch.randn(2, 5, 4)
    plain = [unstack(network, member) for member in range(2)]
    torch.testing.assert_close(plain[1](x[1]), network(x)[1])
    again = stack(plain)
    assert torch.equal(again(x), network(x))
    assert spec_of(again) == spec_of(network)
    whole = merged(network)
    torch.testing.assert_close(whole(x), network(x))
    assert spec_of(whole) == merged_spec(spec_of(network))
    assert [layer.kind for layer in spec_of(whole).layers] == ["linear", "tanh", f"{MODULE}:Gain", "linear"]


@pytest.mark.parametrize(("agent", "strategy"), [("dqn", "full"), ("dqn", "lora"), ("ppo", "full")])
def test_a_run_with_a_foreign_layer_is_fine_tuned_and_resumed_with_trust(
    run: Path, tmp_path: Path, agent: str, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "again")
    words = ["finetune", str(run), "--agent", agent, "--strategy", strategy, "--out", out, "--final-eval-episodes", "1"]
    words += ["--env-steps", "64", "--experiment", "none"]
    assert "runs code from outside rlab; add --trust" in one_line(words, 1, capsys)
    assert main([*words, "--trust"]) == 0
    kinds = [layer.kind for layer in load_policy(out, trust=True).policy.spec.network.layers]
    assert f"{MODULE}:Gain" in kinds
    assert "add --trust" in one_line(["resume", out, "--env-steps", "96"], 1, capsys)
    assert main(["resume", out, "--env-steps", "96", "--trust"]) == 0


@pytest.mark.parametrize(
    "steps",
    [
        *("int8", "prune:0.5", "distil:8"),
        *(pytest.param(steps, marks=pytest.mark.prove) for steps in ("sparse:0.5", "lowrank:0.4", "qat8")),
    ],
)
def test_a_policy_with_a_foreign_layer_is_compressed_as_far_as_the_layer_offers(
    run: Path, tmp_path: Path, steps: str
) -> None:
    out = tmp_path / "small"
    assert main(["compress", str(run), "--steps", steps, "--out", str(out), *COMPRESS]) == 0
    spec = load_policy(out, trust=True).policy.spec.network
    assert (f"{MODULE}:Gain" in [layer.kind for layer in spec.layers]) == (steps != "distil:8")
    if steps == "prune:0.5":
        assert {layer.args.get("features") for layer in spec.layers} == {None, 4}


@pytest.mark.parametrize(("format", "ending"), [("c", ".h"), ("numpy", ".npz"), ("torch-export", ".pt2")])
def test_a_policy_with_a_foreign_layer_is_exported(run: Path, tmp_path: Path, format: str, ending: str) -> None:
    words = ["--format", format, "--out", str(tmp_path / f"policy{ending}"), "--trust"]
    assert main(["export", str(run), *words]) == 0


def test_what_a_foreign_layer_lacks_is_told_in_one_line(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(bare), "--episodes", "1", "--trust"]) == 0
    small = ["compress", str(bare), "--steps", "int8", "--out", str(tmp_path / "small"), *COMPRESS]
    assert "Bare has no kind in a network's spec. Its class needs a method settings()" in one_line(small, 1, capsys)
    header = ["export", str(bare), "--format", "c", "--out", str(tmp_path / "policy.h"), "--trust"]
    assert "Bare cannot leave its stack: give its class a method unstack(member)" in one_line(header, 1, capsys)


def test_a_foreign_head_is_loaded_judged_and_fine_tuned_where_it_is_trusted(
    headed: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(headed["Choice"])
    said = f"policy head '{MODULE}:Choice' runs code from outside rlab; add --trust"
    assert said in one_line(["eval", folder, "--episodes", "1"], 1, capsys)
    assert main(["eval", folder, "--episodes", "1", "--trust"]) == 0
    words = ["finetune", folder, "--out", str(tmp_path / "run"), "--final-eval-episodes", "1", "--env-steps", "64"]
    assert said in one_line(words, 1, capsys)
    assert main([*words, "--agent", "ppo", "--experiment", "none", "--trust"]) == 0
    assert load_policy(tmp_path / "run").policy.spec.head == {"kind": "categorical"}  # ppo's own, with a fresh layer


def test_a_foreign_head_is_compressed_distilled_and_exported_as_far_as_it_offers(
    headed: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, silent = str(headed["Choice"]), str(headed["Silent"])
    for steps in ("int8", "distil:8"):
        assert main(["compress", folder, "--steps", steps, "--out", str(tmp_path / steps[:4]), *COMPRESS]) == 0
    assert main(["export", folder, "--format", "numpy", "--out", str(tmp_path / "a.npz"), "--trust"]) == 0
    distil = ["compress", silent, "--steps", "distil:8", "--out", str(tmp_path / "x"), *COMPRESS]
    assert "the policy head Silent cannot teach, nor learn from a teacher" in one_line(distil, 2, capsys)
    numpy = ["export", silent, "--format", "numpy", "--out", str(tmp_path / "b.npz"), "--trust"]
    assert "format numpy cannot express the policy head Silent" in one_line(numpy, 2, capsys)
    assert main(["export", silent, "--format", "torch-export", "--out", str(tmp_path / "b.pt2"), "--trust"]) == 0
