"""What services are sent of a run: every row once and in order, whatever becomes of the service or of the process."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.errors import RlabWarning
from rlab.jobs import log_services
from rlab.jobs.shared_out import part_requests
from rlab.runs.logged_rows import (
    EVALUATION,
    FINAL,
    METRICS,
    NOTHING,
    LoggedRow,
    LoggedRun,
    Mark,
    evaluation_row,
    logged_rows,
    metrics_row,
)

STEPS = {"env_steps": 512, "log_every": 128, "eval_every": 256, "eval_episodes": 2, "final_eval_episodes": 3}
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 4, "seed": 3, "seeds": 2, "hidden": (8,), **STEPS}
SMALL |= {"max_episode_steps": 30, "learning_starts": 200, "batch_size": 16}
WHOLE = [
    *((128, METRICS), (256, METRICS), (256, EVALUATION)),
    *((384, METRICS), (512, METRICS), (512, EVALUATION), (512, FINAL)),
]

pytestmark = pytest.mark.usefixtures("quick_disk")


class Shelf:
    """A service that keeps everything in memory; it goes away whenever `gone` says so."""

    name, title = "mlflow", "Shelf"

    def __init__(self) -> None:
        self.rows: dict[str, list[LoggedRow]] = {}
        self.runs: list[LoggedRun] = []
        self.ended: list[tuple[str, list[str]]] = []
        self.gone = False

    def check(self) -> None:
        self._answer()

    def begin(self, run: LoggedRun) -> tuple[Mark, str]:
        self._answer()
        self.runs.append(run)
        kept = self.rows.setdefault(run.key, [])
        return (kept[-1].mark if kept else NOTHING), "https://me:secret@shelf.example/runs"

    def send(self, rows: Sequence[LoggedRow]) -> None:
        for row in rows:
            self._answer()
            self.rows[self.runs[-1].key].append(row)

    def end(self, status: str, files: Mapping[str, Path]) -> None:
        self._answer()
        self.ended.append((status, sorted(files)))

    def marks(self) -> list[Mark]:
        (rows,) = self.rows.values()
        return [row.mark for row in rows]

    def _answer(self) -> None:
        if self.gone:
            raise ConnectionError("https://me:secret@shelf.example does not answer.")


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    found = Shelf()
    monkeypatch.setattr(log_services, "SERVICES", {"mlflow": lambda: found})
    monkeypatch.setattr(log_services, "is_installed", lambda name: True)
    return found


class At:
    """Does something at the first row of metrics from `time` on; returning False stops the run."""

    def __init__(self, time: int, does: Any) -> None:
        self.time, self.does = time, does

    def on_metrics(self, env_steps: int, metrics: Any) -> Any:
        return self.does() if env_steps >= self.time else None


def train(out: Path, **more: Any) -> rlab.Run:
    return rlab.train("dqn", "CartPole-v1", out=out, log="mlflow", **{**SMALL, **more})


def test_a_row_is_the_mean_over_members_and_the_returns_of_each() -> None:
    metrics = {
        "loss/td": [1.0, 3.0],
        "train/episode_return": [5.0, None],
        "explore/epsilon": 0.5,
        "q/max": [None, None],
    }
    row = metrics_row(100, metrics, (7, 8), lambda values: float(values.mean()))
    assert row == LoggedRow(
        (100, METRICS),
        {"loss/td": 2.0, "explore/epsilon": 0.5, "train/episode_return": 5.0, "seed-7/train/episode_return": 5.0},
    )
    judged = {"returns": [[1, 3], [4, 4]], "lengths": [[10, 20], [30, 30]], "ci95": [2.5, 3.5], "final": True}
    row = evaluation_row(200, judged, (7, 8), lambda values: float(values.mean()))
    ends = {"final/return_low": 2.5, "final/return_high": 3.5}
    means = {"final/return": 3.0, "final/length": 22.5, "seed-7/final/return": 2.0, "seed-8/final/return": 4.0}
    assert row == LoggedRow((200, FINAL), means | ends)
    one = metrics_row(1, {"train/episode_return": [math.inf]}, (7,), lambda values: float(values.mean()))
    assert one.values == {}


def test_a_service_gets_every_row_the_config_and_the_policy(shelf: Shelf, tmp_path: Path) -> None:
    run = train(tmp_path / "run", log_project="mine")
    assert shelf.marks() == WHOLE
    assert run.evaluation is not None
    (rows,) = shelf.rows.values()
    assert rows[-1].values["final/return"] == run.evaluation.iqm
    assert [rows[-1].values[f"seed-{seed}/final/return"] for seed in (3, 4)] == run.evaluation.per_seed_mean.tolist()
    assert (rows[-1].values["final/return_low"], rows[-1].values["final/return_high"]) == run.evaluation.ci95
    assert rows == logged_rows(run.path, "env_steps", log_services.iqm)  # what is sent at once is what is sent later
    assert shelf.ended == [("finished", ["config.json", "policy", "result.json"])]
    (told,) = shelf.runs
    assert (told.name, told.project, told.tags) == ("run", "mine", ("dqn", "CartPole-v1"))
    assert told.config.items() >= {"agent": "dqn", "env": "CartPole-v1", "batch_size": 16, "seeds": 2}.items()


def test_a_run_that_goes_on_sends_no_row_twice_and_loses_none(shelf: Shelf, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, listeners=[At(256, lambda: False)])
    assert shelf.marks() == WHOLE[:3]
    assert shelf.ended == [("stopped", ["config.json", "policy"])]
    (rows,) = shelf.rows.values()
    later = LoggedRow((384, METRICS), {})
    rows.append(later)  # as a process that was killed after its last save had sent them
    rlab.resume(out)
    assert shelf.marks() == WHOLE
    assert rows[3] is later
    assert len(shelf.rows) == 1


def test_a_service_that_goes_away_costs_one_line_and_gets_the_rest_later(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, road: SimpleNamespace
) -> None:
    plain = rlab.train("dqn", "CartPole-v1", out=tmp_path / "plain", **SMALL)
    out = tmp_path / "run"
    leave, come = At(256, lambda: setattr(shelf, "gone", True)), At(512, lambda: setattr(shelf, "gone", False))
    with pytest.warns(RlabWarning) as said:
        run = train(out, listeners=[leave, come])
    lines = [str(each.message) for each in said]
    told = "Shelf failed: ConnectionError: https://...@shelf.example does not answer"
    (line,) = [line for line in lines if "Shelf" in line]
    assert line.startswith(told)
    assert line.endswith(
        "The run does not need it: what Shelf lacks is sent later, also by rlab resume RUN --log mlflow"
    )
    assert shelf.marks() == WHOLE
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert (run.path / name).read_bytes() == (plain.path / name).read_bytes()
    road.check_same(road.weights(plain.path / "policy"), road.weights(run.path / "policy"))


def test_a_run_whose_service_stays_away_is_sent_when_somebody_asks(shelf: Shelf, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.warns(RlabWarning, match="Shelf failed"):
        run = train(out, listeners=[At(128, lambda: setattr(shelf, "gone", True))])
    assert run.status == "finished"
    assert shelf.ended == []
    shelf.gone = False
    rlab.resume(out)
    assert shelf.ended == []  # nobody asked
    rlab.resume(out, log=("csv", "mlflow"))
    assert shelf.marks() == WHOLE
    assert [status for status, _ in shelf.ended] == ["finished"]
    assert (out / "metrics.csv").is_file()


def test_a_new_run_that_no_service_would_show_is_refused_before_it_has_a_folder(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.gone = True
    with pytest.raises(rlab.UsageError) as caught:
        train(tmp_path / "run")
    said = "--log mlflow: ConnectionError: https://...@shelf.example does not answer (test_log_services.py:"
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("Leave it out to train without.")
    monkeypatch.setattr(log_services, "is_installed", lambda name: False)
    with pytest.raises(rlab.UsageError, match=r'--log mlflow needs .*: pip install "rlab-agents\[mlflow\]"'):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_is_sent_as_far_as_it_came(shelf: Shelf, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("a typing error")

    with pytest.raises(rlab.RlabError, match="a typing error"):
        train(tmp_path / "run", listeners=[At(256, fail)])
    assert shelf.marks() == WHOLE[:3]
    assert [status for status, _ in shelf.ended] == ["failed"]


def test_a_slow_service_is_not_waited_for_before_the_end(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may = threading.Event()
    send = shelf.send
    monkeypatch.setattr(shelf, "send", lambda rows: (may.wait(10), send(rows)))
    seen: list[int] = []
    run = train(tmp_path / "run", listeners=[At(512, lambda: (seen.append(len(*shelf.rows.values())), may.set()))])
    assert seen == [0]
    assert shelf.marks() == WHOLE
    assert run.status == "finished"


def test_the_end_of_a_run_does_not_wait_for_ever(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may = threading.Event()
    monkeypatch.setattr(shelf, "end", lambda status, files: may.wait(10))
    monkeypatch.setattr(log_services, "AT_LAST", 0.2)
    began = time.monotonic()
    with pytest.warns(RlabWarning, match="Shelf has not taken everything after 0 s"):
        train(tmp_path / "run")
    may.set()
    assert time.monotonic() - began < 8


def test_the_parts_of_a_run_are_not_shown_by_themselves(road: SimpleNamespace) -> None:
    whole = road.asked("train", "dqn", "CartPole-v1", "--seeds", "4", "--log", "mlflow", "csv", "--log-project", "mine")
    for part in part_requests(whole, 2, ("cpu",)):
        assert (part.run.log, part.run.log_project) == (None, None)


def test_a_key_that_was_edited_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / log_services.KEY
    path.write_text('{"format": 1, "key": "../../elsewhere"}')
    key = log_services._key(path)
    assert log_services._key(path) == key
    assert len(key) == 16
    path.write_text("{")
    assert log_services._key(path) != key


def test_one_word_or_several_name_where_a_run_is_logged(road: SimpleNamespace) -> None:
    asked = road.asked("train", "dqn", "CartPole-v1", "--log", "csv", "wandb", "--log-project", "mine")
    assert (asked.run.log, asked.run.log_project) == (("csv", "wandb"), "mine")
    with pytest.raises(rlab.UsageError, match=r"--log wanbd: not .*\. Did you mean wandb\?"):
        road.asked("train", "dqn", "CartPole-v1", "--log", "wanbd")
    with pytest.raises(rlab.UsageError, match=r"log = 'wanbd' is not .*\. Did you mean wandb\?"):
        rlab.train("dqn", "CartPole-v1", log="wanbd")


def test_lists_and_arrays_give_the_same_row() -> None:
    arrays = {"loss/td": np.array([1.0, np.nan]), "explore/epsilon": np.float64(0.25)}
    lists = {"loss/td": [1.0, None], "explore/epsilon": 0.25}
    assert metrics_row(1, arrays, (0, 1), log_services.iqm) == metrics_row(1, lists, (0, 1), log_services.iqm)
