"""What the tests of hostile files share: a folder with one good artefact of each kind."""

from pathlib import Path
from typing import Any

import pytest

import rlab

TINY: dict[str, Any] = {
    "experiment": "none",
    "num_envs": 2,
    "hidden": (4,),
    "seed": 3,
    "seeds": 2,
    "env_steps": 256,
    "log_every": 64,
    "eval_every": 128,
    "eval_episodes": 1,
    "final_eval_episodes": 1,
    "max_episode_steps": 20,
}
EXPERIMENT = """format = 1
agent = "ppo"
env = "CartPole-v1"

[run]
env_steps = 64
num_envs = 2

[settings]
hidden = [4]

[bench]
seeds = 2
episodes = 2

[[claim]]
measure = "iqm"
at_least = 0
"""


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` (PPO), `dqn` (with a replay), `data` (a dataset), `models` (with `pole@best`), `policy.npz` and `.onnx`,
    `ours.toml`."""
    for package in ("minari", "h5py", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("good")
    rlab.train("ppo", "CartPole-v1", out=folder / "run", rollout_steps=16, log="csv", log_episodes=True, **TINY)
    rlab.train("dqn", "CartPole-v1", out=folder / "dqn", learning_starts=64, batch_size=16, **TINY)
    rlab.publish(folder / "run", "pole", alias="best", models=folder / "models")
    rlab.collect(folder / "run", folder / "data", episodes=2)
    for format, suffix in (("numpy", "npz"), ("onnx", "onnx")):
        rlab.export(folder / "run", format=format, out=folder / f"policy.{suffix}")
    (folder / "ours.toml").write_text(EXPERIMENT)
    return folder
