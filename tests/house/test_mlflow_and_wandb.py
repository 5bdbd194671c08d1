"""Runs in MLflow, on a server of its own with a database, and in W&B, offline: what they show, also after a kill."""

import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import pytest

import rlab
from rlab.errors import RlabWarning
from rlab.runs.logs import read_json_lines

pytest.importorskip("mlflow")
wandb = pytest.importorskip("wandb")

STEPS = {"env_steps": 512, "log_every": 128, "eval_every": 256, "eval_episodes": 2, "final_eval_episodes": 3}
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 4, "seed": 3, "seeds": 2, "hidden": (8,), **STEPS}
SMALL |= {"max_episode_steps": 30, "learning_starts": 64, "batch_size": 16, "checkpoint_every": 256}
SECRET = "a-key-that-nobody-should-find"
# Trains until its clock is at 384, where everything that was logged has been sent, and dies.
DIES = """
import os, signal, sys, time
import rlab
from rlab.jobs import log_services

class Dies:
    def on_metrics(self, env_steps, metrics):
        if env_steps == 384:
            feeds = log_services.FEEDS
            while any(feed._mark < (384, 0) for feed in feeds):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

start = log_services._Feed.__init__
log_services.FEEDS = []
def noted(self, *rest):
    start(self, *rest)
    log_services.FEEDS.append(self)
log_services._Feed.__init__ = noted
services = ("mlflow", "wandb", "csv")
rlab.train("dqn", "CartPole-v1", out=sys.argv[1], log=services, listeners=[Dies()], **eval(sys.argv[2]))
"""

pytestmark = [
    pytest.mark.usefixtures("quick_disk"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what these two import
]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B offline, in a folder of the test; nobody is told what is used."""
    folder = tmp_path_factory.mktemp("wandb")
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_DATA_DIR": str(folder), "WANDB_API_KEY": SECRET}
    own |= {"WANDB_CONFIG_DIR": str(folder), "WANDB_CACHE_DIR": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    own |= {"WANDB_DISABLE_GIT": "true", "WANDB_X_DISABLE_STATS": "true", "MLFLOW_TRACKING_PASSWORD": SECRET}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        wandb.teardown()
        yield
        wandb.teardown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, surroundings: None) -> Iterator[str]:
    """The address of an MLflow server."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ("--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files"))
    words = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port), "--workers", "1"]
    own = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(words, env=own, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        address, until = f"http://127.0.0.1:{port}", monotonic() + 180
        while not _answers(f"{address}/health"):
            alive = process.poll() is None and monotonic() < until
            assert alive, (folder / "server.log").read_text()
            sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def mlflow_client(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return MlflowClient()


def in_mlflow(client: Any, experiment: str) -> Any:
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def points(client: Any, run: Any, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, tag)]


def in_wandb() -> dict[str, list[Any]]:
    """The records of the offline run in W&B's folder, by their kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = Path(os.environ["WANDB_DIR"]).glob("wandb/offline-run-*/*.wandb")
    content, place, whole, found = path.read_bytes(), 7, b"", {}
    while place + 7 <= len(content):
        if 32_768 - place % 32_768 < 7:  # blocks end with what no header fits into
            place += 32_768 - place % 32_768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record.FromString(whole)
            found.setdefault(record.WhichOneof("record_type"), []).append(record)
            whole = b""
    return found


def rows_of(records: dict[str, list[Any]]) -> list[dict[str, float]]:
    def name(item: Any) -> str:
        return item.key or "/".join(item.nested_key)

    return [{name(item): float(item.value_json) for item in each.history.item} for each in records["history"]]


@pytest.mark.prove
def test_a_killed_run_goes_on_in_mlflow_wandb_and_tables_with_every_point_once(
    mlflow_client: Any, tmp_path: Path, road: SimpleNamespace
) -> None:
    out, settings = tmp_path / "run", {**SMALL, "log_project": "killed"}
    died = subprocess.run([sys.executable, "-c", DIES, str(out), repr(settings)], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    before = in_mlflow(mlflow_client, "killed")
    assert [step for step, _ in points(mlflow_client, before, "train/updates")] == [128, 256, 384]
    run = rlab.resume(out)
    plain = rlab.train("dqn", "CartPole-v1", out=tmp_path / "plain", **SMALL)
    road.check_same(road.weights(plain.path / "policy"), road.weights(run.path / "policy"))
    assert run.evaluation is not None
    shown = in_mlflow(mlflow_client, "killed")  # it is one run still
    logged = {row["env_steps"]: row for row in read_json_lines(out / "metrics.jsonl")[1]}
    updates = [(time, row["train/updates"]) for time, row in logged.items()]
    assert points(mlflow_client, shown, "train/updates") == updates
    assert [step for step, _ in points(mlflow_client, shown, "eval/return")] == [256, 512]
    assert points(mlflow_client, shown, "final/return") == [(512, run.evaluation.iqm)]
    assert points(mlflow_client, shown, "seed-4/final/return") == [(512, run.evaluation.per_seed_mean[1])]
    assert (shown.info.status, shown.info.run_name, shown.info.run_id) == ("FINISHED", "run", before.info.run_id)
    assert shown.data.params.items() >= {"agent": "dqn", "env": "CartPole-v1", "batch_size": "16", "seeds": "2"}.items()
    assert shown.data.tags["rlab.status"] == "finished"
    assert shown.data.tags["mlflow.source.name"].startswith("rlab.train('dqn', 'CartPole-v1', ")
    kept = mlflow_client.download_artifacts(shown.info.run_id, "policy", str(tmp_path))
    road.check_same(road.weights(Path(kept)), road.weights(run.path / "policy"))
    files = [each.path for each in mlflow_client.list_artifacts(shown.info.run_id)]
    assert files == ["config.json", "policy", "result.json"]

    records = in_wandb()
    rows = rows_of(records)
    assert [(row["env_steps"], row["train/updates"]) for row in rows if "train/updates" in row] == updates
    assert [row["env_steps"] for row in rows if "eval/return" in row] == [256, 512]
    (final,) = [row for row in rows if "final/return" in row]
    assert (final["final/return"], final["env_steps"]) == (run.evaluation.iqm, 512)
    (begun,) = records["run"]
    assert (begun.run.project, begun.run.display_name, list(begun.run.tags)) == (
        "killed",
        "run",
        ["dqn", "CartPole-v1"],
    )
    config = {item.key: item.value_json for item in begun.run.config.update}
    assert config.items() >= {"agent": '"dqn"', "batch_size": "16"}.items()
    (kept,) = records["artifact"]
    assert {item.path for item in kept.artifact.manifest.contents} == {
        path.name for path in (run.path / "policy").iterdir()
    }
    (ended,) = records["exit"]
    assert ended.exit.exit_code == 0

    table = (out / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1::2]] == ["128", "256", "384", "512"]
    for path in filter(Path.is_file, out.rglob("*")):
        assert SECRET.encode() not in path.read_bytes()


def test_a_run_of_the_calling_program_goes_on_as_it_was(
    mlflow_client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    before = dict(os.environ)
    mlflow.set_experiment("mine")
    with mlflow.start_run(run_name="mine") as mine:
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", log="mlflow", log_project="theirs", **SMALL)
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == mine.info.run_id
    (_,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("mine").experiment_id])
    assert in_mlflow(mlflow_client, "theirs").info.run_name == "run"
    assert set(os.environ) - set(before) <= {"MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"}  # MLflow's own
    assert "rlab" not in capsys.readouterr().out


def test_a_server_that_is_not_there_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@{address}")
        before = set(os.environ)
        with pytest.raises(rlab.UsageError, match=r"--log mlflow: .*Connection refused.*Leave it out") as caught:
            rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", log="mlflow", **SMALL)
        assert "\n" not in str(caught.value)
        assert SECRET not in str(caught.value)
        assert set(os.environ) == before
        run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", **SMALL)
        with pytest.warns(RlabWarning, match=r"MLflow failed: .*Connection refused"):
            assert rlab.resume(run, log="mlflow").finished


def test_wandb_without_a_key_says_how_to_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    try:
        with pytest.raises(rlab.UsageError, match=r"--log wandb: .*Use `wandb login` to log in"):
            rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", log="wandb", **SMALL)
    finally:
        wandb.teardown()
    assert not (tmp_path / "run").exists()
