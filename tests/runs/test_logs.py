"""Rows of JSON and TensorBoard events, also after a death and a resume."""

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlab.errors import RlabError
from rlab.runs.events import settings_table
from rlab.runs.logs import JsonLines, MetricsLog, last_row, read_json_lines, strict

NAN = float("nan")


def iqm(values):
    return float(np.median(values))


def summarise(values):
    return float(np.median(values)), float(values.min()), float(values.max())


def open_log(folder, resume_at=None, seeds=(7, 8, 9)):
    return MetricsLog(folder, seeds, iqm=iqm, summarise=summarise, resume_at=resume_at)


def curves(folder, name):
    """`{tag: [(step, value), ...]}` of one sub-run, as TensorBoard itself reads it."""
    accumulator = EventAccumulator(str(folder / name))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_rows_follow_a_header_and_are_on_the_disk_at_once(tmp_path):
    log = JsonLines(tmp_path / "rows.jsonl", {"seeds": [1]})
    log.write({"env_steps": 10, "x": 0.1})
    assert (tmp_path / "rows.jsonl").read_text() == '{"format": 1, "seeds": [1]}\n{"env_steps": 10, "x": 0.1}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        log.write({"x": NAN})
    log.close()


ROWS = [{"env_steps": 100 * n, "word": "two\nlines é \u2028"} for n in range(1, 4)]


@given(cut=st.integers(min_value=0))
def test_whatever_a_killed_writer_left_the_whole_rows_are_read_and_appended_to(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("logs") / "rows.jsonl"
    log = JsonLines(path, {"seeds": [1]})
    for row in ROWS:
        log.write(row)
    log.close()
    content = path.read_bytes()
    path.write_bytes(content[: cut % (len(content) + 1)])
    whole = path.read_bytes().count(b"\n") - 1
    if whole >= 0:
        assert read_json_lines(path) == ({"format": 1, "seeds": [1]}, ROWS[:whole])
        assert last_row(path) == (ROWS[whole - 1] if whole else None)
    again = JsonLines(path, {"seeds": [1]})
    again.write({"env_steps": 400})
    again.close()
    assert read_json_lines(path) == ({"format": 1, "seeds": [1]}, [*ROWS[: max(whole, 0)], {"env_steps": 400}])


def test_rows_later_than_the_checkpoint_are_dropped_and_so_is_a_final_evaluation(tmp_path):
    log = JsonLines(tmp_path / "rows.jsonl", {})
    for row in [*ROWS, {"env_steps": 100, "final": True}]:
        log.write(row)
    log.truncate_after("env_steps", 200)
    log.write({"env_steps": 250})
    log.close()
    assert [row["env_steps"] for row in read_json_lines(tmp_path / "rows.jsonl")[1]] == [100, 200, 250]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; a header line with format 1 is expected"),
        ('{"format": 2}\n', "has format 2; this rlab reads format 1"),
        ('{"format": 1}\n{"a": \n{"a": 1}\n', r"line 2 is not complete JSON"),
        ('{"format": 1}\n{"a": 1}\n7\n', r"line 3 is not a JSON object"),
    ],
)
def test_a_broken_log_gives_one_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(RlabError, match=message):
        read_json_lines(path)
    if content.startswith('{"format": 2'):
        with pytest.raises(RlabError, match=message):
            JsonLines(path, {})


def test_a_log_that_cannot_be_written_gives_one_line(tmp_path):
    with pytest.raises(RlabError, match="cannot write"):
        JsonLines(tmp_path / "missing" / "rows.jsonl", {})


def test_strict_json_has_no_nan_and_no_infinity():
    assert strict([1, 1.5, NAN, [math.inf, -math.inf, True]]) == [1, 1.5, None, [None, None, True]]


def test_members_go_to_their_own_curves_and_the_population_gets_the_iqm(tmp_path):
    log = open_log(tmp_path)
    log.on_metrics(
        1000,
        {
            "loss/td_huber": np.array([1.0, 2.0, 6.0]),
            "train/episode_return": np.array([NAN, 20.0, NAN]),
            "explore/epsilon": np.float64(0.5),
            "time/env_steps_per_second": 123.0,
        },
    )
    log.on_metrics(2000, {"train/episode_return": np.array([NAN, NAN, NAN]), "time/left": 5.0})
    log.close()
    assert read_json_lines(tmp_path / "metrics.jsonl") == (
        {"format": 1, "seeds": [7, 8, 9]},
        [
            {
                "env_steps": 1000,
                "loss/td_huber": [1.0, 2.0, 6.0],
                "train/episode_return": [None, 20.0, None],
                "explore/epsilon": 0.5,
            },
            {"env_steps": 2000, "train/episode_return": [None, None, None]},
        ],
    )
    assert read_json_lines(tmp_path / "timing.jsonl")[1] == [
        {"env_steps": 1000, "time/env_steps_per_second": 123.0},
        {"env_steps": 2000, "time/left": 5.0},
    ]
    assert curves(tmp_path, "seed-7") == {"loss/td_huber": [(1000, 1.0)]}
    assert curves(tmp_path, "seed-8") == {"loss/td_huber": [(1000, 2.0)], "train/episode_return": [(1000, 20.0)]}
    assert curves(tmp_path, ".") == {
        "loss/td_huber": [(1000, 2.0)],
        "train/episode_return": [(1000, 20.0)],
        "explore/epsilon": [(1000, 0.5)],
        "time/env_steps_per_second": [(1000, 123.0)],
        "time/left": [(2000, 5.0)],
    }


def test_evaluations_carry_every_episode_and_the_interval(tmp_path):
    log = open_log(tmp_path)
    returns = np.array([[1.0, 3.0], [4.0, 4.0], [9.0, 9.0]])  # means 2, 4, 9
    lengths = np.array([[10, 20], [30, 30], [40, 40]])
    log.on_evaluation(500, returns, lengths)
    log.on_final_evaluation(1000, returns + 1, lengths)
    log.close()
    first, final = read_json_lines(tmp_path / "eval.jsonl")[1]
    assert first == {
        "env_steps": 500,
        "iqm": 4.0,
        "ci95": [2.0, 9.0],
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
    }
    assert (final["env_steps"], final["iqm"], final["final"]) == (1000, 5.0, True)
    assert curves(tmp_path, ".") == {
        "eval/return": [(500, 4.0)],
        "eval/return_low": [(500, 2.0)],
        "eval/return_high": [(500, 9.0)],
        "eval/length": [(500, 30.0)],
        "final/return": [(1000, 5.0)],
        "final/return_low": [(1000, 3.0)],
        "final/return_high": [(1000, 10.0)],
        "final/length": [(1000, 30.0)],
    }
    assert curves(tmp_path, "seed-7")["eval/return"] == [(500, 2.0)]


def test_one_seed_has_no_interval(tmp_path):
    log = MetricsLog(tmp_path, [0], iqm=iqm, summarise=lambda values: (float(values[0]), NAN, NAN))
    log.on_evaluation(500, np.array([[1.0, 3.0]]), np.array([[1, 3]]))
    log.close()
    assert read_json_lines(tmp_path / "eval.jsonl")[1][0]["ci95"] is None
    assert curves(tmp_path, ".").keys() == {"eval/return", "eval/length"}


def test_a_metric_of_another_shape_is_refused(tmp_path):
    log = open_log(tmp_path)
    with pytest.raises(ValueError, match=r"metric 'q/mean' has shape \(3, 1\); it must be \(\) or \(3,\)"):
        log.on_metrics(1, {"q/mean": np.zeros((3, 1))})
    log.close()


def write_run(folder, clock, resume=False):
    """Rows at 100, 200, 300; with `resume`, a process that died at 300 goes on from a checkpoint at 200."""
    log = open_log(folder)
    steps = [100, 200, 300]
    if resume:
        for step in steps:
            log.on_metrics(step, {"q/mean": np.full(3, step / 7), "time/now": clock})
            log.on_evaluation(step, np.full((3, 2), -step), np.ones((3, 2), int))
        log.close()
        log, steps = open_log(folder, resume_at=200), [300]
    for step in steps:
        log.on_metrics(step, {"q/mean": np.full(3, step / 7), "time/now": clock})
        log.on_evaluation(step, np.full((3, 2), -step), np.ones((3, 2), int))
    log.close()
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "eval.jsonl")]


def test_equal_runs_write_equal_bytes_whatever_the_clock_says_and_also_when_resumed(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    plain = write_run(tmp_path / "a", clock=1.0)
    assert write_run(tmp_path / "b", clock=2.0) == plain
    assert write_run(tmp_path / "c", clock=3.0, resume=True) == plain
    assert curves(tmp_path / "c", "seed-8") == curves(tmp_path / "a", "seed-8") | {}
    assert [step for step, _ in curves(tmp_path / "c", ".")["time/now"]] == [100, 200, 300]


def test_a_settings_table_cannot_be_broken_by_a_value():
    assert settings_table({"a|b": "x|y\nz"}, {}).splitlines()[2:] == ["| a\\|b | x\\|y z |  |"]


def test_logging_costs_little(tmp_path):
    # Ten members take about a second for 1000 env steps on one core, and 1 % of that is 10 ms. Processor time, which a
    # busy machine does not lengthen, and the median of many rows.
    log = open_log(tmp_path, seeds=range(10))
    metrics = {f"tag/{index}": np.random.default_rng(index).random(10) for index in range(10)}
    costs = []
    for row in range(50):
        begin = time.thread_time()
        log.on_metrics(1000 * row, metrics)
        costs.append(time.thread_time() - begin)
    log.close()
    assert np.median(costs) < 0.01, json.dumps(costs)
