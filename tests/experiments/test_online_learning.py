"""The study that closes the loop, at small size: served, recorded, fine-tuned, compared, published, picked up."""

from pathlib import Path
from typing import Any

import pytest

import rlab
from rlab.experiments.online_learning import Sizes, study

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'rlab-agents[serve]'")
pytest.importorskip("minari", reason="minari is not installed: pip install 'rlab-agents[minari]'")


def test_a_served_policy_in_a_changed_world_is_replaced_by_one_that_learned_from_its_recording(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {
        "env_steps": 64,
        "experiment": "none",
        "hidden": (64, 64),
        "eval_every": 0,
        "learning_starts": 32,
    }
    first = rlab.train("double_dqn", "CartPole-v1", out=tmp_path / "first", final_eval_episodes=20, **tiny)
    learned = {**Sizes().learned, "updates": 600, "learning_rate": 1e-3, "final_eval_episodes": 20}
    sizes = Sizes(usual=40, recorded=320, noise=1.0, learned=learned, judged=20)
    found = study(first.path, tmp_path, sizes)
    assert found["versions"] == ["1", "2"]
    assert found["compared"]["verdict"] == "better"
    assert found["changed"]["drift"] != []
    counts = found["recorded"]
    assert counts["answered"] == counts["told"] == 320 * 16
    assert counts["learned_from"] + counts["under_way"] == counts["answered"]
