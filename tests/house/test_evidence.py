"""What is on record of a run, a policy, an exported file and a result of `rlab bench`, all in one form."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.errors import RlabError, UsageError
from rlab.jobs import evidence
from rlab.jobs.evidence import Parent, Protocol, read_evidence
from rlab.runs import files
from rlab.runs.folder import RunFolder
from rlab.runs.policies import load_policy, save_policy

pytestmark = pytest.mark.usefixtures("quick_disk")


def digest(folder: Path) -> str:
    return str(files.read_json(folder / "policy.json")["weights"]["sha256"])


def child_of(run: Path, out: Path) -> Path:
    """A policy folder that says what `rlab compress` says of a compressed `run`."""
    loaded = load_policy(run)
    parent = {"folder": run.name, "weights_sha256": digest(loaded.folder)}
    facts = {**loaded.extra, "parent": parent, "steps": ["int8"], "updates": 5}
    save_policy(out, loaded.policy, facts)
    return out


def test_a_run_tells_what_it_is_how_it_was_made_and_what_it_reached(ppo_run: Path) -> None:
    found = read_evidence(ppo_run)
    assert (found.kind, found.name, found.agent, found.env.env_id) == ("run", "ppo", "ppo", "CartPole-v1")
    assert (found.seeds, found.env.max_episode_steps, found.status) == ((3, 4), 30, "finished")
    assert found.protocol == Protocol(1, 100_000)
    recorded = json.loads((ppo_run / "result.json").read_text())["per_seed"]
    assert found.returns is not None
    assert found.returns.tolist() == [row["returns"] for row in recorded]
    assert found.curve is not None
    assert (found.curve[0].tolist(), found.curve[1].shape) == ([512], (2, 1))  # it was judged once, at its end
    assert (found.unit, found.time, found.settings["hidden"]) == ("env_steps", 512, [16, 8])
    assert (found.origins["hidden"], found.origins["gamma"]) == ("command line", "default")
    assert (found.weights_sha256, found.parent) == (digest(ppo_run / "policy"), None)
    assert found.versions["rlab"] == rlab.__version__
    assert found.hardware["device"] == "cpu"
    assert str(found.command).startswith("rlab.train(")
    assert json.loads(json.dumps(evidence.to_json(found)))["env"]["env_id"] == "CartPole-v1"


def test_the_policy_folder_of_a_run_is_the_run_and_its_best_is_another_policy(ppo_run: Path) -> None:
    assert read_evidence(ppo_run / "policy").returns is not None
    assert rlab.Run.open(ppo_run).path == ppo_run
    assert read_evidence(rlab.Run.open(ppo_run)).kind == "run"


def test_the_curve_has_a_row_for_each_member_and_a_column_for_each_evaluation(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "env_steps": 128,
        "rollout_steps": 16,
        "num_envs": 2,
        "max_episode_steps": 20,
        "hidden": (4,),
    }
    judged: dict[str, Any] = {"eval_every": 64, "eval_episodes": 2, "final_eval_episodes": 0, "experiment": "none"}
    rlab.train("ppo", "CartPole-v1", out=tmp_path / "run", seeds=2, **settings, **judged)
    found = read_evidence(tmp_path / "run")
    assert found.curve is not None
    when, returns = found.curve
    assert when.tolist() == [64, 128]
    assert returns.shape == (2, 2)
    assert (found.returns, found.protocol, found.seeds, found.can_be_judged) == (None, None, (0, 1), True)


def test_a_run_in_parts_that_is_not_put_together_has_the_curve_that_its_parts_share(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"env_steps": 128, "rollout_steps": 16, "num_envs": 2, "max_episode_steps": 20}
    judged: dict[str, Any] = {"eval_every": 64, "eval_episodes": 1, "final_eval_episodes": 0, "experiment": "none"}
    rlab.train("ppo", "CartPole-v1", out=tmp_path / "run", seeds=3, hidden=(4,), **settings, **judged)
    whole = read_evidence(tmp_path / "run").curve
    assert whole is not None
    rows = [json.loads(row) for row in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    for number, members in (("0", slice(0, 2)), ("1", slice(2, 3))):
        part = tmp_path / "run" / "parts" / number
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        config["run"] |= {"seed": members.start, "seeds": members.stop - members.start}
        RunFolder.create(part, config)
        own = [
            {**row, **{name: row[name][members] for name in ("seeds", "returns", "lengths") if name in row}}
            for row in rows
        ]
        (part / "metrics.jsonl").write_text(json.dumps({"format": 1, "seeds": own[0]["seeds"]}) + "\n")
        (part / "timing.jsonl").write_text(json.dumps({"format": 1, "seeds": own[0]["seeds"]}) + "\n")
        kept = own if number == "0" else own[:-1]  # the second part has not been judged for the last time
        (part / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (tmp_path / "run" / "eval.jsonl").unlink()
    found = read_evidence(tmp_path / "run").curve
    assert found is not None
    assert found[0].tolist() == [64]
    assert found[1].tolist() == whole[1][:, :1].tolist()


def test_members_that_were_dropped_are_not_among_its_seeds(ppo_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ppo_run, run)
    rows = (run / "eval.jsonl").read_text().splitlines()
    final = json.loads(rows[-1])
    final["returns"][0] = [None]
    (run / "eval.jsonl").write_text("\n".join([*rows[:-1], json.dumps(final)]) + "\n")
    found = read_evidence(run)
    assert (found.seeds, np.shape(found.returns)) == ((4,), (1, 1))


def test_a_compressed_policy_names_the_weights_that_it_was_made_of(ppo_run: Path, tmp_path: Path) -> None:
    found = read_evidence(child_of(ppo_run, tmp_path / "small"))
    assert (found.kind, found.name, found.returns) == ("policy", "small", None)
    assert found.parent == Parent("ppo", digest(ppo_run / "policy"), "compressed")
    assert found.settings == {"steps": ["int8"], "updates": 5}


def test_a_fine_tuned_run_names_the_weights_that_it_began_with(
    ppo_run: Path, tmp_path: Path, road: SimpleNamespace
) -> None:
    rlab.finetune(ppo_run, out=tmp_path / "next", env_steps=64, rollout_steps=8, num_envs=4, seed=3, seeds=2)
    assert read_evidence(tmp_path / "next").parent == Parent("ppo", digest(ppo_run / "policy"), "fine-tuned")


def test_an_exported_file_names_the_weights_that_it_was_made_of(
    ppo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlab.jobs.export.REPEATS", 2)
    rlab.export(ppo_run, "numpy", out=tmp_path / "four.npz", member=4)
    found = read_evidence(tmp_path / "four.npz")
    assert (found.kind, found.name, found.agent, found.seeds) == ("file", "four.npz", "ppo", (4,))
    assert found.parent is not None
    assert (found.parent.how, found.parent.weights_sha256) == ("exported", digest(ppo_run / "policy"))


def test_a_recorded_result_is_named_by_its_file_its_experiment_file_or_its_experiment() -> None:
    found = read_evidence("dqn-CartPole-v1")
    assert (found.kind, found.name, found.agent, found.can_be_judged) == ("result", "dqn-CartPole-v1", "dqn", False)
    assert (found.seeds, np.shape(found.returns)) == (tuple(range(20)), (20, 100))
    assert found.protocol == Protocol(100, 100_000)
    assert (found.time, found.settings["n_step"]) == (50_000, 5)
    assert "torch" in found.versions
    assert "cores" in found.hardware


@pytest.mark.parametrize("path", sorted(evidence.shipped_folder().glob("*-v*.result.json")), ids=lambda path: path.name)
def test_every_recorded_result_is_readable_old_ones_too(path: Path) -> None:
    found = read_evidence(path)
    assert found.returns is not None
    assert len(found.returns) == len(found.seeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.pop("evaluation"), "is not a result of rlab bench"),
        (lambda result: result["evaluation"]["per_seed"][0]["returns"].pop(), "is not a whole result"),
        (lambda result: result["evaluation"]["per_seed"][0].update(seed=1), "is not a whole result"),
        (lambda result: result["config"]["env"].pop("env_id"), "names no env_id"),
        (lambda result: result["evaluation"]["per_seed"].clear(), "is not a whole result"),
    ],
)
def test_a_result_that_was_edited_is_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    result = json.loads((evidence.shipped_folder() / "dqn-CartPole-v1.result.json").read_text())
    change(result)
    path = tmp_path / "mine.result.json"
    path.write_text(json.dumps(result))
    with pytest.raises(RlabError, match=message):
        read_evidence(path)


def test_what_is_none_of_these_is_refused_with_what_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'nowhere' is not there, or is not a run .*, a published policy"):
        read_evidence("nowhere")
    (tmp_path / "my.toml").write_text("")
    with pytest.raises(UsageError, match=r"my\.toml has no recorded result yet: rlab bench .*my\.toml records one"):
        read_evidence(tmp_path / "my.toml")
    with pytest.raises(RlabError, match="is not a run folder"):
        read_evidence(tmp_path)
