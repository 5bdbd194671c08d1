"""`rlab pretrain`: a run folder like any other, made with the network that the agent will go on with."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.experience.minari_files import read_dataset
from rlab.jobs.defaults import NETWORK_SETTINGS, agent_config, defaults_for
from rlab.jobs.request import Request
from rlab.jobs.running import start
from rlab.runs.policies import load_policy

pytest.importorskip("minari")
pytestmark = pytest.mark.usefixtures("quick_disk")

UPDATES: dict[str, Any] = {"updates": 30, "log_every": 10, "batch_size": 16, "seed": 3, "seeds": 2}
METHODS = [("bc", "ppo", "bc"), ("encoder", "ppo", "encoder"), ("bc", "dqn", "cql")]  # who learns comes last
TAGS = {
    "bc": ("loss/policy", "loss/value", "train/accuracy"),
    "encoder": ("loss/inverse", "loss/forward", "train/accuracy", "train/forward_error"),
    "cql": ("loss/td_huber", "loss/conservative", "q/mean"),
}


def config_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "config.json").read_text())
    return found


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint on standard error, which is one line."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rlab: ")
    return str(line)


@pytest.mark.parametrize(("method", "agent", "learner"), METHODS)
def test_a_pretrained_run_is_a_run_like_any_other(
    tmp_path: Path,
    road: SimpleNamespace,
    dataset: Path,
    method: str,
    agent: str,
    learner: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, film, tuned = (str(tmp_path / name) for name in ("run", "film.gif", "tuned"))
    small = road.flags(**UPDATES, **road.JUDGED)
    assert main(["pretrain", method, str(dataset), "--agent", agent, "--out", out, "--json", *small]) == 0
    judged = json.loads(capsys.readouterr().out)  # one object and nothing else
    assert (judged["agent"], judged["env_id"], judged["policy"]) == (learner, "CartPole-v1", out)
    assert [row["updates"] for row in road.rows(tmp_path / "run")] == [10, 20, 30]
    assert set(TAGS[learner]) <= set(road.rows(tmp_path / "run")[-1])

    assert main(["eval", out, "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per_seed"] == judged["per_seed"]
    assert main(["play", out, "--member", "4", "--video", film]) == 0
    assert Path(film).stat().st_size > 0
    assert main(["resume", out]) == 0
    assert f"{out}: finished, after 30 updates" in capsys.readouterr().out
    assert main(["list", "runs", "--root", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert [row[name] for name in ("agent", "updates", "total_updates", "env_steps")] == [learner, 30, 30, None]
    assert (row["final_iqm"], row["status"]) == (judged["iqm"], "finished")

    budget = road.flags(env_steps=64, num_envs=4, experiment="none", **road.JUDGED)
    assert main(["finetune", out, "--json", "--out", tuned, *budget]) == 0
    expected = agent  # the one that it was pretrained for
    assert json.loads(capsys.readouterr().out)["agent"] == expected == config_of(tmp_path / "tuned")["agent"]


@pytest.mark.parametrize(("method", "agent", "learner"), METHODS)
def test_the_network_is_the_one_that_is_tuned_for_the_agent(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, method: str, agent: str, learner: str
) -> None:
    out = tmp_path / "run"
    said = {"actor_gain": 0.5} if agent == "ppo" else {}
    run = rlab.pretrain(method, dataset, agent=agent, out=out, **said, **UPDATES, **road.JUDGED)
    config, tuned = config_of(out), asdict(defaults_for(agent, "CartPole-v1", None).settings)
    plain = asdict(agent_config(learner))
    assert (config["agent"], run.unit) == (learner, "updates")
    shared = [name for name in (*NETWORK_SETTINGS, "gamma") if name in tuned and name in plain]
    assert {"hidden", "activation", "layer_norm", "init", "obs_scaling", "obs_scale"} <= set(shared)
    unread = config["not_in_force"].keys() & set(shared)
    assert {"squash", "log_std_init"} & set(shared) <= unread  # CartPole's actions are not a Box
    for name in set(shared) - set(said) - unread:
        value = list(tuned[name]) if isinstance(tuned[name], tuple) else tuned[name]
        assert (config["settings"][name], config["origins"][name]) == (value, f"agent {agent}"), name
    for name, value in said.items():  # what is said counts for more
        assert (config["settings"][name], config["origins"][name]) == (value, "command line")
    # and the agent's own network has these very layers
    fresh = tmp_path / "fresh"
    rlab.train(agent, "CartPole-v1", out=fresh, env_steps=8, **{**road.JUDGED, "final_eval_episodes": 0})
    network, theirs = (load_policy(folder).policy.spec.network for folder in (out, fresh))
    assert [layer.kind for layer in network.layers] == [layer.kind for layer in theirs.layers]
    assert {name: value.shape[1:] for name, value in road.weights(out).items()} == {
        name: value.shape[1:] for name, value in road.weights(fresh).items()
    }


def test_the_config_says_all_and_repeats_the_run(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again, python = tmp_path / "run", tmp_path / "again", tmp_path / "python"
    settings = {**UPDATES, **road.JUDGED, "dataset_episodes": 5, "validation_fraction": 0.2}
    assert main(["pretrain", "bc", str(dataset), "--out", str(out), *road.flags(**settings)]) == 0
    config = config_of(out)
    assert (config["unit"], config["start"], config["run"]["updates"]) == ("updates", None, 30)
    assert (config["sources"]["dataset"], config["sources"]["dataset_episodes"]) == (str(dataset), 5)
    assert config["env"]["max_episode_steps"] == road.LIMIT  # as it was recorded
    known = {**config["run"], **config["sources"], **config["settings"]}
    assert config["origins"].keys() == known.keys()
    assert config["origins"]["dataset_episodes"] == config["origins"]["updates"] == "command line"
    assert config["origins"]["teacher"] == config["origins"]["learning_rate"] == "default"

    request = Request.from_json(config, "config.json", trust=False)
    assert start(request, again, progress=False).finished
    rlab.pretrain("bc", dataset, out=python, **settings)
    for other in (again, python):
        road.check_same(road.weights(out), road.weights(other))
        for name in ("metrics.jsonl", "eval.jsonl", "result.json"):
            assert (other / name).read_bytes() == (out / name).read_bytes()
    said = config_of(python)
    assert {**said, "command": "", "origins": {}} == {**config, "command": "", "origins": {}}
    assert said["command"].startswith("rlab.pretrain('bc', env='CartPole-v1', agent='ppo', updates=30, ")


def test_a_network_can_be_another_one_and_the_env_as_well(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, cloned_run: Path
) -> None:
    spec = load_policy(cloned_run).policy.spec
    widths = [layer.args["out_features"] for layer in spec.network.layers if layer.kind == "linear"]
    assert widths == [16, 8, 2]
    assert config_of(cloned_run)["origins"]["hidden"] == "command line"
    out = tmp_path / "run"
    words = road.flags(env="CartPole-v1", max_episode_steps=7, out=out, **UPDATES, **road.JUDGED)
    assert main(["pretrain", "bc", str(dataset), *words]) == 0
    assert config_of(out)["env"]["max_episode_steps"] == 7
    assert road.rows(out, "eval")[-1]["lengths"] == [[7], [7]]


@pytest.mark.parametrize(("method", "agent", "learner"), METHODS)
def test_what_learns_is_what_is_saved(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, method: str, agent: str, learner: str
) -> None:
    request = road.asked("pretrain", method, str(dataset), agent=agent, **UPDATES, **road.JUDGED)
    session, folder, _ = road.begin(request, tmp_path / "run")
    policy = session.agent.policy()
    first = next(iter(session.agent.networks.values()))
    assert policy.network is first
    trained = {id(p) for group in session.agent.optimizer.groups for p in group.parameters}
    body = [p for p in policy.network.parameters() if id(p) in trained]
    assert len(body) == len(list(policy.network.parameters())) - (2 if method == "encoder" else 0)  # a fresh last layer
    road.check_same(road.weights(folder.path), policy.state_dict())


def test_running_scales_are_those_of_the_whole_dataset(tmp_path: Path, road: SimpleNamespace, dataset: Path) -> None:
    rlab.pretrain("bc", dataset, out=tmp_path / "run", obs_scaling="running", **UPDATES, **road.JUDGED)
    seen = np.concatenate([episode.obs[:-1] for episode in read_dataset(dataset).episodes]).astype(np.float64)
    scales = road.weights(tmp_path / "run")
    assert scales["preprocess.count"].tolist() == [len(seen)] * 2
    for member in range(2):
        np.testing.assert_allclose(scales["preprocess.mean"][member].squeeze(), seen.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(scales["preprocess.variance"][member].squeeze(), seen.var(axis=0), rtol=1e-9)


def test_the_head_of_an_encoder_is_as_fresh_as_when_it_began(
    tmp_path: Path, road: SimpleNamespace, dataset: Path
) -> None:
    runs = []
    for updates in (1, 30):
        out = tmp_path / str(updates)
        rlab.pretrain("encoder", dataset, out=out, **{**UPDATES, "updates": updates}, **road.JUDGED)
        runs.append(road.weights(out))
    last = [name for name in runs[0] if name.startswith("network.4.")]
    assert len(last) == 2
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]) == (name in last or name.startswith("preprocess.")), name


def edited(dataset: Path, folder: Path, **env: Any) -> Path:
    """A copy of a dataset that says it was recorded in another env."""
    shutil.copytree(dataset, folder)
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["rlab"]["env"] = {**metadata["rlab"]["env"], **env} if env else None
    path.write_text(json.dumps(metadata))
    return folder


WRAPPER = """
import gymnasium

class Plain(gymnasium.Wrapper):
    pass
"""


def test_code_of_others_that_a_dataset_names_runs_only_where_it_is_trusted(
    tmp_path: Path,
    road: SimpleNamespace,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "wrapper_of_a_stranger.py").write_text(WRAPPER)
    monkeypatch.syspath_prepend(tmp_path)
    wrappers = [{"name": "wrapper_of_a_stranger:Plain", "args": {}}]
    data, out = edited(dataset, tmp_path / "data", wrappers=wrappers), tmp_path / "run"
    words = ["pretrain", "bc", str(data), "--out", str(out), *road.flags(**UPDATES, **road.JUDGED)]
    assert main(words) == 1
    assert f"{data} names wrapper_of_a_stranger, which is code from outside rlab; add --trust" in one_line(capsys)
    with pytest.raises(rlab.errors.RlabError, match="add --trust"):
        rlab.pretrain("bc", data, out=out, **UPDATES)
    assert not out.exists()
    assert main([*words, "--trust"]) == 0
    rlab.pretrain("bc", data, out=tmp_path / "python", trust=True, **UPDATES, **road.JUDGED)


WRONG = [
    ("", "pretrain needs a method and a dataset: rlab pretrain"),
    ("bcc {whole}", "unknown method of pretraining 'bcc'. Did you mean 'bc'?"),
    (
        "cql {whole}",
        "cql is an agent and no method of pretraining, as bc and encoder are: rlab train cql ENV --dataset",
    ),
    ("dqn {whole}", "as bc and encoder are: rlab pretrain bc DATASET --agent dqn"),
    ("{whole} bc", "unknown method of pretraining"),
    ("bc", "pretrain bc needs a dataset"),
    ("encoder --updates 3", "pretrain encoder needs a dataset"),
    ("bc {missing}", "neither a folder nor a Minari id"),
    ("bc {unknown}", "does not say which env it was recorded in; name it: --env ENV."),
    ("bc {gone}", "unknown env 'NotHere-v0'"),
    ("bc {whole} --env CartPol-v1", "Did you mean 'CartPole-v1'?"),
    ("bc {whole} --env Acrobot-v1", "those of Acrobot-v1 are Box((6,), float32)"),
    ("bc {whole} --agent pppo", "unknown agent 'pppo'. Did you mean 'ppo'?"),
    ("bc {whole} --gama 0.9", "unknown setting --gama for bc. Did you mean --gamma?"),
    ("bc {whole} --agent dqn --label-smoothing 0.1", "unknown setting --label-smoothing for cql"),
    ("encoder {whole} --objective inverted", "--objective inverted: not one of inverse, forward, dynamics"),
    ("bc {whole} --dataset {missing}", "contradicts {whole}, the word after bc; leave it out"),
    ("bc {whole} --demonstration-share 0.5", "bc mixes no replay with demonstrations"),
    ("bc {whole} --teacher {whole}", "is neither a run folder"),
    ("bc {whole} --dataset-episodes 99", "has 12 episodes; choose 1 to 12 of them, not 99"),
    ("bc {whole} --patience 2", "--patience 2 counts validations"),
    ("bc {whole} --out {whole}", "exists and is not empty"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: value)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path: Path, dataset: Path, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = edited(dataset, tmp_path / "unknown")
    gone = edited(dataset, tmp_path / "gone", env_id="NotHere-v0")
    before = sorted(tmp_path.rglob("*"))
    places = {"whole": dataset, "missing": tmp_path / "missing", "unknown": unknown, "gone": gone}
    argv = ["pretrain", *words.format(**places).split()]
    out = [] if len(argv) == 1 or "--out" in argv or not words.partition(" ")[2] else ["--out", str(tmp_path / "run")]
    assert main([*argv, *out]) == (1 if "--teacher" in argv else 2)
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert said.format(**places) in line
    assert "Traceback" not in line
    assert sorted(tmp_path.rglob("*")) == before
