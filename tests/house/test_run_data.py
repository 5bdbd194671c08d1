"""What a run wrote, from Python and as tables: curves, episodes, the tidy frame, and CSV files."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rlab
from rlab import api, machine
from rlab.evaluation.evaluate import Evaluation
from rlab.runs.listing import list_runs

STEPS = {"env_steps": 512, "log_every": 128, "eval_every": 256, "eval_episodes": 2, "final_eval_episodes": 3}
SMALL: dict[str, Any] = {"experiment": "none", "num_envs": 4, "seed": 3, "seeds": 2, "hidden": (8,), **STEPS}
SMALL |= {"max_episode_steps": 30, "learning_starts": 200, "batch_size": 16}

pytestmark = pytest.mark.usefixtures("quick_disk")


class StopAt:
    def __init__(self, time: int) -> None:
        self.time = time

    def on_metrics(self, env_steps: int, metrics: Any) -> bool:
        return env_steps < self.time


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> rlab.Run:
    out = tmp_path_factory.mktemp("data") / "run"
    return rlab.train("dqn", "CartPole-v1", out=out, log="csv", log_episodes=True, **SMALL)


def test_the_tables_say_what_the_json_logs_say(run: rlab.Run, road: SimpleNamespace) -> None:
    rows = list(csv.DictReader((run.path / "metrics.csv").read_text().splitlines()))
    assert [(row["env_steps"], row["seed"]) for row in rows] == [
        (str(when), seed) for when in (128, 256, 384, 512) for seed in ("3", "4")
    ]
    for k, logged in enumerate(road.rows(run.path)):
        for i in range(2):
            for tag, value in logged.items():
                if tag != "env_steps":
                    told = rows[2 * k + i][tag]
                    value = value[i] if isinstance(value, list) else value
                    assert told == ("" if value is None else str(value))
    assert rows[0]["loss/td_huber"] == ""  # learning starts after the first report, so that this column came late
    judged = list(csv.DictReader((run.path / "eval.csv").read_text().splitlines()))
    assert [row["final"] for row in judged] == ["False"] * 4 + ["True"] * 2
    assert run.evaluation is not None
    assert [float(row["return"]) for row in judged[4:]] == run.evaluation.per_seed_mean.tolist()


def test_the_episodes_are_those_that_were_counted(run: rlab.Run, road: SimpleNamespace) -> None:
    episodes = run.episodes()
    assert [int((episodes["seed"] == seed).sum()) for seed in (3, 4)] == road.rows(run.path)[-1]["train/episodes"]
    assert (episodes["return"] == episodes["length"]).all()  # CartPole pays 1 a step
    assert (np.diff(episodes["env_steps"]) >= 0).all()
    assert (np.diff(episodes["time"]) >= 0).all()
    told = road.rows(run.path)[0]["train/episode_return"][0]
    first = episodes[(episodes["seed"] == 3) & (episodes["env_steps"] <= 128)]
    assert first["return"].mean() == pytest.approx(told)


def test_a_stopped_run_goes_on_with_its_tables(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rlab.train("dqn", "CartPole-v1", out=out, log="csv", log_episodes=True, listeners=[StopAt(256)], **SMALL)
    stopped = rlab.Run.open(out)
    assert (stopped.status, stopped.stopped_by, stopped.finished) == ("stopped", "StopAt", False)
    before = stopped.episodes()
    again = api.resume(out)
    lines = (out / "metrics.csv").read_text().splitlines()
    clocks = [str(when) for when in (128, 256, 384, 512) for _ in range(2)]
    assert [line.split(",")[0] for line in lines] == ["env_steps", *clocks]
    episodes = again.episodes()
    assert (episodes[: len(before)] == before).all()
    assert (episodes["env_steps"][len(before) :] > 256).all()


def test_a_list_of_runs_says_what_made_each_and_how_sure_it_is(run: rlab.Run) -> None:
    (row,) = list_runs(run.path.parent)
    assert run.evaluation is not None
    assert (row["final_iqm"], row["final_ci95"]) == (run.evaluation.iqm, list(run.evaluation.ci95 or ()))
    assert (row["version"], row["commit"]) == (rlab.__version__, machine.commit())
    assert row["command"].startswith("rlab.train('dqn', 'CartPole-v1', ")
    assert row["began"] <= row["at"]
    assert row["wall_seconds"] > 0


def test_curves_by_tag(run: rlab.Run, road: SimpleNamespace) -> None:
    when, returns = run.curve()
    assert (when.tolist(), returns.shape) == ([256, 512], (2, 2))
    when, values = run.curve("explore/epsilon")
    assert when.tolist() == [128, 256, 384, 512]
    assert (values[0] == values[1]).all()  # shared by all members
    assert run.curve("loss/td_huber")[0].tolist() == [256, 384, 512]
    with pytest.raises(rlab.UsageError, match="Did you mean 'loss/td_huber'"):
        run.curve("loss/td_hubber")


def test_a_run_is_opened_on_another_day(run: rlab.Run, ppo_run: Path) -> None:
    opened = rlab.Run.open(run.path)
    assert (opened.path, opened.finished, opened.unit, opened.time) == (run.path, True, "env_steps", 512)
    assert run.evaluation is not None
    assert opened.evaluation is not None
    assert opened.evaluation.seeds == (3, 4)
    assert (opened.evaluation.returns == run.evaluation.returns).all()
    assert (opened.evaluation.lengths == run.evaluation.lengths).all()
    assert (opened.curve()[1] == run.curve()[1]).all()
    assert opened.report().partition("\n")[0] == run.report().partition("\n")[0]
    assert (opened.config["agent"], opened.config["run"]["seeds"]) == ("dqn", 2)
    with pytest.raises(rlab.UsageError, match="kept no episodes"):
        rlab.Run.open(ppo_run).episodes()
    with pytest.raises(rlab.RlabError, match="nowhere"):
        rlab.Run.open(run.path / "nowhere")


def test_a_run_serves_wherever_its_path_does(run: rlab.Run, tmp_path: Path) -> None:
    assert rlab.load(run)(np.zeros(4, np.float32)) == rlab.load(run.path)(np.zeros(4, np.float32))
    assert rlab.evaluate(run, episodes=2).returns.tolist() == rlab.evaluate(run.path, episodes=2).returns.tolist()
    assert rlab.resume(run).path == rlab.Run.open(run).path == run.path
    assert rlab.play(run, frames=True).seeds == (100_000,)
    more = {**SMALL, "env_steps": 8, "eval_every": 0, "final_eval_episodes": 0} | {"learning_starts": 4}
    del more["hidden"]
    assert rlab.finetune(run, out=tmp_path / "tuned", **more).config["start"]["run"] == str(run.path)
    taught = rlab.train("dqn", "CartPole-v1", out=tmp_path / "taught", teacher=run, **{**more, "hidden": (8,)})
    assert taught.config["sources"]["teacher"] == str(run.path)


def test_what_has_no_path_gets_one_line(run: rlab.Run, tmp_path: Path) -> None:
    policy = rlab.load(run)
    uses: list[Callable[[Any], Any]] = [
        *(rlab.evaluate, rlab.load, rlab.resume, rlab.finetune, rlab.play, rlab.Run.open),
        lambda thing: rlab.collect(thing, tmp_path / "data"),
        lambda thing: rlab.compress(thing, "int8"),
        lambda thing: rlab.search_compression(thing, max_bytes=9),
        lambda thing: rlab.export(thing, "numpy"),
        lambda thing: rlab.train("dqn", "CartPole-v1", teacher=thing),
    ]
    wanted = "give a run or policy folder, or the Run that rlab.train returned."
    for use in uses:
        for thing, kind in ((policy, "MemberPolicy"), (rlab.Run, "the class Run"), (3, "int"), (b"run", "bytes")):
            with pytest.raises(rlab.UsageError) as caught:
                use(thing)
            assert str(caught.value) == f"{kind} has no path: {wanted}"
    with pytest.raises(rlab.UsageError) as caught:
        rlab.pretrain("bc", policy)  # type: ignore[arg-type]
    said = "MemberPolicy has no path: give a folder of demonstrations, or what rlab.collect returned."
    assert str(caught.value) == said
    with pytest.raises(rlab.UsageError, match=r"is not a folder. `rlab list runs` shows the runs"):
        rlab.load("a" * 300)  # longer than a name may be


def test_a_run_that_goes_on_may_get_tables(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rlab.train("dqn", "CartPole-v1", out=out, listeners=[StopAt(256)], **SMALL)
    again = rlab.resume(out, log="csv", log_episodes=True)
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [row["env_steps"] for row in rows[::2]] == ["128", "256", "384", "512"]  # those before, too
    assert (again.episodes()["env_steps"] > 256).all()


def test_the_frame_is_tidy(run: rlab.Run) -> None:
    pytest.importorskip("pandas")
    frame = run.to_frame()
    assert list(frame.columns) == ["env_steps", "seed", "metric", "value"]
    assert frame["value"].notna().all()
    assert not frame.duplicated(["env_steps", "seed", "metric"]).any()
    wide = frame[frame.metric == "eval/return"].pivot(index="seed", columns="env_steps", values="value")
    assert (wide.to_numpy() == run.curve()[1]).all()
    assert {"train/episode_return", "final/return", "time/env_steps_per_second"} <= set(frame.metric)


def test_an_evaluation_is_a_table_of_seeds_and_episodes() -> None:
    pytest.importorskip("pandas")
    returns, lengths = np.array([[1.5, 2.0], [3.0, 4.0]]), np.array([[10, 20], [30, 40]])
    frame = Evaluation((7, 8), 100, returns, lengths).to_frame()
    assert list(frame.columns) == ["seed", "episode_seed", "return", "length"]
    assert frame.to_numpy().tolist() == [[7, 100, 1.5, 10], [7, 101, 2, 20], [8, 100, 3, 30], [8, 101, 4, 40]]
    assert frame.dtypes.astype(str).tolist() == ["int64", "int64", "float64", "int64"]


def test_without_pandas_a_line_says_what_to_install(run: rlab.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert run.evaluation is not None
    with pytest.raises(rlab.UsageError, match=r"evaluation.to_frame\(\) needs pandas"):
        run.evaluation.to_frame()
    with pytest.raises(rlab.UsageError, match=r'run.to_frame\(\) needs pandas: pip install "rlab-agents\[pandas\]"'):
        run.to_frame()


def test_an_agent_that_steps_no_env_logs_no_episodes(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(rlab.UsageError, match="bc learns from a dataset"):
        rlab.pretrain("bc", dataset, out=tmp_path / "bc", log_episodes=True)
    assert not (tmp_path / "bc").exists()


def test_the_command_line_asks_in_the_same_words(tmp_path: Path, road: SimpleNamespace) -> None:
    asked = road.asked("train", "dqn", "CartPole-v1", "--log", "csv", "--log-episodes")
    assert (asked.run.log, asked.run.log_episodes) == (("csv",), True)


@pytest.mark.parametrize(
    ("words", "compared"),
    [
        (("dqn", "--experiment", "none"), {"Settings": "defaults", "seeds": 1, "env_steps": 100_000}),
        (("dqn", "--gamma", "0.9", "--seeds", "3", "--log-every", "7"), {"gamma": 0.9, "batch_size": 128, "seeds": 3}),
        (("ppo", "--experiment", "none", "--clip", "0.1"), {"Settings": "clip=0.1", "clip": 0.1}),
    ],
)
def test_runs_are_compared_by_what_was_asked_for(
    road: SimpleNamespace, words: tuple[str, ...], compared: dict[str, Any]
) -> None:
    found = road.asked("train", words[0], "CartPole-v1", *words[1:]).compared()
    assert list(found)[:2] == ["Agent", "Env"]
    assert (found["Agent"], found["Env"]) == (words[0], "CartPole-v1")
    assert compared.items() <= found.items()
    assert "log_every" not in found  # it changes nothing of what is learned
    if "none" in words:
        assert len(found) <= 6  # nothing that is as it is by default
    else:
        assert found["Settings"] == "gamma=0.9, experiment dqn-CartPole-v1"
