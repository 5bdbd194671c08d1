"""`rlab publish`: versions, what they say, and their names wherever a policy is taken."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab import api
from rlab.cli.main import main
from rlab.errors import RlabError, RlabWarning, UsageError
from rlab.jobs.evidence import read_evidence
from rlab.jobs.saved import open_policy
from rlab.runs import registry
from rlab.runs.folder import RunFolder
from rlab.runs.observed import load_observed
from rlab.runs.versions import read_version

pytestmark = pytest.mark.usefixtures("quick_disk")
TINY: dict[str, Any] = {
    "env_steps": 64,
    "num_envs": 2,
    "rollout_steps": 16,
    "minibatches": 1,
    "hidden": (4,),
    "experiment": "none",
    "seed": 3,
    "seeds": 2,
    "eval_every": 32,
    "eval_episodes": 1,
    "final_eval_episodes": 6,
    "max_episode_steps": 30,
}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder in which pole@1 was trained, pole@2 fine-tuned from it and pole@3 compressed from that."""
    folder = tmp_path_factory.mktemp("life")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv(registry.VARIABLE, raising=False)
        api.train("ppo", "CartPole-v1", out="run", **TINY)
        api.publish("run", "pole", alias=["best", "tested"])
        api.finetune(
            "pole@best", out="tuned", **{k: v for k, v in TINY.items() if k not in ("hidden", "seed", "seeds")}
        )
        api.publish("tuned", "pole", alias="best")
        api.compress("pole@best", "int8", out="small", episodes=4, min_return_ratio=0)
        api.publish("small", "pole", episodes=3)
        yield folder


@pytest.fixture
def here(life: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(life)
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    return life


def version_of(name: str) -> Any:
    return read_version(registry.resolve(name))


def test_a_version_is_the_policy_of_its_run_byte_for_byte(here: Path) -> None:
    for path in Path("run/policy").iterdir():
        assert (Path("models/pole/1") / path.name).read_bytes() == path.read_bytes()


def test_a_version_says_what_its_run_returned_without_judging_again(here: Path) -> None:
    version, result = version_of("pole@1"), json.loads(Path("run/result.json").read_text())
    assert version.returned.iqm == result["iqm"]
    assert list(version.returned.ci95) == result["ci95"]
    assert (version.returned.episodes, version.returned.first_seed) == (6, 100_000)
    evidence = read_evidence("pole@1")
    assert evidence.returns.tolist() == [row["returns"] for row in result["per_seed"]]
    assert (evidence.name, evidence.seeds, evidence.time, evidence.agent) == ("pole@1", (3, 4), 64, "ppo")
    assert evidence.settings["hidden"] == [4]


def test_the_lineage_names_versions_from_the_last_step_to_the_first(here: Path) -> None:
    assert [str(step) for step in version_of("pole@3").lineage] == [
        "compressed (int8) from pole@2",
        "fine-tuned from pole@1",
        "trained",
    ]
    weights = [version_of(f"pole@{number}").weights_sha256 for number in (1, 2)]
    assert [step.weights_sha256 for step in version_of("pole@3").lineage] == [*reversed(weights), None]


def test_a_policy_that_was_never_judged_is_judged_when_it_is_published(here: Path) -> None:
    returned = version_of("pole@3").returned
    assert returned.episodes == 3
    again = rlab.evaluate("pole@3", episodes=3)
    assert (returned.iqm, returned.mean) == (again.iqm, again.returns.mean())


def test_what_a_policy_observed_is_published_with_it_and_recorded_where_it_is_judged_now(
    here: Path, tmp_path: Path
) -> None:
    recorded = load_observed(registry.resolve("pole@1"))
    assert recorded.keys() == {3, 4}
    assert Path("models/pole/1/observed.json").read_bytes() == Path("run/policy/observed.json").read_bytes()
    alone = load_observed(api.publish("run", "single", member=4, models=tmp_path).path)
    assert {seed: each.to_json() for seed, each in alone.items()} == {4: recorded[4].to_json()}
    best = load_observed(api.publish("run/best", "best", episodes=6, models=tmp_path).path)
    assert [each.episodes for each in best.values()] == [6, 6]
    with pytest.raises(UsageError, match="is a published version, which never changes"):
        rlab.evaluate("pole@1", episodes=6, record_observed=True)


def test_a_record_keeps_the_number_where_an_alias_was_named(here: Path) -> None:
    assert RunFolder.open("tuned").config["start"]["run"] == "pole@1"
    assert open_policy("small", False).policy is not None
    assert json.loads(Path("small/policy.json").read_text())["extra"]["parent"]["folder"] == "pole@2"


def test_finetuning_a_version_goes_on_with_the_settings_of_its_run(here: Path) -> None:
    from_run, from_version = (RunFolder.open("tuned").config, RunFolder.open("run").config)
    assert from_run["settings"]["gamma"] == from_version["settings"]["gamma"]
    assert from_run["settings"]["learning_rate"] == 0.3 * from_version["settings"]["learning_rate"]
    assert from_run["origins"]["minibatches"] == "command line"


def test_every_verb_that_takes_a_policy_takes_its_name(here: Path, tmp_path: Path) -> None:
    obs = np.zeros((5, 4), np.float32)
    assert (rlab.load("pole@1")(obs) == rlab.load("run")(obs)).all()
    few = "--env-steps 64 --num-envs 2 --final-eval-episodes 1"
    for words in (
        "eval pole@best --episodes 2",
        "play pole --video OUT/film.gif",
        "collect pole@1 --out OUT/data --episodes 2",
        f"finetune pole@tested --out OUT/tuned {few}",
        f"train ppo CartPole-v1 --teacher pole@best --seed 3 --seeds 2 --rollout-steps 16 --out OUT/taught {few}",
        "compress pole@1 --steps int8 --min-return-ratio 0 --episodes 2 --out OUT/small",
        "export pole@1 --format numpy --out OUT/pole.npz",
        "compare pole@1 new=pole@best run",
        "report pole@1 pole@2 --out OUT/page --no-png",
    ):
        assert main(words.replace("OUT", str(tmp_path)).split()) == 0, words
    assert RunFolder.open(tmp_path / "taught").config["sources"]["teacher"] == "pole@2"
    assert "pole@1" in (tmp_path / "page/report.html").read_text()


def test_a_comparison_takes_recorded_returns_and_knows_who_descends_from_whom(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlab.jobs.compare.evaluate", None)  # nothing is judged
    found = rlab.compare("pole@1", "pole@2", "run")
    assert [side.name for side in found.sides] == ["pole@1", "pole@2", "run"]
    assert "pole@2 was fine-tuned from pole@1, its recorded parent" in found.notes
    assert "pole@1 and run have the same weights" in found.notes


def test_one_member_is_published_alone_and_says_what_it_was_taken_from(here: Path, tmp_path: Path) -> None:
    done = api.publish("run", "single", member=4, models=tmp_path)
    whole, alone = rlab.load("run", seed=4), rlab.load(done.path)
    obs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert (whole(obs) == alone(obs)).all()
    assert done.version.seeds == (4,)
    assert done.version.returned.ci95 is None
    result = json.loads(Path("run/result.json").read_text())
    assert done.version.returned.iqm == result["per_seed"][1]["return_mean"]
    assert [str(step) for step in done.version.lineage] == ["taken from run", "trained"]


def test_an_alias_moves_without_a_new_version(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.publish("run", "pole", models=tmp_path)
    api.publish("tuned", "pole", models=tmp_path)
    words = ["publish", "pole@1", "--alias", "best", "old", "--models", str(tmp_path), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["new"], found["aliases"]) == ("pole@1", False, ["best", "old"])
    assert registry.resolve("pole@best", tmp_path) == tmp_path / "pole/1"
    assert registry.numbers_of(tmp_path / "pole") == [1, 2]
    with pytest.raises(UsageError, match="pole@2 is published already: name what should change"):
        api.publish("pole@2", models=tmp_path)


def test_a_version_becomes_one_of_another_model_with_all_that_is_known_of_it(here: Path, tmp_path: Path) -> None:
    done = api.publish("pole@2", "cart", models="models")
    old = version_of("pole@2")
    for name in ("lineage", "returned", "config", "computed_with", "weights_sha256", "time"):
        assert getattr(done.version, name) == getattr(old, name), name
    assert done.version.source == "pole@2"


def test_the_list_shows_versions_and_why_one_cannot_be_used(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.publish("run", "pole", alias="best", models=tmp_path)
    api.publish("tuned", "pole", models=tmp_path)
    path = tmp_path / "pole/2/version.json"
    path.write_text(path.read_text().replace('"ppo"', '"dqn"'))
    assert main(["list", "models", "--root", str(tmp_path), "--json"]) == 0
    broken, good = json.loads(capsys.readouterr().out)["models"]
    assert (good["model"], good["aliases"], good["agent"], good["made"]) == ("pole@1", ["best"], "ppo", "trained")
    assert "different SHA-256" in broken["reason"]
    assert main(["list", "models", "--root", str(tmp_path), "--agent", "ppo"]) == 0
    shown = capsys.readouterr().out
    assert "pole@1" in shown
    assert "pole@2" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "publish needs the name of the model: rlab publish run NAME."),
        (["run", "a/b"], "cannot be the name of a model"),
        (["run", "pole", "--alias", "latest"], "the alias latest is always the version with the highest number"),
        (["run", "pole", "--to", "s3:x"], "a policy is pushed to the Hugging Face hub alone: --to hf:USER/NAME."),
        (["run", "pole", "--private"], "--private is for repositories on the hub"),
        (["run", "pole", "--episodes", "0"], "--episodes 0 must be 1 or more."),
        (["run", "pole", "--member", "9"], "9"),
        (["pole@9", "pole"], "pole has no version 9; it has 1, 2, 3."),
        (["nowhere", "pole"], "nowhere is not a folder. `rlab list runs` shows the runs"),
        (["gone.onnx", "pole"], "gone.onnx is not a folder"),
    ],
)
def test_what_cannot_be_published_is_one_line_and_makes_no_version(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["publish", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert registry.numbers_of(Path("models/pole")) == [1, 2, 3]


def test_a_run_that_was_to_learn_on_is_named(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_evidence("run")
    whole = {**run.settings, "env_steps": 1_000_000}
    cut = replace(run, status="stopped", settings=whole)
    monkeypatch.setattr("rlab.jobs.publish.read_evidence", lambda path, trust: cut)
    with pytest.warns(RlabWarning, match=rf"is stopped, after {run.time:,} of 1,000,000 env steps; what is published"):
        api.publish("run", "pole", models=tmp_path)


def test_a_run_that_saves_anew_while_it_is_published_is_told_so(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = replace(read_evidence("run"), weights_sha256="0" * 64)
    monkeypatch.setattr("rlab.jobs.publish.read_evidence", lambda path, trust: before)
    with pytest.raises(RlabError, match=r"run/policy was saved anew while it was being published.* Publish again\."):
        api.publish("run", "pole", models=tmp_path)
    assert registry.names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["policy.json", "version.json", "evaluation.json"])
def test_a_version_that_was_changed_is_refused(here: Path, tmp_path: Path, name: str) -> None:
    done = api.publish("run", "pole", models=tmp_path)
    path = done.path / name
    path.write_bytes(path.read_bytes().replace(b"3", b"5", 1))
    with pytest.raises(RlabError, match=r"different SHA-256 than .*manifest\.json records"):
        read_evidence(done.path) if name != "policy.json" else rlab.load(done.path)
