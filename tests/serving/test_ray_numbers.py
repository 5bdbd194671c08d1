"""Replicas know each other's numbers without a folder that all of them see."""

import os
from pathlib import Path

import pytest

from rlab.serving import ray_numbers
from rlab.serving.counts import ModelCounts
from rlab.serving.ray_numbers import Exchange, exchange_once
from rlab.serving.shared import Numbers, SharedNumbers


def test_two_replicas_sum_their_counts_through_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, folders = Exchange(), [tmp_path / "a", tmp_path / "b"]
    shared = []
    for folder, requests in zip(folders, (3, 4), strict=True):
        folder.mkdir()
        counts = ModelCounts()
        counts.requests["200"] = requests
        shared.append(SharedNumbers(lambda counts=counts: Numbers({"pole@1": counts}), folder))
        exchange_once(folder, folder.name, exchange.swap)  # nothing to tell yet
        shared[-1].stopped()  # which writes
    for _ in range(2):
        for folder in folders:
            exchange_once(folder, folder.name, exchange.swap)
    assert [each.all().counts["pole@1"].requests["200"] for each in shared] == [7, 7]
    monkeypatch.setattr(ray_numbers, "SILENT", -1.0)  # the other is gone now: its counts stay
    exchange_once(folders[0], "a", exchange.swap)
    assert shared[0].all().counts["pole@1"].requests["200"] == 7
    names = sorted(path.name.partition("-")[0] for path in folders[0].iterdir())
    assert names == sorted([str(os.getpid()), str(ray_numbers.NOBODY)])
