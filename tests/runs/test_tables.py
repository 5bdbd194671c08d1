"""Tables of comma-separated values: what is in them, and that a killed or resumed run leaves them whole."""

import csv

import numpy as np
import pytest

from rlab.errors import RlabError, UsageError
from rlab.learning.episodes import FinishedEpisode
from rlab.runs.logs import MetricsLog
from rlab.runs.tables import EpisodeLog, read_episodes

NAN = float("nan")


def open_log(folder, resume_at=None):
    return MetricsLog(
        folder, [7, 8], iqm=np.mean, summarise=lambda values: (1.0, NAN, NAN), resume_at=resume_at, tables=True
    )


def table(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_one_row_a_seed_and_a_tag_that_comes_late_gets_a_column(tmp_path):
    log = open_log(tmp_path)
    log.on_metrics(100, {"train/episode_return": np.array([NAN, 0.1]), "explore/epsilon": np.float64(0.5), "time/x": 1})
    assert table(tmp_path / "metrics.csv") == [
        ["env_steps", "seed", "train/episode_return", "explore/epsilon"],
        ["100", "7", "", "0.5"],
        ["100", "8", "0.1", "0.5"],
    ]
    log.on_metrics(200, {'odd, "tag"': np.array([1.0, 2.0]), "explore/epsilon": np.float64(0.25)})
    log.on_metrics(300, {"explore/epsilon": np.float64(0.125)})
    log.close()
    header, *rows = table(tmp_path / "metrics.csv")
    assert header == ["env_steps", "seed", "train/episode_return", "explore/epsilon", 'odd, "tag"']
    assert rows == [
        ["100", "7", "", "0.5", ""],
        ["100", "8", "0.1", "0.5", ""],
        ["200", "7", "", "0.25", "1.0"],
        ["200", "8", "", "0.25", "2.0"],
        ["300", "7", "", "0.125", ""],
        ["300", "8", "", "0.125", ""],
    ]


def test_an_evaluation_has_one_row_a_seed(tmp_path):
    log = open_log(tmp_path)
    log.on_evaluation(100, np.array([[1.0, 3.0], [4.0, 4.0]]), np.array([[10, 20], [30, 30]]))
    log.on_final_evaluation(200, np.array([[5.0], [6.0]]), np.array([[1], [2]]))
    log.close()
    assert table(tmp_path / "eval.csv") == [
        ["env_steps", "seed", "return", "return_std", "return_min", "length", "episodes", "final"],
        ["100", "7", "2.0", "1.0", "1.0", "15.0", "2", "False"],
        ["100", "8", "4.0", "0.0", "4.0", "30.0", "2", "False"],
        ["200", "7", "5.0", "0.0", "5.0", "1.0", "1", "True"],
        ["200", "8", "6.0", "0.0", "6.0", "2.0", "1", "True"],
    ]


def write(log, steps):
    for step in steps:
        late = {"late": np.array([step / 3, NAN])} if step > 100 else {}
        log.on_metrics(step, {"q/mean": np.full(2, step / 7), **late})
        log.on_evaluation(step, np.full((2, 3), step / 9), np.ones((2, 3), int))
    log.close()


def test_a_resumed_run_has_the_bytes_of_one_that_was_not_stopped(tmp_path):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    write(open_log(tmp_path / "whole"), [100, 200, 300])
    write(open_log(tmp_path / "resumed"), [100, 200, 300])  # died at 300, the checkpoint is of 200
    for name in ("metrics.csv", "eval.csv"):
        path = tmp_path / "resumed" / name
        path.write_bytes(path.read_bytes()[:-5])  # and in the middle of a line
    write(open_log(tmp_path / "resumed", resume_at=200), [300])
    for name in ("metrics.csv", "eval.csv"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_nobody_gets_tables_who_did_not_ask(tmp_path):
    MetricsLog(tmp_path, [7], iqm=np.mean, summarise=lambda values: (1.0, NAN, NAN)).close()
    assert list(tmp_path.glob("*.csv")) == []


def hear(log, *when):
    for env_steps in when:
        log.on_episodes([FinishedEpisode(seed=3, env=1, episode_return=env_steps / 3, length=9, env_steps=env_steps)])
    log.on_metrics(when[-1], {})


def test_episodes_after_the_checkpoint_are_dropped_and_the_seconds_go_on(tmp_path, monkeypatch):
    seconds = iter([0.0, 1.0, 2.0, 3.0, 4.0, 100.0, 101.5])
    monkeypatch.setattr("rlab.runs.tables.time.perf_counter", lambda: next(seconds))
    log = EpisodeLog(tmp_path, 0)
    hear(log, 10, 20, 30, 35)
    log.close()
    path = tmp_path / "episodes.csv"
    path.write_bytes(path.read_bytes()[:-3])  # killed in the middle of a line
    again = EpisodeLog(tmp_path, 20)
    hear(again, 40)
    again.close()
    assert path.read_text().splitlines()[0] == "env_steps,seed,env,return,length,time"
    found = read_episodes(tmp_path)
    assert found["env_steps"].tolist() == [10, 20, 40]
    assert found["return"].tolist() == [10 / 3, 20 / 3, 40 / 3]  # to the bit
    assert found["time"].tolist() == [1.0, 2.0, 3.5]  # 2 and another 1.5
    assert found[["seed", "env", "length"]].tolist() == [(3, 1, 9)] * 3


def test_a_run_that_kept_no_episodes_says_how_to_keep_them(tmp_path):
    with pytest.raises(UsageError, match=r"kept no episodes; train with --log-episodes \(log_episodes=True\)"):
        read_episodes(tmp_path)
    (tmp_path / "episodes.csv").write_text("env_steps,seed,env,return,length,time\n")
    assert len(read_episodes(tmp_path)) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "begins with 'a,b', not with the columns of episodes"),
        ("env_steps,seed,env,return,length,time\n1,2,x,4,5,6\n", "is broken: "),
        ("env_steps,seed,env,return,length,time\n1,2\n", "is broken: "),
    ],
)
def test_a_broken_table_of_episodes_gives_one_line(tmp_path, content, said):
    (tmp_path / "episodes.csv").write_text(content)
    with pytest.raises(RlabError, match=r"episodes\.csv") as caught:
        read_episodes(tmp_path)
    assert said in str(caught.value)
