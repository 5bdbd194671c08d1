"""Runs that learn from a dataset, alone or beside an env: stopped ones go on with the same bits and the same data."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab import api
from rlab.agents.dqn import DQN
from rlab.cli.main import main
from rlab.experience.dataset import Dataset, Episode
from rlab.experience.minari_files import read_dataset
from rlab.experience.recording_lines import Answers, Header, Told, segment_name
from rlab.learning.contract import Batch
from rlab.runs.folder import RunFolder

pytest.importorskip("minari")
pytestmark = pytest.mark.usefixtures("quick_disk")

# Evaluations come between the reports, so that a run can be stopped there too.
UPDATES: dict[str, Any] = {"updates": 45, "log_every": 10, "eval_every": 23, "checkpoint_every": 20, "batch_size": 16}
HELD_OUT = {"validation_fraction": 0.3, "dropout": 0.2}
AGENTS: dict[str, dict[str, Any]] = {
    # at this rate the best weights are early ones
    "bc": {**HELD_OUT, "patience": 9, "learning_rate": 0.3, "obs_noise": 0.1, "class_weights": "balanced"},
    "dqfd": {"dropout": 0.2, "target_every": 7, "lr_schedule": "cosine"},
    "cql": {"target_every": 7, "obs_scaling": "running", "n_step": 3},
    "iql": {"dropout": 0.2},
    "encoder": {**HELD_OUT, "obs_scaling": "running"},
}


def run_settings(road: SimpleNamespace, agent: str, dataset: Path) -> dict[str, Any]:
    tiny = {name: value for name, value in road.TINY.items() if name != "num_envs"}  # no env is stepped
    return {**tiny, **UPDATES, **AGENTS[agent], "dataset": str(dataset), "max_episode_steps": road.LIMIT}


# Of the others tests/house/test_exact_resume.py stops runs four times.
@pytest.mark.parametrize(
    "agent", [pytest.param(name, marks=() if name in ("bc", "dqfd") else pytest.mark.prove) for name in AGENTS]
)
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = road.asked("train", agent, "CartPole-v1", **run_settings(road, agent, dataset))
    whole, after_report, between_reports = (tmp_path / name for name in ("whole", "after", "between"))
    road.begin(request, whole)
    assert road.begin(request, after_report, [road.StopAt(20)])[2].time == 20
    assert road.begin(request, between_reports, [road.StopAt(23)])[2].time == 23
    for out in (after_report, between_reports):
        assert not (out / "result.json").exists()
        assert main(["resume", str(out)]) == 0
        for part in ("policy", "best"):
            road.check_same(road.weights(whole / part), road.weights(out / part))
        assert (out / "eval.jsonl").read_bytes() == (whole / "eval.jsonl").read_bytes()
    assert (after_report / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    # where it stopped between two reports, the next one is of the updates since
    expected, found = (road.rows(out) for out in (whole, between_reports))
    assert [row["updates"] for row in found] == [10, 20, 30, 40, 45]
    assert [row for row in found if row["updates"] != 30] == [row for row in expected if row["updates"] != 30]

    capsys.readouterr()
    assert main(["resume", str(whole)]) == 0
    assert capsys.readouterr().out.startswith(f"{whole}: finished, after 45 updates; --updates N, with N above 45,")


def test_what_early_stopping_ended_is_finished(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = {**run_settings(road, "bc", dataset), "updates": 9000, "learning_rate": 0.1, "patience": 1}
    run = api.train("bc", "CartPole-v1", out=out, **settings)
    assert run.finished
    assert run.time < 9000
    before = (out / "result.json").read_bytes()
    assert main(["resume", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: finished, after {run.time} updates")
    assert main(["resume", str(out), "--updates", "9999"]) == 2
    assert f"every seed of {out} stopped early, after {run.time} updates: more would" in one_line(capsys)
    assert (out / "result.json").read_bytes() == before
    exact = {**settings, "updates": run.time, "final_eval_episodes": 0}  # its patience ends with its budget
    api.train("bc", "CartPole-v1", out=tmp_path / "exact", **exact)
    with pytest.raises(rlab.UsageError, match=rf"exact stopped early, after {run.time} updates: more would change"):
        api.resume(tmp_path / "exact", updates=9999)


def test_runs_are_listed_with_their_updates(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = road.asked("train", "cql", "CartPole-v1", **run_settings(road, "cql", dataset))
    road.begin(request, tmp_path / "stopped", [road.StopAt(20)])
    road.begin(request, tmp_path / "whole")
    capsys.readouterr()
    assert main(["list", "runs", "--root", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    columns = ("agent", "env_id", "seeds", "env_steps", "updates", "total_updates", "status")
    assert [[row[column] for column in columns] for row in listed] == [
        ["cql", "CartPole-v1", [3, 4], None, 20, 45, "stopped"],
        ["cql", "CartPole-v1", [3, 4], None, 45, 45, "finished"],
    ]
    assert main(["list", "runs", "--root", str(tmp_path)]) == 0
    assert "updates  total_updates" in capsys.readouterr().out


KINDS = [
    ("cql", "Masked"),
    ("dqfd", "DiscreteObservation"),
    ("iql", "Continuous"),
    ("bc", "MultiDiscrete"),
    ("bc", "DictObservation"),
    ("encoder", "MultiBinary"),
]


@pytest.mark.parametrize(("agent", "kind"), KINDS)
def test_every_kind_of_actions_and_observations_goes_the_whole_road(
    tmp_path: Path, road: SimpleNamespace, agent: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    env, data, out = f"rlab/Probe{kind}-v0", str(tmp_path / "data"), str(tmp_path / "run")
    assert main(["collect", "random", "--env", env, "--episodes", "20", "--out", data]) == 0
    small = road.flags(updates=20, batch_size=8, hidden=(8,), **road.JUDGED)
    assert main(["train", agent, env, "--dataset", data, "--out", out, *small]) == 0
    capsys.readouterr()
    assert main(["eval", out, "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["env_id"] == env


SHARED: dict[str, Any] = {"demonstration_share": 0.5, "env_steps": 256, "learning_starts": 64, "log_every": 64}
SHARED |= {"batch_size": 8, "n_step": 3}


def known_rows(dataset: Dataset) -> set[bytes]:
    """Every observation that the episodes hold."""
    return {row.tobytes() for episode in dataset.episodes for row in episode.obs}


def test_a_share_of_every_batch_comes_from_the_dataset(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[Batch] = []

    prepare = DQN.prepare

    def noted(self: DQN, batch: Batch) -> Batch:
        learned.append(batch)
        return prepare(self, batch)

    monkeypatch.setattr(DQN, "prepare", noted)
    for share, pattern in ((0.5, [False, True] * 4), (0.25, [False, False, False, True] * 2)):
        learned.clear()
        settings = {**SHARED, "demonstration_share": share, "dataset": str(dataset)}
        request = road.asked("train", "dqn", "CartPole-v1", **road.TINY, **settings)
        road.begin(request, tmp_path / str(share))
        demonstrated = torch.cat([batch["demonstration"] for batch in learned], dim=1)  # [S, rows]
        assert demonstrated.shape[1] > 100
        assert (demonstrated.unflatten(1, (-1, 8)) == torch.tensor(pattern)).all()
        shown, known = torch.cat([batch["obs"] for batch in learned], dim=1), known_rows(read_dataset(dataset))
        inside = np.array([[row.numpy().tobytes() in known for row in member] for member in shown])
        assert (inside == demonstrated.numpy()).all()  # no other row is a demonstration


def stopped_beside_a_dataset(road: SimpleNamespace, out: Path, data: Path) -> RunFolder:
    request = road.asked("train", "dqn", "CartPole-v1", **road.TINY, **SHARED, dataset=str(data))
    _, folder, outcome = road.begin(request, out, [road.StopAt(128)])
    assert (outcome.finished, outcome.time) == (False, 128)
    return folder


def test_a_run_beside_a_dataset_goes_on_only_with_the_same_one(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset, data)
    stopped_beside_a_dataset(road, out, data)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()

    shutil.rmtree(data)
    assert main(["resume", str(out)]) == 2
    assert f"{data} is neither a folder nor a Minari id" in one_line(capsys)
    api.collect_random("CartPole-v1", data, episodes=12)
    assert main(["resume", str(out)]) == 1
    assert "the dataset data-v0 is not the one that this run began with, cartpole-v0" in one_line(capsys)
    assert {path: path.read_bytes() for path in before} == before

    shutil.rmtree(data)
    shutil.copytree(dataset, data)
    assert main(["resume", str(out)]) == 0
    # one at each multiple of 8 from env step 64 on, four updates each, as if it had never been stopped
    assert [row["train/updates"] for row in road.rows(out)] == [4.0 * (t // 8 - 7) for t in (64, 128, 192, 256)]


def test_a_run_on_a_dataset_goes_on_only_with_the_same_one(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset, data)
    request = road.asked("train", "cql", "CartPole-v1", **run_settings(road, "cql", data))
    road.begin(request, out, [road.StopAt(20)])
    capsys.readouterr()
    shutil.rmtree(data)
    api.collect_random("CartPole-v1", data, episodes=12)
    assert main(["resume", str(out)]) == 1
    assert "a run can only be resumed with the same episodes" in one_line(capsys)


@pytest.mark.parametrize("agent", ["bc", "cql", "iql"])
def test_learners_take_the_recording_of_a_server_and_go_on_only_while_it_stays_as_it_was(
    tmp_path: Path, road: SimpleNamespace, dataset: Path, agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_dataset(dataset)
    folder = tmp_path / "recordings" / "cartpole"
    folder.mkdir(parents=True)
    header = Header("cartpole", "1", found.obs_space, found.action_space)
    lines = [line for number, episode in enumerate(found.episodes) for line in as_asked(f"e{number}", episode)]
    segment = folder / segment_name(1, 1)
    segment.write_bytes(header.to_line() + b"".join(lines))
    request = road.asked("train", agent, "CartPole-v1", **run_settings(road, agent, folder.parent))
    assert road.begin(request, tmp_path / "run", [road.StopAt(20)])[2].time == 20
    assert main(["resume", str(tmp_path / "run")]) == 0
    road.begin(request, tmp_path / "stopped", [road.StopAt(20)])
    segment.write_bytes(header.to_line() + b"".join(lines[: len(lines) // 2]))
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "stopped")]) == 1
    assert "a run can only be resumed with the same episodes" in one_line(capsys)


def as_asked(sequence: str, episode: Episode) -> Iterator[bytes]:
    """The lines that a server writes of an episode whose every step is asked of it."""
    for step in range(episode.length):
        id, last = f"{sequence}-{step}", step == episode.length - 1
        obs, action = episode.obs[step : step + 1], episode.action[step : step + 1]
        yield Answers(step, (id,), (1,), (sequence,), (False,), obs, action).to_line()
        ends = [np.array([last and end]) for end in (episode.terminated, not episode.terminated)]
        yield Told(step, id, episode.reward[step : step + 1], *ends, episode.obs[-1:] if last else obs[:0]).to_line()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint on standard error, which is one line."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rlab: ")
    return str(line)


def damaged(dataset: Path, folder: Path) -> None:
    """Datasets in all states that a careless person leaves them in."""
    import h5py

    for name in ("cut", "empty", "edited"):
        shutil.copytree(dataset, folder / name)
    main_file = folder / "cut" / "data" / "main_data.hdf5"
    main_file.write_bytes(main_file.read_bytes()[:5000])
    with h5py.File(folder / "empty" / "data" / "main_data.hdf5", "a") as file:
        for episode in list(file):
            del file[episode]
    for name, changes in (("empty", {"total_episodes": 0, "total_steps": 0}), ("edited", {"rlab": {"env": ["?"]}})):
        path = folder / name / "data" / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (folder / "nothing").mkdir()


ON, OFF = "CartPole-v1 --dataset {whole}", "CartPole-v1"
WRONG = [
    (2, f"train cql {OFF}", "cql learns from a dataset: name one with --dataset DIR"),
    (2, f"train ppo {ON}", "ppo learns from its own rollouts; --dataset is for agents with a replay"),
    (2, f"train dqn {ON}", "--dataset and --demonstration-share belong together"),
    (2, f"train dqn {OFF} --demonstration-share 0.5", "--dataset and --demonstration-share belong together"),
    (2, f"train dqn {ON} --demonstration-share 1.5", "demonstration_share 1.5 must be in [0, 1]"),
    (2, f"train ppo {OFF} --demonstration-share 0.5", "ppo mixes no replay with demonstrations"),
    (2, f"train cql {ON} --demonstration-share 0.5", "cql mixes no replay with demonstrations"),
    (2, f"train dqn {OFF} --dataset-episodes 3", "--dataset-episodes has no effect here: no dataset is named"),
    (2, f"train dqn {OFF} --teacher-weight 3", "--teacher-weight has no effect here: no teacher is named"),
    (2, f"train cql {ON} --dataset-episodes 13", "has 12 episodes; choose 1 to 12 of them, not 13"),
    (2, f"train cql {ON} --dataset-episodes 0", "dataset_episodes 0 must be 1 or more"),
    (2, f"train bc {ON} --dataset-episodes 1 --validation-fraction 0.5", "has one episode for a member"),
    (
        2,
        f"train bc {ON} --validation-fraction 0.2 --patience 3 --sparsity 0.5",
        "--sparsity with --patience: the best weights, which early stopping puts back",
    ),
    (2, f"train bc {ON} --patience 3", "--patience 3 counts validations; hold some episodes out"),
    (2, "train iql Acrobot-v1 --dataset {whole}", "has observations Box((4,), float32); those of Acrobot-v1 are"),
    (2, "train iql Pendulum-v1 --dataset {whole}", "those of Pendulum-v1 are Box((3,), float32)"),
    (2, "train cql Pendulum-v1 --dataset {whole}", "cql cannot choose the actions"),
    (2, "train dqn Acrobot-v1 --dataset {whole} --demonstration-share 0.5", "those of Acrobot-v1 are"),
    (2, "train cql CartPole-v1 --dataset {missing}", "neither a folder nor a Minari id"),
    (2, "train cql CartPole-v1 --dataset {nothing}", "is not a Minari dataset"),
    (1, "train cql CartPole-v1 --dataset {cut}", "cannot be read (OSError"),
    (1, "train cql CartPole-v1 --dataset {empty}", "has no episodes; record some"),
    (1, "train cql CartPole-v1 --dataset {edited}", "the entry 'rlab' of its metadata.json is invalid"),
    (2, f"train cql {ON} --out {{whole}}", "exists and is not empty; nothing in it was touched"),
]


@pytest.mark.parametrize(("code", "words", "said"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path: Path, dataset: Path, code: int, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged(dataset, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    places = {name: tmp_path / name for name in ("cut", "empty", "edited", "nothing", "missing")}
    argv = words.format(whole=dataset, **places).split()
    assert main([*argv, *([] if "--out" in argv else ["--out", str(tmp_path / "run")])]) == code
    assert said in one_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before


STORES_MORE = """
from rlab.agents.cql import CQL
from rlab.agents.dqn import DQN
from rlab.experience.fields import Field

class Online(DQN):
    def fields(self):
        return *super().fields(), Field("log_prob", (), "float32")

class Offline(CQL):
    def fields(self):
        return *super().fields(), Field("log_prob", (), "float32")
"""


@pytest.mark.parametrize("words", ["Online CartPole-v1 --demonstration-share 0.5", "Offline CartPole-v1"])
def test_an_agent_that_stores_more_than_a_dataset_has_is_one_line_and_leaves_nothing(
    tmp_path: Path, dataset: Path, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stores_more.py").write_text(STORES_MORE)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    assert main(["train", *f"stores_more:{words}".split(), "--dataset", str(dataset), "--out", str(out)]) == 2
    assert "cannot learn from a dataset: it stores log_prob of every row, which recorded" in one_line(capsys)
    assert not out.exists()


def test_an_edited_dataset_is_listed_as_broken(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged(dataset, tmp_path)
    assert main(["list", "datasets", "--root", str(tmp_path), "--json"]) == 0
    listed = {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out)["datasets"]}
    assert {name: row["state"] for name, row in listed.items()} == dict.fromkeys(("cut", "edited", "empty"), "broken")
    assert "the entry 'rlab' of its metadata.json is invalid" in listed["edited"]["reason"]


@pytest.mark.parametrize("package", ["minari", "h5py"])
@pytest.mark.parametrize(
    "words",
    [
        "train cql CartPole-v1 --dataset {data}",
        "train dqn CartPole-v1 --dataset {data} --demonstration-share 0.5",
        "pretrain bc {data}",
        "pretrain encoder {data} --env CartPole-v1",
        "collect random --env CartPole-v1",
    ],
)
def test_without_minari_every_road_says_what_to_install(
    tmp_path: Path,
    dataset: Path,
    package: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert main([*words.format(data=dataset).split(), "--out", str(tmp_path / "run")]) == 2
    assert 'datasets need Minari: pip install "rlab-agents[minari]"' in one_line(capsys)
    assert not (tmp_path / "run").exists()
