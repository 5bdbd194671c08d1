"""What a server counts, as Prometheus reads it, and what several workers know together."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: pip install 'rlab-agents[serve]'")

from prometheus_client.parser import text_string_to_metric_families

from rlab.networks.spaces import Box, Discrete, MultiDiscrete, Space
from rlab.serving.counts import MOST_ACTIONS, Counts, ModelCounts
from rlab.serving.drift import FeatureDrift
from rlab.serving.drift_watch import DriftState
from rlab.serving.metrics import MOST_FEATURES, render
from rlab.serving.observers import AnsweredBatch
from rlab.serving.shared import Numbers, SharedNumbers, added

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: bytes | str) -> Samples:
    """Every sample by its name and labels, as Prometheus's own parser reads them."""
    families = text_string_to_metric_families(text if isinstance(text, str) else text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def model(actions: Space, name: str = "pole", version: str = "2") -> Any:
    return SimpleNamespace(name=name, version=version, runner=SimpleNamespace(action_space=actions), observed=None)


def batch(actions: np.ndarray, seconds: list[float]) -> AnsweredBatch:
    rows, spare = len(actions) // len(seconds), len(seconds)
    shapes = np.zeros((len(actions), 1))
    of_each = {"ids": ["id"], "rows": [rows], "sequences": [None], "starts": [False]}
    facts: Any = {name: value * spare for name, value in of_each.items()}
    return AnsweredBatch(**facts, seconds=seconds, time=1, obs=shapes, actions=actions, outputs=shapes)


def drift(name: str, score: float = 0.5, drifting: bool = False) -> FeatureDrift:
    return FeatureDrift(name, drifting, score, "mean", 256, 1.0, 0.5, 2.0, (0.5, 0.5), (0.5, 0.5), (0.0, 1.0, 2.0))


def test_requests_times_batches_and_actions_are_counted() -> None:
    counts, pole = Counts(), model(Discrete(3, start=-1))
    counts.answered(pole, batch(np.array([-1, 1, 1, 0, 1, 1]), [0.0005, 0.004, 20.0]))
    counts.answered(pole, batch(np.array([1]), [0.0006]))
    counts.refused("pole", 400, "no")
    counts.refused(None, 404, "no")
    counts.refused(None, 404, "no")
    found = parsed(render(Numbers(counts.by_model)))
    labels = (("model", "pole"), ("version", "2"))
    assert found["rlab_requests_total", (("model", "pole"), ("status", "200"), ("version", "2"))] == 4
    assert found["rlab_requests_total", (("model", "pole"), ("status", "400"), ("version", ""))] == 1
    assert found["rlab_requests_total", (("model", ""), ("status", "404"), ("version", ""))] == 2
    below = {bound: found["rlab_request_seconds_bucket", (("le", bound), *labels)] for bound in ("0.0005", "0.001")}
    assert below == {"0.0005": 1, "0.001": 2}  # a bound belongs to its bucket
    assert found["rlab_request_seconds_bucket", (("le", "0.005"), *labels)] == 3
    assert found["rlab_request_seconds_bucket", (("le", "10.0"), *labels)] == 3
    assert found["rlab_request_seconds_count", labels] == 4
    assert found["rlab_request_seconds_sum", labels] == pytest.approx(20.0051)
    assert [found["rlab_batch_rows_bucket", (("le", le), *labels)] for le in ("1.0", "4.0", "8.0")] == [1, 1, 2]
    assert found["rlab_batch_rows_sum", labels] == 7
    actions = {value: found["rlab_actions_total", (("action", value), ("choice", "0"), *labels)] for value in "10"}
    assert actions == {"1": 5, "0": 1}
    assert found["rlab_actions_total", (("action", "-1"), ("choice", "0"), *labels)] == 1


def test_each_choice_of_an_action_is_counted_and_numbers_and_very_many_options_are_not() -> None:
    counts = Counts()
    counts.answered(model(MultiDiscrete((2, 3), (0, 5), (2,))), batch(np.array([[1, 7], [1, 5]]), [0.1]))
    assert counts.by_model["pole@2"].actions == {"0 1": 2, "1 7": 1, "1 5": 1}
    for number, space in enumerate((Box((2,), "float32", -1.0, 1.0), Discrete(MOST_ACTIONS + 1))):
        counts.answered(model(space, f"other{number}"), batch(np.zeros((2, *space.shape)), [0.1]))
        assert counts.by_model[f"other{number}@2"].actions == {}


def test_drift_is_shown_feature_by_feature_with_any_name() -> None:
    odd = 'a "quoted\\" name\nof two lines'
    state = DriftState(500, 3, (drift("obs[0]", 1.5, True), drift(odd)))
    found = parsed(render(Numbers({}, {"pole@2": state})))
    labels = (("model", "pole"), ("version", "2"))
    assert found["rlab_drift_observations_total", labels] == 500
    assert found["rlab_drift_alarms_total", labels] == 3
    assert found["rlab_drift_features", labels] == 1
    assert found["rlab_drift_score_max", labels] == 1.5
    assert found["rlab_drift_score", (("feature", odd), *labels)] == 0.5
    assert found["rlab_drift_shift_std", (("feature", "obs[0]"), *labels)] == 2.0
    many = DriftState(500, 0, tuple(drift(f"obs[{i}]") for i in range(MOST_FEATURES + 1)))
    assert not any(name == "rlab_drift_score" for name, _ in parsed(render(Numbers({}, {"pole@2": many}))))


def test_counts_of_processes_add_up_and_of_drift_the_furthest_is_told() -> None:
    one, two = ModelCounts({"200": 3}, actions={"0 1": 2}), ModelCounts({"200": 4, "400": 1}, actions={"0 1": 1})
    one.seconds[2], two.seconds[2], one.rows_sum, two.seconds_sum = 3, 4, 7, 0.5
    near, far = DriftState(10, 1, (drift("x", 0.2), drift("y", 0.9))), DriftState(5, 0, (drift("x", 1.2, True),))
    found = added([Numbers({"a@1": one}, {"a@1": near}), Numbers({"a@1": two, "b@1": ModelCounts()}, {"a@1": far})])
    assert found.counts["a@1"].requests == {"200": 7, "400": 1}
    assert (found.counts["a@1"].seconds[2], found.counts["a@1"].rows_sum, found.counts["a@1"].seconds_sum) == (
        7,
        7,
        0.5,
    )
    assert found.counts["a@1"].actions == {"0 1": 3}
    assert (found.drift["a@1"].observations, found.drift["a@1"].alarms) == (15, 1)
    assert [(each.name, each.score) for each in found.drift["a@1"].features] == [("x", 1.2), ("y", 0.9)]
    assert one.requests == {"200": 3}  # nothing of a process is changed


def test_processes_find_each_others_numbers_in_a_folder_and_counts_outlive_them(tmp_path: Path) -> None:
    def numbers(count: int) -> Callable[[], Numbers]:
        return lambda: Numbers({"a@1": ModelCounts({"200": count})}, {"a@1": DriftState(count)})

    async def main() -> None:
        first, second = SharedNumbers(numbers(3), tmp_path), SharedNumbers(numbers(4), tmp_path)
        first.refused(None, 404, "no")  # so that it writes, a little later
        second.stopped()  # which writes at once
        assert first.all().counts["a@1"].requests == {"200": 7}
        assert second.all().counts["a@1"].requests == {"200": 4}
        first.stopped()
        assert second.all().counts["a@1"].requests == {"200": 7}
        assert second.all().drift["a@1"].observations == 7

    asyncio.run(main())
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (one, _) = sorted(tmp_path.glob("*.json"))
    one.rename(tmp_path / f"{int(ended.stdout)}-{one.name.partition('-')[2]}")  # as of a process that is gone
    left = SharedNumbers(lambda: Numbers(), tmp_path).all()
    assert left.counts["a@1"].requests == {"200": 7}
    assert left.drift["a@1"].observations in (3, 4)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_single_process_writes_nothing(tmp_path: Path) -> None:
    alone = SharedNumbers(lambda: Numbers({"a@1": ModelCounts({"200": 1})}), None)
    alone.answered(model(Discrete(2)), batch(np.zeros(1, int), [0.1]))
    alone.stopped()
    assert alone.all().counts["a@1"].requests == {"200": 1}


def test_prometheus_reads_what_a_server_answered(server: Any) -> None:
    before = parsed(server.get("/metrics").body)
    server.actions(np.zeros((3, 4), np.float32))
    assert server.post("/v2/models/cartpole/infer", {}).status == 400
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = parsed(answer.body)
    labels = (("model", "cartpole"), ("version", "1"))
    for name, more in (("rlab_request_seconds_count", 1), ("rlab_batch_rows_sum", 3)):
        assert found[name, labels] - before.get((name, labels), 0) == more, name
    actions = sum(value for (name, own), value in found.items() if name == "rlab_actions_total" and labels[0] in own)
    assert actions == found["rlab_batch_rows_sum", labels]
    refused = ("rlab_requests_total", (("model", "cartpole"), ("status", "400"), ("version", "")))
    assert found[refused] - before.get(refused, 0) == 1


def test_with_several_workers_metrics_are_the_sums_of_all(policies: Path, serve: Callable[..., Any]) -> None:
    running = serve(policies / "cartpole", "--workers", 2)
    until = time.monotonic() + 60
    while sum('"event": "ready"' in line for line in running.log_lines) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    for _ in range(40):  # on a connection each, which either worker may take
        running.actions(np.zeros((1, 4), np.float32))
    until, counted = time.monotonic() + 20, 0.0  # others see what one has answered half a second later
    while counted < 40 and time.monotonic() < until:
        found = parsed(running.get("/metrics").body)
        counted = found.get(("rlab_request_seconds_count", (("model", "cartpole"), ("version", "1"))), 0.0)
        time.sleep(0.05)
    assert counted == 40
