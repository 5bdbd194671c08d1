"""Runs on a cluster of Ray: several node processes of this machine, of which one is killed in the middle."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rlab
from rlab.engines import ray_cluster, ray_engine, transfer
from rlab.engines.choice import job_engine
from rlab.engines.job import Event, Job
from rlab.engines.ray_engine import RayProcess
from rlab.engines.ray_worker import Worker
from rlab.errors import RlabError, UsageError
from rlab.jobs.jobs_progress import JobsProgress
from rlab.jobs.request import train_request
from rlab.jobs.running import begin
from rlab.version import VERSION

pytestmark = pytest.mark.usefixtures("quick_disk")
STEPS = 2048
DQN: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "batch_size": 8, "learning_starts": 64}
DQN |= {"max_episode_steps": 30, "env_steps": STEPS, "log_every": 64, "eval_every": 512, "eval_episodes": 1}
DQN |= {"final_eval_episodes": 2, "seed": 5, "seeds": 2, "vector": "tensor", "compile": "off"}
DQN |= {"checkpoint_every": 256, "jobs": 2}
QUICK_TO_NOTICE = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 200}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with two each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        head = {"num_cpus": 0, "_system_config": QUICK_TO_NOTICE, **small}
        found = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            found.add_node(num_cpus=2, object_store_memory=80 * 2**20)
        patch.setenv("RAY_ADDRESS", found.address)
        try:
            yield found
        finally:
            found.shutdown()


@pytest.mark.prove
def test_with_a_node_killed_in_the_middle_the_results_are_those_of_one_machine(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ray"
    killer = threading.Thread(target=kill_in_the_middle, args=(cluster, out / "parts" / "0" / "metrics.jsonl"))
    killer.start()
    run = rlab.train("dqn", "CartPole-v1", out=out, engine="ray", progress=True, **DQN)
    killer.join()
    said = capfd.readouterr()
    assert "shared out over 2 processes on a cluster of Ray: seed 5; seed 6." in said.out
    assert ": runs again: its machine is gone" in said.err
    assert "raylet" not in said.out + said.err
    alone = rlab.train("dqn", "CartPole-v1", out=tmp_path / "local", **DQN)
    assert run.finished
    check_same_bytes(out, alone.path)


@pytest.mark.prove
def test_ctrl_c_stops_all_shards_and_the_run_goes_on_elsewhere_to_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "ray"

    def press() -> None:
        wait_for_rows(out / "parts" / "0" / "metrics.jsonl")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        rlab.train("dqn", "CartPole-v1", out=out, engine="ray", **DQN)
    assert rlab.Run.open(out).status == "stopped"
    assert rlab.Run.open(out / "parts" / "0").time > 0
    assert rlab.resume(out, engine="local").finished
    alone = rlab.train("dqn", "CartPole-v1", out=tmp_path / "local", **DQN)
    check_same_bytes(out, alone.path)


@pytest.mark.prove
def test_on_a_machine_that_does_not_see_the_folder_a_run_is_stopped_and_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine is a node process with mounts of its own, in which the folder of the run is empty."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("unshare may not make mounts here")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    head = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    start = f"{Path(sys.executable).parent}/ray start --block --num-cpus 2 --object-store-memory {80 * 2**20}"
    node = subprocess.Popen(
        ["unshare", "-m", "bash", "-c", f"mount -t tmpfs none {tmp_path}; exec {start} --address {head.address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    far: set[Job] = set()  # what has saved something

    def on_event(display: JobsProgress, event: Event) -> None:
        before = len(far)
        far.update([event.job] if event.row.get("env_steps", 0) > STEPS // 3 else [])
        if before < len(far) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(JobsProgress, "on_event", on_event)
    try:
        with pytest.raises(KeyboardInterrupt):
            rlab.train("dqn", "CartPole-v1", out=tmp_path / "ray", engine="ray", progress=True, **DQN)
        assert rlab.Run.open(tmp_path / "ray").time > 0
        assert rlab.resume(tmp_path / "ray").finished
    finally:
        node.terminate()
        node.wait()
        head.shutdown()
    check_same_bytes(tmp_path / "ray", rlab.train("dqn", "CartPole-v1", out=tmp_path / "local", **DQN).path)


def check_same_bytes(run: Path, other: Path) -> None:
    weights = [path.relative_to(other).as_posix() for path in (other / "policy").glob("*.safetensors")]
    for name in ("metrics.jsonl", "eval.jsonl", "result.json", *weights):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def wait_for_rows(log: Path) -> None:
    while not (log.is_file() and len(log.read_bytes().splitlines()) > STEPS // 64 // 3):
        time.sleep(0.05)


def kill_in_the_middle(cluster: Any, log: Path) -> None:
    wait_for_rows(log)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)


def test_without_ray_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'^--engine ray needs Ray: pip install "rlab-agents\[ray\]"$'):
        job_engine("ray", 2)


@pytest.mark.parametrize("address", ["", "127.0.0.1:9", "ray://127.0.0.1:9", "nowhere"])
def test_without_a_cluster_the_ways_to_one_are_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    module = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr(ray_cluster, "imported", lambda: module)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError) as caught:
        job_engine("ray", 2)
    where = f" at RAY_ADDRESS={address}" if address else ""
    assert str(caught.value).startswith(f"--engine ray finds no cluster{where}: start one with `ray start --head`")


class Here:
    """Stands for Ray: its actors are objects of this process, and every answer is there at once."""

    class exceptions:  # noqa: N801
        class RayError(Exception): ...

        class RayActorError(RayError): ...

        class ActorUnavailableError(RayActorError): ...

    def __init__(self, **broken: Any) -> None:
        self.broken, self.killed, self.room = broken, 0, {}

    def remote(self, kind: type) -> Any:
        def options(**room: Any) -> Any:
            self.room = room
            actor = kind()
            return SimpleNamespace(remote=lambda: _Handle(actor, self.broken))

        return SimpleNamespace(options=options)

    def wait(self, answers: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return answers, []

    def get(self, answer: Any, timeout: float = 0.0) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        self.killed += 1


class _Handle:
    def __init__(self, actor: Any, broken: dict[str, Any]) -> None:
        self.actor, self.broken = actor, broken

    def __getattr__(self, name: str) -> Any:
        def called(*arguments: Any) -> Any:
            found = self.broken.get(name)
            if callable(found):
                return found(*arguments)
            return getattr(self.actor, name)(*arguments) if found is None else found

        return SimpleNamespace(remote=called)


def begun(path: Path) -> Job:
    settings = {**DQN, "env_steps": 64, "eval_every": 0, "seeds": 1}
    del settings["experiment"], settings["jobs"]
    return Job(begin(train_request("dqn", "CartPole-v1", (), (), "none", settings), path), "a")


def test_where_the_folder_is_not_seen_its_files_travel_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PIECE", 1000)
    monkeypatch.setattr(ray_engine, "PIECE", 1000)
    job = begun(tmp_path / "run")
    (job.folder.path / "empty").touch()
    places: list[Path] = []

    def meet(folder: str, manifest: Any) -> Any:
        actor = process._worker.actor
        found = Worker.meet(actor, folder, [0, 0, 0])
        places.append(actor._folder)
        return found

    process = RayProcess(Here(), job)
    process._answer = meet(str(job.folder.path), None)
    looks = [process.look()]
    while looks[-1].code is None:
        looks.append(process.look())
    process.end()
    assert looks[-1].code == 0
    assert [row["env_steps"] for look in looks for kind, row in look.rows if kind == "metrics"] == [64]
    assert rlab.Run.open(job.folder.path).status == "finished"
    assert (job.folder.path / "empty").read_bytes() == b""
    assert places[0] != job.folder.path
    assert not places[0].exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_becomes_of_an_actor_is_told_apart(tmp_path: Path) -> None:
    job = begun(tmp_path / "run")
    gone, lacks = Here.exceptions.RayActorError, "ModuleNotFoundError: No module named 'rlab'"
    other = {"version": "0.0.1", "machine": "other", "seen": True}
    cases: list[tuple[Any, int, str]] = [
        (gone("The actor died because its node has died. Node Id: 12"), -9, "its machine is gone"),
        (gone("The actor died unexpectedly: worker exit"), -9, "its process on the cluster is gone"),
        (gone(lacks), 2, "a machine of the cluster lacks rlab"),
        (Here.exceptions.RayError("first\nlast"), 1, "Ray: last"),
        (other, 2, f"other has rlab 0.0.1, and this machine {VERSION}."),
    ]
    for answer, code, said in cases:
        process = RayProcess(Here(meet=answer), job)
        look = process.look()
        assert (look.code, str(look.error)[: len(said)]) == (code, said)


def test_a_job_that_waits_for_a_machine_says_so_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here()
    monkeypatch.setattr(here, "wait", lambda answers, timeout: ([], answers))
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.0)
    process = RayProcess(here, begun(tmp_path / "run"))
    assert process.look().said == ["waits for a machine of the cluster with a free CPU"]
    assert process.look().said == []
    process.ask_to_stop()
    assert process.look().code == 130


def test_an_error_names_the_machine(tmp_path: Path) -> None:
    met = {"version": VERSION, "machine": "worker-3", "seen": True}
    failed = ([], [], 2, "cannot import my_envs: No module named 'my_envs'.")
    process = RayProcess(Here(meet=met, begin=True, look=failed, end=True), begun(tmp_path / "run"))
    process.look()
    assert process.look().error == "on worker-3: cannot import my_envs: No module named 'my_envs'."


def test_a_run_that_learns_on_a_gpu_asks_for_one(tmp_path: Path) -> None:
    job = begun(tmp_path / "run")
    rooms = []
    for device in ("cpu", "cuda"):
        config = {**job.folder.config, "engine": {"device": device}}
        here = Here()
        RayProcess(here, replace(job, folder=replace(job.folder, config=config)))
        rooms.append((here.room["num_cpus"], here.room["num_gpus"]))
    assert rooms == [(1, 0), (0, 1)]


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../x", "/etc/x", "a/../../x", ""):
        with pytest.raises(RlabError, match="is not a file of a run folder"):
            transfer.add_piece(tmp_path / "run", name, b"x")
