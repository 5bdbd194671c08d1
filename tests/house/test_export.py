"""`rlab export` and `rlab eval FILE`: one file that says what its member says, judged by the same protocol."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from torch import nn

import rlab
from rlab.cli.main import main
from rlab.envs import EpisodeMaker
from rlab.runs import files

pytestmark = pytest.mark.usefixtures("quick_disk")

SUFFIXES = {"onnx": ".onnx", "numpy": ".npz", "c": ".h", "torch-export": ".pt2"}


def make_file(run: Path, folder: Path, format: str, *words: str) -> Path:
    if format == "onnx" and not (find_spec("onnx") and find_spec("onnxruntime")):
        pytest.skip("onnx and onnxruntime are not installed")
    if format == "c" and which("gcc") is None:
        pytest.skip("there is no gcc")
    path = folder / f"policy{SUFFIXES[format]}"
    assert main(["export", str(run), "--format", format, "--out", str(path), *words]) == 0
    return path


@pytest.mark.parametrize("format", ["onnx", "numpy", "c"])
def test_a_file_reaches_in_every_episode_what_its_member_reaches(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    path = make_file(ppo_run, tmp_path, format, "--member", "4", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["member"], found["bytes"], found["path"]) == (4, path.stat().st_size, str(path))
    assert found["parity"]["rows"] >= 1000
    assert found["parity"]["agreement"] > 0.999
    assert found["parity"]["relative_error"] < 1e-5
    assert [each["batch"] for each in found["latency"]] == [1, 64]
    judged = []
    for what in ([str(path), "--trust"], [str(ppo_run), "--member", "4"]):
        assert main(["eval", *what, "--episodes", "6", "--json"]) == 0
        judged.append(json.loads(capsys.readouterr().out))
    file, run = judged
    assert file["per_seed"] == run["per_seed"]
    assert (file["agent"], file["env_id"], file["policy"]) == ("ppo", "CartPole-v1", str(path))
    again = rlab.evaluate(path, episodes=6, trust=True)
    assert again.returns.tolist() == [member["returns"] for member in file["per_seed"]]


def test_a_file_tells_where_it_comes_from_and_nothing_of_the_machine(ppo_run: Path, tmp_path: Path) -> None:
    from rlab.compression.export.runtimes import open_exported

    path = make_file(ppo_run, tmp_path, "numpy")
    metadata = open_exported(path).metadata
    parent = files.read_json(ppo_run / "policy" / "policy.json")
    assert metadata["parent_sha256"] == parent["weights"]["sha256"]
    assert (metadata["agent"], metadata["training_seed"], metadata["env"]["env_id"]) == ("ppo", 3, "CartPole-v1")
    assert str(tmp_path).encode() not in path.read_bytes()


def test_people_are_told_size_parity_and_latency(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_file(ppo_run, tmp_path, "numpy")
    shown = capsys.readouterr().out
    for words in (f"{path}: training seed 3, {path.stat().st_size} bytes", "visited states: 1.0000", "batch 64"):
        assert words in shown


@pytest.mark.parametrize("format", SUFFIXES)
def test_the_advice_behind_an_export_can_be_followed_as_it_is(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    path = make_file(ppo_run, tmp_path, format)
    shown = capsys.readouterr().out
    program, *words = shown.splitlines()[-1].removeprefix("judge it: ").split(" ")
    assert (program, words) == ("rlab", ["eval", str(path), *(["--trust"] if path.suffix in (".h", ".pt2") else [])])
    assert main([*words, "--episodes", "1"]) == 0
    runner = "rlab/compression/export/numpy_runner.py"
    assert (f"without rlab: {runner} runs it with NumPy alone" in shown) is (format == "numpy")
    assert Path(rlab.__file__).parents[1].joinpath(runner).is_file()


@pytest.mark.parametrize("words", [["export", "--format", "numpy"], ["compress", "--steps", "fp16", "--episodes", "2"]])
def test_where_one_instance_of_an_env_can_live_one_serves(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    made: list[int] = []
    make = EpisodeMaker.__call__

    def counted(self: EpisodeMaker, n: int) -> Any:
        made.append(n)
        return make(self, n)

    monkeypatch.setattr(EpisodeMaker, "__call__", counted)
    out = tmp_path / ("policy.npz" if words[0] == "export" else "policy")
    assert main([words[0], str(ppo_run), *words[1:], "--envs", "1", "--out", str(out)]) in (0, 1)  # 1: too much lost
    assert out.exists()
    assert set(made) == {1}


def test_what_takes_folders_alone_says_so_of_an_exported_file(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = tmp_path / "policy.h"
    header.write_text("")
    for path in (str(make_file(ppo_run, tmp_path, "numpy")), str(header)):
        for words in (["play", path], ["compress", path, "--steps", "int8"]):
            assert f"{path} is an exported file, which eval, compare, report and serve take;" in one_line(
                words, 2, capsys
            )


def test_files_are_timed_in_turn(ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    paths = [str(make_file(ppo_run, folder, "numpy")) for folder in (tmp_path, tmp_path / "other")]
    capsys.readouterr()
    assert main(["eval", *paths, "--latency", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["files"]
    assert list(found) == paths
    assert all(0 < each["p50_us"] <= each["p99_us"] for times in found.values() for each in times)
    assert main(["eval", *paths, "--latency"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 2


def test_without_out_a_file_under_runs_is_named_after_the_run_and_the_member(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/ppo-seed4.npz", "runs/ppo-seed4-2.npz"):
        assert main(["export", str(ppo_run), "--format", "numpy", "--member", "4"]) == 0
        assert Path(name).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onxx"], "--format onxx: not one of onnx, torch-export, numpy, c, triton. Did you mean onnx?"),
        ([], "--format is missing; give one of onnx, torch-export, numpy, c, triton"),
        (["--format", "numpy", "--out", "a.onnx"], "--out a.onnx must end in .npz"),
        (["--format", "numpy", "--out", "nowhere/a.npz"], "nowhere is not a folder"),
        (["--format", "numpy", "--out", "taken.npz"], "taken.npz exists; nothing was touched."),
        (["--format", "numpy", "--member", "9"], "seed 9; this policy has training seeds 3, 4."),
        (["--format", "numpy", "--exporter", "mine"], "--exporter mine: not one of auto, own, torch"),
        (
            ["--format", "numpy", "--exporter", "torch"],
            "--exporter torch is for --format onnx and triton; leave it out",
        ),
    ],
)
def test_wrong_words_are_one_line(
    ppo_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.npz").write_bytes(b"mine")
    assert main(["export", str(ppo_run), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "taken.npz"]


def test_files_that_cannot_be_judged_get_one_line(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(make_file(ppo_run, tmp_path, "numpy"))
    header, broken, text = (tmp_path / name for name in ("policy.h", "broken.npz", "notes.txt"))
    header.write_text("int main(void) { return 0; }")
    broken.write_bytes(Path(path).read_bytes()[:200])
    text.write_text("hello")
    capsys.readouterr()
    for words, code, message in [
        ([str(header)], 2, "can run code when it is opened; add --trust if you trust its author."),
        ([str(header), "--trust"], 1, "is not a header of rlab"),
        ([str(broken)], 1, "Was it damaged?"),
        ([str(text)], 2, "is not named like an exported file"),
        ([path, "--member", "4"], 2, "no member with training seed 4;"),
        ([path, path], 2, "eval judges one run or file at a time, not 2; --latency takes several."),
        ([], 2, "eval needs a run folder, a policy folder or an exported file"),
        ([str(ppo_run), "--latency"], 2, "is a folder; --latency times exported files."),
        ([path, "--latency", "--episodes", "3"], 2, "--latency plays no episodes; leave out --episodes."),
        (["--latency"], 2, "--latency needs exported files"),
        ([str(tmp_path / "gone.onnx"), "--latency"], 1, f"there is no file {tmp_path / 'gone.onnx'}."),
        ([str(tmp_path / "gone.onnx")], 1, f"there is no file {tmp_path / 'gone.onnx'}."),
        ([str(tmp_path / "gone.h")], 1, f"there is no file {tmp_path / 'gone.h'}."),
        ([str(tmp_path / "gone")], 2, "gone is not a folder."),
    ]:
        assert main(["eval", *words]) == code, words
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def one_line(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The line on standard error of a command that fails with this code."""
    capsys.readouterr()
    assert main(words) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_onnx_nothing_is_begun_and_the_line_says_what_to_install(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    path = str(make_file(ppo_run, tmp_path, "onnx"))
    monkeypatch.setitem(sys.modules, package, None)
    words = ["export", str(ppo_run), "--format", "onnx", "--out", str(tmp_path / "new.onnx")]
    line = one_line(words, 2, capsys)
    assert package in line
    assert 'pip install "rlab-agents[onnx]"' in line
    assert not (tmp_path / "new.onnx").exists()
    if package == "onnxruntime":
        missing = f'{path} runs in onnxruntime, which is not installed: pip install "rlab-agents[onnx]"'
        for more in ([], ["--latency"]):
            assert missing in one_line(["eval", path, *more], 2, capsys)


def test_without_gcc_a_header_is_neither_written_nor_judged(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(make_file(ppo_run, tmp_path, "c"))
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["export", str(ppo_run), "--format", "c", "--out", str(tmp_path / "new.h")]
    line = one_line(words, 2, capsys)
    assert "gcc is not on this machine's PATH; install it, or write another format" in line
    assert not (tmp_path / "new.h").exists()
    assert f"{path} is C and needs gcc to run" in one_line(["eval", path, "--trust"], 2, capsys)


@pytest.mark.parametrize(
    "parent",
    [
        "runs/old",
        None,
        {},
        {"folder": "ppo"},
        {"folder": "", "weights_sha256": "ab" * 32},
        {"folder": ["ppo"], "weights_sha256": "ab" * 32},
        {"folder": "ppo", "weights_sha256": 7},
        {"folder": "ppo", "weights_sha256": "ab" * 31},
        {"folder": "ppo", "weights_sha256": "xy" * 32},
        {"folder": "ppo", "weights_sha256": "ab" * 32, "more": 1},
    ],
)
def test_a_policy_with_a_wrong_parent_is_refused_in_one_line(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], parent: object
) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(ppo_run / "policy", folder)
    told = json.loads((folder / "policy.json").read_text())
    told["extra"]["parent"] = {"folder": "ppo", "weights_sha256": "ab" * 32}
    (folder / "policy.json").write_text(json.dumps(told))
    assert main(["eval", str(folder), "--episodes", "1"]) == 0
    told["extra"]["parent"] = parent
    (folder / "policy.json").write_text(json.dumps(told))
    line = one_line(["eval", str(folder)], 1, capsys)
    assert f"{folder / 'policy.json'}: 'parent' must be the folder name and the weights_sha256 (64 hex digits)" in line
    assert repr(parent)[:80] in line


def test_facts_that_are_no_object_are_refused_in_one_line(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(ppo_run / "policy", folder)
    told = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**told, "extra": ["env"]}))
    assert "'extra' must be an object, not ['env']" in one_line(["eval", str(folder)], 1, capsys)


class Bent(nn.Softsign):
    """A layer of somebody else's, as a policy folder names it."""

    def __init__(self, members: int) -> None:
        super().__init__()

    def unstack(self, member: int) -> nn.Module:
        return self


@pytest.mark.parametrize("format", ["numpy", "c"])
def test_a_layer_that_a_format_cannot_express_is_named(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    if format == "c" and which("gcc") is None:
        pytest.skip("there is no gcc")
    folder = tmp_path / "policy"
    shutil.copytree(ppo_run / "policy", folder)
    told = json.loads((folder / "policy.json").read_text())
    told["spec"]["network"]["layers"].append({"kind": f"{__name__}:Bent"})
    (folder / "policy.json").write_text(json.dumps(told))
    words = ["export", str(folder), "--format", format, "--trust", "--out", str(tmp_path / f"new{SUFFIXES[format]}")]
    line = one_line(words, 2, capsys)
    assert f"format {format} cannot express the layer Bent; onnx (through torch.onnx) can" in line


def test_a_model_of_a_triton_repository_is_written_versioned_and_judged(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (find_spec("onnx") and find_spec("onnxruntime")):
        pytest.skip("onnx and onnxruntime are not installed")
    monkeypatch.chdir(tmp_path)
    words = ["export", str(ppo_run), "--format", "triton"]
    assert main([*words, "--out", "repository/pole", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["export_format"]) == ("repository/pole/1/model.onnx", "triton")
    assert 'name: "pole"' in Path("repository/pole/config.pbtxt").read_text()
    assert main([*words, "--out", "repository/pole", "--member", "4"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("repository/pole/2/model.onnx: training seed 4")
    assert shown[-2:] == [
        "load it: tritonserver --model-repository=repository",
        "judge it: rlab eval repository/pole/2/model.onnx",
    ]
    assert main(["eval", "repository/pole/2/model.onnx", "--episodes", "1"]) == 0
    assert main(words) == 0
    assert Path("runs/triton/ppo-seed3/1/model.onnx").is_file()
    assert one_line([*words, "--out", "a b"], 2, capsys).endswith("such as models/cartpole.")
