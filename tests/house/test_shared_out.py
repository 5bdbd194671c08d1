"""Members that are shared out over processes: a run folder for each, and in the end one run."""

import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlab
from rlab.cli.main import main
from rlab.engines import pool
from rlab.engines.job import Job
from rlab.engines.local import LocalEngine
from rlab.errors import RlabError, UsageError
from rlab.jobs import shared_out
from rlab.jobs.inputs import NO_INPUTS
from rlab.jobs.request import train_request
from rlab.jobs.shared_out import SharedOut, devices_of, part_requests, write_again
from rlab.runs.folder import RunFolder
from rlab.runs.listing import list_runs
from rlab.runs.logs import JsonLines
from rlab.runs.observed import load_observed

pytestmark = pytest.mark.usefixtures("quick_disk")
DQN: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "batch_size": 8, "learning_starts": 64}
DQN |= {"max_episode_steps": 30, "env_steps": 256, "log_every": 64, "eval_every": 128, "eval_episodes": 1}
DQN |= {"final_eval_episodes": 5, "seed": 5, "seeds": 3, "vector": "tensor", "compile": "off"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of 3 seeds in 2 processes, stopped by Ctrl+C before they began, and taken up again with a larger budget."""
    out = tmp_path_factory.mktemp("shared") / "run"
    with pytest.MonkeyPatch.context() as patch:
        looks = iter([lambda seconds: signal.raise_signal(signal.SIGINT)])
        patch.setattr(pool, "time", SimpleNamespace(sleep=lambda seconds: next(looks, time.sleep)(seconds)))
        with pytest.raises(KeyboardInterrupt) as caught:
            rlab.train("dqn", "CartPole-v1", out=out, devices="cpu,cpu", **DQN)
    (listed,) = list_runs(out.parent)
    return SimpleNamespace(out=out, said=str(caught.value), listed=listed, run=rlab.resume(out, env_steps=320))


def test_ctrl_c_stops_all_parts_and_says_how_to_go_on(shared: SimpleNamespace) -> None:
    assert shared.said.startswith(f"stopped at 0 env steps and saved; go on with: rlab resume {shared.out}\n")
    assert (shared.listed["status"], shared.listed["reason"]) == ("stopped", "interrupted")


def test_the_parts_become_one_run_that_is_judged(shared: SimpleNamespace, road: SimpleNamespace) -> None:
    run = shared.run
    assert (run.finished, run.time) == (True, 320)
    assert run.evaluation.seeds == (5, 6, 7)
    assert run.evaluation.returns.shape == (3, 5)
    assert rlab.Run.open(shared.out).evaluation.returns.tolist() == run.evaluation.returns.tolist()
    assert [row["env_steps"] for row in road.rows(shared.out)] == [64, 128, 192, 256, 320]
    assert [row["env_steps"] for row in road.rows(shared.out, "eval")] == [128, 256, 320, 320]
    for row in road.rows(shared.out):
        assert row["train/transitions"] == [row["env_steps"]] * 3
    assert run.curve()[1].shape == (3, 3)
    assert run.config["run"]["devices"] == "cpu,cpu"


def test_every_member_is_what_its_process_made_of_it(shared: SimpleNamespace, road: SimpleNamespace) -> None:
    parts = [road.weights(shared.out / "parts" / number / "policy") for number in ("0", "1")]
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    road.check_same(road.weights(shared.out / "policy"), together)
    assert [RunFolder.open(shared.out / "parts" / number).config["run"]["seeds"] for number in ("0", "1")] == [2, 1]
    observed = load_observed(shared.out / "policy")
    assert [each.seed for each in observed.values()] == [5, 6, 7]
    assert observed[7].to_json() == load_observed(shared.out / "parts" / "1" / "policy")[7].to_json()


def test_a_finished_one_says_how_to_train_it_further(
    shared: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(shared.out)]) == 0
    assert capsys.readouterr().out.startswith(f"{shared.out}: finished, after 320 env steps; --env-steps N")


def test_one_that_has_lost_its_parts_cannot_go_on(shared: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(shared.out, tmp_path / "run", ignore=shutil.ignore_patterns("parts"))
    with pytest.raises(RlabError, match="has lost its checkpoint, so it cannot go on"):
        rlab.resume(tmp_path / "run", env_steps=512)


def test_an_error_in_a_part_names_its_device_and_seeds(shared: SimpleNamespace, tmp_path: Path) -> None:
    job = Job(RunFolder.open(shared.out), "cpu seed 7", ("--env-steps", "0"))
    (ended,) = LocalEngine(1).run([job], lambda event: None, threading.Event())
    assert ended.status == "failed"
    assert str(ended.error).startswith("env_steps")


def test_members_are_shared_out_in_order() -> None:
    request = train_request("dqn", "CartPole-v1", (), (), "none", {"seed": 3, "seeds": 5})
    parts = part_requests(request, 2, ["cuda:0", "cuda:1"])
    assert [(each.run.device, each.run.training_seeds) for each in parts] == [
        ("cuda:0", (3, 4, 5)),
        ("cuda:1", (6, 7)),
    ]
    parts = part_requests(request, 5, ["cuda:0", "cuda:1"])
    assert [each.run.device for each in parts] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]


def test_jobs_share_members_out_without_devices_and_are_written_down(tmp_path: Path) -> None:
    request = train_request("dqn", "CartPole-v1", (), (), "none", {"seeds": 3, "jobs": 5, "device": "cpu"})
    shared = SharedOut(request, NO_INPUTS)
    assert shared.request.run.jobs == 3  # no more than there are seeds
    assert shared.describe().startswith(
        "shared out over 3 processes on this machine: cpu seed 0; cpu seed 1; cpu seed 2."
    )


def test_where_a_run_in_one_process_goes_on_cannot_be_chosen(tmp_path: Path) -> None:
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **{**DQN, "env_steps": 64, "seeds": 1})
    with pytest.raises(UsageError, match="is trained in one process on this machine"):
        rlab.resume(run, env_steps=128, engine="ray")


def test_devices_are_all_gpus_or_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of("all") == ("cuda:0", "cuda:1")
    assert devices_of("cuda:1,cuda:0") == ("cuda:1", "cuda:0")
    with pytest.raises(UsageError, match="name devices of one kind"):
        devices_of("cpu,cuda:0")
    with pytest.raises(UsageError, match="--devices auto,cpu: name each device"):
        devices_of("auto,cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="this torch sees no CUDA device"):
        devices_of("all")


def test_a_run_goes_on_in_the_same_shares_where_its_devices_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    request = train_request("dqn", "CartPole-v1", (), (), "none", {"seeds": 3, "devices": "cuda:0,cuda:1"})
    begun = {"device": "cuda", "compiled": False, "tensor": True}
    shared = SharedOut(replace(request, engine=begun), NO_INPUTS)
    assert shared.describe().startswith(
        "shared out over 2 processes on this machine: cuda:0 seeds 0 to 1; cuda:1 seed 2."
    )
    (note,) = shared.engine.notes
    assert note.endswith("goes on on cpu, not compiled, envs as tensors: torch sees no cuda device")


def test_all_devices_are_written_down_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run goes on in the same shares on a machine with another number of GPUs."""
    monkeypatch.setattr(shared_out, "devices_of", lambda text: ("cpu", "cpu"))
    request = train_request("dqn", "CartPole-v1", (), (), "none", {"seeds": 3, "devices": "all"})
    assert SharedOut(request, NO_INPUTS).request.run.devices == "cpu,cpu"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "ray"}, "--engine ray gives each process a GPU by itself"),
        ({"device": "cpu"}, "--devices cpu,cpu names the devices; leave --device out."),
        ({"log_episodes": True}, "--log-episodes needs a run in one process; leave it or --devices out."),
        ({"film_every": 100}, "--film-every needs a run in one process; leave it or --devices out."),
        ({"listeners": [SimpleNamespace(on_save=lambda env_steps: None)]}, "listeners hear on_start and on_end alone"),
    ],
)
def test_what_needs_one_process_is_one_line(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", devices="cpu,cpu", **settings)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rows_of_parts_become_rows_of_all_members(tmp_path: Path) -> None:
    """Two members and one: what a part does not report is NaN, what members share is one number, and the run is as
    quick as its slowest part."""
    parts = []
    for number, seeds in enumerate(((0, 1), (2,))):
        (tmp_path / str(number)).mkdir()
        parts.append(RunFolder(tmp_path / str(number), {"run": {"seeds": len(seeds)}}, ""))
    written = {
        0: {"metrics": {"loss/a": [1.0, None], "explore/epsilon": 0.5}, "timing": {"time/env_steps_per_second": 30.0}},
        1: {"metrics": {"q/b": [3.0], "explore/epsilon": 0.5}, "timing": {"time/env_steps_per_second": 20.0}},
    }
    for number, part in enumerate(parts):
        for name in ("metrics", "timing", "eval"):
            log = JsonLines(part.path / f"{name}.jsonl", {})
            if name != "eval":
                log.write({"env_steps": 64, **written[number][name]})
            log.close()
    heard: dict[str, Any] = {}
    log = SimpleNamespace(on_metrics=lambda at, metrics: heard.update({"time": at, **metrics}))
    write_again(log, parts, "env_steps")  # type: ignore[arg-type]
    assert heard.pop("time") == 64
    assert {tag: value.tolist() for tag, value in heard.items() if value.ndim == 0} == {
        "explore/epsilon": 0.5,
        "time/env_steps_per_second": 20.0,
    }
    np.testing.assert_equal(heard["loss/a"], [1.0, np.nan, np.nan])
    np.testing.assert_equal(heard["q/b"], [np.nan, np.nan, 3.0])
