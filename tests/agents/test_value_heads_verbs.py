"""A policy that predicts distributions over returns goes through every verb."""

from pathlib import Path

import pytest

from rlab.cli.main import main
from rlab.runs.policies import load_policy

TINY = (
    *("--experiment", "none", "--env-steps", "128", "--learning-starts", "96", "--batch-size", "8"),
    *("--eval-every", "1000000", "--final-eval-episodes", "1"),
)
NEW = ("--hidden", "8", "8", "--seeds", "2", "--dueling")
HEADS = {
    "c51": ("--value-head", "c51", "--atoms", "5"),
    "qr": ("--value-head", "qr", "--quantiles", "3"),
    "iqn": ("--value-head", "iqn", "--iqn-points", "3", "--iqn-samples", "2", "--iqn-cosines", "4"),
}
KINDS = {"c51": "categorical_value", "qr": "quantile", "iqn": "implicit_quantile"}
FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "numpy": ".npz", "c": ".h"}

pytestmark = pytest.mark.usefixtures("quick_disk", "few_visits")


@pytest.fixture(
    scope="module", params=["iqn", *(pytest.param(head, marks=pytest.mark.prove) for head in ("c51", "qr"))]
)
def head(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(head: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of double DQN with this head."""
    out = tmp_path_factory.mktemp("run") / head
    assert main(["train", "double_dqn", "CartPole-v1", *HEADS[head], *TINY, *NEW, "--out", str(out)]) == 0
    return out


def kind_of(run: Path) -> str:
    return str(load_policy(run).policy.spec.head["kind"])


def test_it_is_judged_watched_recorded_and_gone_on_with(head: str, run: Path, tmp_path: Path) -> None:
    assert kind_of(run) == KINDS[head]
    data = tmp_path / "data"
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    assert main(["play", str(run), "--video", str(tmp_path / "film.gif")]) == 0
    assert main(["resume", str(run), "--env-steps", "160"]) == 0
    assert main(["collect", str(run), "--episodes", "4", "--out", str(data)]) == 0
    cloned, tuned = tmp_path / "cloned", tmp_path / "tuned"
    settings = ("--updates", "4", "--batch-size", "8", "--final-eval-episodes", "1")
    assert main(["pretrain", "bc", str(data), "--agent", "dqn", *settings, "--out", str(cloned)]) == 0
    assert main(["finetune", str(run), *TINY, "--out", str(tuned)]) == 0
    assert kind_of(tuned) == KINDS[head]


@pytest.mark.prove
def test_it_is_exported_in_every_format(run: Path, tmp_path: Path) -> None:
    for name, suffix in FORMATS.items():
        if name == "onnx":
            pytest.importorskip("onnx")
            pytest.importorskip("onnxruntime")
        assert main(["export", str(run), "--format", name, "--out", str(tmp_path / f"policy{suffix}")]) == 0


@pytest.mark.prove
def test_it_is_compressed_and_the_student_exported(head: str, run: Path, tmp_path: Path) -> None:
    small, student = tmp_path / "small", tmp_path / "student"
    assert main(["compress", str(run), "--steps", "prune:0.5,int8", "--out", str(small)]) == 0
    assert kind_of(small) == KINDS[head]
    assert main(["export", str(small), "--format", "numpy", "--out", str(tmp_path / "small.npz")]) == 0
    assert main(["compress", str(run), "--steps", "distil:8", "--out", str(student)]) == 0
    assert kind_of(student) == "q"


def test_it_teaches_others_and_another_agent_starts_from_it_or_says_why_not(
    head: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = ("--teacher", str(run), "--seeds", "1")
    assert main(["train", "dqn", "CartPole-v1", *teacher, *TINY, "--out", str(tmp_path / "taught")]) == 0
    small = ("--experiment", "none", "--env-steps", "64", "--rollout-steps", "8", "--final-eval-episodes", "1")
    out = tmp_path / "actor"
    capsys.readouterr()
    code = main(["finetune", str(run), "--agent", "ppo", *small, "--out", str(out)])
    if head != "iqn":
        assert code == 0
        return
    said = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in said
    assert "start from a run with the same value_head" in said
    assert not out.exists()


def test_the_head_of_a_run_is_the_policy_s(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", str(run), "--value-head", "q", *TINY, "--out", str(tmp_path / "x")]) == 2
    assert "--value-head: the network is that of" in capsys.readouterr().err
