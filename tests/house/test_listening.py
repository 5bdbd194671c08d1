"""Listeners from Python in whole runs: what they hear, that they change nothing, stop a run and cannot lose it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rlab
from rlab import api
from rlab.runs.listing import list_runs

STEPS = {"env_steps": 512, "log_every": 128, "eval_every": 256, "eval_episodes": 2, "final_eval_episodes": 3}
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 4, "seed": 3, "seeds": 2, "hidden": (8,), **STEPS}
SMALL |= {"max_episode_steps": 30, "learning_starts": 64, "batch_size": 16}

pytestmark = pytest.mark.usefixtures("quick_disk")


class Diary(rlab.Listener):
    """Notes everything, then scribbles over it and over what randomness is shared by all."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, Any]] = []
        self.episodes: list[rlab.FinishedEpisode] = []
        self.runs: list[rlab.Run] = []

    def on_start(self, run: rlab.Run) -> None:
        self.runs.append(run)

    def on_metrics(self, env_steps: int, metrics: dict[str, np.ndarray]) -> None:
        self.noted.append(("metrics", env_steps))
        np.random.seed(env_steps)
        for value in metrics.values():
            value[...] = np.nan
        metrics.clear()

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        self.noted.append(("evaluation", (env_steps, returns.shape)))
        returns[:], lengths[:] = -1e9, -1

    def on_save(self, env_steps: int) -> None:
        self.noted.append(("save", env_steps))

    def on_episode(self, episode: rlab.FinishedEpisode) -> None:
        self.episodes.append(episode)

    def on_end(self, run: rlab.Run) -> None:
        self.runs.append(run)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> tuple[rlab.Run, Diary]:
    diary = Diary()
    out = tmp_path_factory.mktemp("heard") / "run"
    return rlab.train("dqn", "CartPole-v1", out=out, listeners=[diary], **SMALL), diary


def test_a_listener_hears_everything_in_its_order(heard: tuple[rlab.Run, Diary]) -> None:
    run, diary = heard
    judged = ("evaluation", (256, (2, 2))), ("evaluation", (512, (2, 2)))
    assert diary.noted == [
        *(("metrics", 128), ("metrics", 256), judged[0], ("metrics", 384), ("metrics", 512)),
        *(("save", 512), judged[1], ("save", 512)),  # saved before it is judged, and again with what is best
    ]
    begun, ended = diary.runs
    assert (begun.path, begun.time, begun.finished, begun.evaluation) == (run.path, 0, False, None)
    assert ended is run


def test_every_episode_of_training_is_told_once(heard: tuple[rlab.Run, Diary], road: SimpleNamespace) -> None:
    run, diary = heard
    told = [sum(e.seed == seed for e in diary.episodes) for seed in (3, 4)]
    assert told == road.rows(run.path)[-1]["train/episodes"]
    for e in diary.episodes:
        assert e.episode_return == e.length <= 30  # CartPole pays 1 a step
    for seed in (3, 4):
        for env in range(4):  # in each env one episode follows the other, after a row in which it is reset
            mine = [e for e in diary.episodes if (e.seed, e.env) == (seed, env)]
            rows = np.cumsum([e.length + 1 for e in mine]) - 1
            assert [e.env_steps for e in mine] == (4 * rows).tolist()


def test_a_listener_that_scribbles_changes_nothing(
    heard: tuple[rlab.Run, Diary], tmp_path: Path, road: SimpleNamespace
) -> None:
    run, _ = heard
    plain = rlab.train("dqn", "CartPole-v1", out=tmp_path / "plain", **SMALL)
    for place in ("policy", "best"):
        road.check_same(road.weights(plain.path / place), road.weights(run.path / place))
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert (plain.path / name).read_bytes() == (run.path / name).read_bytes()


class StopAt:
    """Stops at the first row of metrics from `time` on."""

    def __init__(self, time: int) -> None:
        self.time = time

    def on_metrics(self, env_steps: int, metrics: Any) -> bool:
        return env_steps < self.time


def test_a_listener_stops_a_run_which_then_goes_on_to_its_end(tmp_path: Path) -> None:
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", listeners=[StopAt(200)], **SMALL)
    assert (run.finished, run.time, run.stopped_by, run.evaluation) == (False, 256, "StopAt", None)
    assert run.report().startswith("stopped by the listener StopAt at 256 env steps and saved; go on with: rlab resume")
    (row,) = list_runs(tmp_path)
    assert (row["status"], row["reason"]) == ("stopped", "by the listener StopAt")
    diary = Diary()
    again = api.resume(run.path, listeners=[diary])
    assert (again.finished, again.time, again.stopped_by) == (True, 512, None)
    assert diary.noted[0] == ("metrics", 384)
    assert diary.runs[0].time == 256


def test_a_listener_that_stops_at_the_end_of_the_budget_stops_nothing(tmp_path: Path) -> None:
    run = rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", listeners=[StopAt(512)], **SMALL)
    assert (run.finished, run.stopped_by) == (True, None)
    assert run.evaluation is not None


@pytest.mark.parametrize(
    ("method", "when", "kept"),
    [
        ("on_start", "", "Nothing was trained."),
        ("on_metrics", " when the run's clock was at 128", "The run is saved: rlab resume "),
        ("on_evaluation", " when the run's clock was at 256", "The run is saved: rlab resume "),
        ("on_save", " when the run's clock was at 512", "The run is saved: rlab resume "),
        ("on_end", "", "The run is whole: "),
    ],
)
def test_an_exception_names_the_listener_and_comes_after_a_save(
    tmp_path: Path, method: str, when: str, kept: str
) -> None:
    def fail(self: Any, *heard: Any) -> None:
        raise ValueError("a typing error")

    mine = type("Mine", (rlab.Listener,), {method: fail})()
    diary = Diary()
    with pytest.raises(rlab.RlabError) as caught:
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", listeners=[mine, diary], **SMALL)
    said = f"the listener Mine.{method} failed{when}: ValueError: a typing error. {kept}"
    assert str(caught.value).startswith(said)
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(diary.runs) == 2  # who opened something at the start can close it
    (row,) = list_runs(tmp_path)
    saved = {"on_start": "failed", "on_metrics": "failed", "on_evaluation": "failed", "on_save": "not-judged"}
    assert row["status"] == saved.get(method, "finished")
    if method != "on_end":
        done = api.resume(tmp_path / "run")
        assert (done.finished, done.time) == (True, 512)
        assert done.evaluation is not None


@pytest.mark.parametrize(
    ("method", "error", "saved", "status"),
    [
        ("on_metrics", SystemExit(3), 128, "stopped"),
        ("on_metrics", KeyboardInterrupt(), 128, "stopped"),
        ("on_save", SystemExit(3), 512, "not-judged"),
        ("on_end", SystemExit(3), 512, "finished"),
    ],
)
def test_a_listener_that_ends_the_program_does_so_after_a_save(
    tmp_path: Path, method: str, error: BaseException, saved: int, status: str
) -> None:
    def leave(self: Any, *heard: Any) -> None:
        raise error

    mine, diary = type("Mine", (rlab.Listener,), {method: leave})(), Diary()
    with pytest.raises(type(error)) as caught:
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", listeners=[mine, diary], **SMALL)
    assert caught.value is error
    assert [run.time for run in diary.runs] == [0, saved]
    (row,) = list_runs(tmp_path)
    assert row["status"] == status
    if status == "stopped":
        assert row["reason"] == "by the listener Mine"
    if status != "finished":
        assert api.resume(tmp_path / "run").evaluation is not None


def test_listeners_that_cannot_hear_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(rlab.UsageError, match=r"listeners\[0\] is the class Diary"):
        rlab.train("dqn", "CartPole-v1", out=tmp_path / "run", listeners=[Diary], **SMALL)
    assert not (tmp_path / "run").exists()


def test_pretraining_and_fine_tuning_are_heard_too(dataset: Path, ppo_run: Path, tmp_path: Path, road: Any) -> None:
    diary = Diary()
    run = rlab.pretrain("bc", dataset, out=tmp_path / "bc", updates=20, log_every=10, listeners=[diary], **road.JUDGED)
    assert (run.unit, run.time) == ("updates", 20)
    assert [time for what, time in diary.noted if what == "metrics"] == [10, 20]
    assert diary.episodes == []
    diary = Diary()
    settings = {"env_steps": 256, "log_every": 128, "eval_every": 10**6, "eval_episodes": 1, "final_eval_episodes": 0}
    rlab.finetune(ppo_run, out=tmp_path / "tuned", listeners=[diary], **settings)
    assert [time for what, time in diary.noted if what == "metrics"] == [128, 256]
    assert [time for what, time in diary.noted if what == "save"] == [0, 256, 256]
    assert diary.episodes != []
