"""A supervised fit leaves the same curves as a training run."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlab import supervised
from rlab.runs.logs import read_json_lines


def test_a_fit_is_recorded_for_tensorboard_as_data_and_as_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 3)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int64)
    settings = supervised.SupervisedSettings(epochs=5, batch_size=16, validation_fraction=0.25)
    with supervised.recorded(tmp_path / "fit", (0, 1), updates=15) as listeners:
        supervised.fit(supervised.vector_network(3, 2, (8,)), inputs, labels, settings, (0, 1), listeners)
    header, rows = read_json_lines(tmp_path / "fit" / "metrics.jsonl")
    assert header["seeds"] == [0, 1]
    assert [row["updates"] for row in rows] == [3, 6, 9, 12, 15]  # 48 rows in batches of 16: three an epoch
    assert all(len(row["validation/accuracy"]) == 2 for row in rows)
    events = EventAccumulator(str(tmp_path / "fit")).Reload()
    assert {"loss/cross_entropy", "train/accuracy", "validation/accuracy"} <= set(events.Tags()["scalars"])
    assert "rlab" not in capsys.readouterr().err  # no error; in a terminal the bar goes to standard error
