"""`rlab compress`: a policy folder like any other, a report, an exit code, and one line for what is wrong."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rlab
from rlab import api
from rlab.cli.main import main
from rlab.compression.quantized_layers import CompressedLayer
from rlab.errors import UsageError
from rlab.runs import files
from rlab.runs.policies import load_policy

pytestmark = pytest.mark.usefixtures("quick_disk", "few_visits")

QUICK = ("--episodes", "4", "--updates", "20", "--min-return-ratio", "0")


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory, ppo_run: Path) -> Path:
    """`ppo_run` in 8 bits."""
    out = tmp_path_factory.mktemp("compressed") / "int8"
    assert main(["compress", str(ppo_run), "--steps", "int8", "--out", str(out), *QUICK]) == 0
    return out


def told(folder: Path) -> dict[str, Any]:
    return load_policy(folder).extra


def test_a_compressed_policy_tells_its_parent_its_steps_and_what_it_cost(
    ppo_run: Path, rounded: Path, obs: torch.Tensor, road: SimpleNamespace
) -> None:
    extra, parent = told(rounded), files.read_json(ppo_run / "policy" / "policy.json")
    assert extra["parent"] == {"folder": "ppo", "weights_sha256": parent["weights"]["sha256"]}
    assert (extra["agent"], extra["env"]["env_id"], extra["steps"]) == ("ppo", "CartPole-v1", ["int8"])
    assert extra["success"] is True
    assert extra["report"]["seeds"] == [3, 4]
    assert extra["report"]["episodes"] == 4
    assert str(ppo_run.parent) not in (rounded / "policy.json").read_text()
    error = (road.outputs(rounded, obs) - road.outputs(ppo_run, obs)).abs().max()
    assert 0 < error < 0.05


def test_a_compressed_policy_is_judged_and_played_like_any_other(
    rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(rounded), "--episodes", "4", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    means = [each["return_mean"] for each in judged["per_seed"]]
    assert means == told(rounded)["report"]["child"]["returns"]  # the same episodes
    pytest.importorskip("moviepy")
    assert main(["play", str(rounded), "--member", "4", "--video", str(tmp_path / "film.gif")]) == 0
    assert "return" in capsys.readouterr().out


def test_fine_tuning_goes_on_in_float_and_says_so(
    rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], road: SimpleNamespace
) -> None:
    words = ["--env-steps", "128", "--rollout-steps", "16", "--num-envs", "4", "--eval-episodes", "1"]
    words += ["--final-eval-episodes", "1", "--out", str(tmp_path / "run"), "--critic-warmup", "0"]
    assert main(["finetune", str(rounded), *words]) == 0
    assert "its compressed layers go on as plain ones in float, with the weights as they are" in capsys.readouterr().out
    run = load_policy(tmp_path / "run").policy
    assert run.seeds == road.SEEDS
    assert not any(isinstance(layer, CompressedLayer) for layer in run.network.modules())
    before, after = load_policy(rounded).policy.network[0].full_precision().weight, run.network[0].weight
    assert not torch.equal(after, before)  # it learned
    assert (after - before).abs().max() < 0.1  # from there


def test_too_great_a_loss_is_no_success_but_the_folder_is_kept(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--steps", "distil:4", "--updates", "1", "--episodes", "2", "--min-return-ratio", "50"]
    assert main(["compress", str(ppo_run), *words, "--out", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "NOT a success: the lower end of the return ratio is" in shown
    assert f"kept all the same: {out}" in shown
    assert told(out)["success"] is False


def test_one_member_can_be_compressed_alone_and_json_is_one_object(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--steps", "prune:0.5,int8", "--member", "4", "--json", *QUICK]
    assert main(["compress", str(ppo_run), *words, "--out", str(tmp_path / "out")]) == 0
    heard = capsys.readouterr()
    found = json.loads(heard.out)
    assert heard.err == "prune:0.5: done\nint8: done\n"
    assert (found["format"], found["seeds"], found["steps"]) == (1, [4], ["prune:0.5", "int8"])
    assert found["policy"] == str(tmp_path / "out")
    assert found["child"]["parameters"] < found["parent"]["parameters"]
    assert load_policy(tmp_path / "out").policy.seeds == (4,)


def test_without_out_a_fresh_folder_under_runs_is_named_after_the_run_and_the_steps(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/ppo-distil4x4-int8", "runs/ppo-distil4x4-int8-2"):
        done = api.compress(ppo_run, "distil:4x4,int8", episodes=2, updates=1)
        assert str(done.path) == name
        assert rlab.load(name).spec.network.layers[0].args["out_features"] == 4
    assert main(["list", "runs"]) == 0  # policy folders are no runs, and are in nobody's way


def test_what_is_in_the_way_is_refused_before_any_work(
    ppo_run: Path, rounded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in rounded.iterdir()}
    assert main(["compress", str(ppo_run), "--steps", "int4", "--out", str(rounded)]) == 2
    heard = capsys.readouterr()
    assert "exists and is not empty; nothing in it was touched" in heard.err
    assert "done" not in heard.err
    assert before == {path: path.read_bytes() for path in rounded.iterdir()}


@pytest.mark.parametrize("how", [["--steps", "int8"], ["--search", "--max-bytes", "900"]])
def test_a_folder_that_cannot_be_made_is_noticed_before_any_work(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name, there in [("file/out", "file"), ("file/more/out", "file"), ("nowhere/out", "nowhere")]:
        assert main(["compress", str(ppo_run), *how, "--out", str(tmp_path / name), *QUICK]) == 2
        (line,) = capsys.readouterr().err.splitlines()  # and no line of a step that is done
        assert f"cannot write to {tmp_path / name}: {tmp_path / there} is not a folder that can be written." in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_shut_is_noticed_before_any_work(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shut, access = tmp_path / "shut", os.access
    shut.mkdir()
    # The superuser may write everywhere, so that permissions alone would not show it.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shut and access(path, mode))
    for out in (shut / "a" / "b", shut):
        assert main(["compress", str(ppo_run), "--steps", "int8", "--out", str(out), *QUICK]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"cannot write to {out}: {shut} is not a folder that can be written." in line
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("mine")
    assert main(["compress", str(ppo_run), "--steps", "int8", *QUICK]) == 2
    assert "cannot write to runs: runs is not a folder" in capsys.readouterr().err


def test_python_takes_the_steps_as_one_text_or_as_words(ppo_run: Path, tmp_path: Path) -> None:
    for out, steps in [("words", ["distil:4", "fp16"]), ("text", "distil:4,fp16")]:
        done = rlab.compress(ppo_run, steps, out=tmp_path / out, episodes=2, member=4, updates=1)
        assert done.steps == ("distil:4", "fp16")
    for wrong, message in [([], "no steps; name some of"), (["int9"], "Did you mean 'int8'?")]:
        with pytest.raises(UsageError, match=message):
            rlab.compress(ppo_run, wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "int9"], "unknown step 'int9'. Did you mean 'int8'?"),
        (["--steps", "int8,distil:4"], "step distil:4 cannot follow int8"),
        ([], "--steps is missing; give a text"),
        (["--steps", "int8", "--member", "7"], "no member with training seed 7; this policy has training seeds 3, 4."),
        (["--steps", "int8", "--episodes", "0"], "--episodes 0 must be 1 or more."),
        (["--steps", "int8", "--min-return-ratio", "-1"], "--min-return-ratio -1 must be a number of 0 or more"),
        (["--steps", "int8", "--min-return-ratio", "nan"], "--min-return-ratio nan must be a number of 0 or more"),
        (["--search", "--max-bytes", "900", "--min-return-ratio", "inf"], "--min-return-ratio inf must be a number"),
        (["--steps", "int8", "--episodes", "1", "--member", "3"], "give --episodes 2 or more"),
        (["--steps", "distil:4", "--updates", "0"], "updates 0 must be 1 or more."),
        (["--steps", "int8", "--epsodes", "1"], "unknown setting --epsodes. Did you mean --episodes?"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing_behind(
    ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert main(["compress", str(ppo_run), *words, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def test_a_rounded_policy_is_not_rounded_again(rounded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(rounded), "--steps", "int4", *QUICK]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rounded already, so int4 cannot be done; start from the policy that it was made from" in line


def test_a_folder_whose_weights_were_changed_is_refused(
    rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rounded, tmp_path / "changed")
    (weights,) = (tmp_path / "changed").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main(["eval", str(tmp_path / "changed")]) == 1
    assert "has a different SHA-256" in capsys.readouterr().err
