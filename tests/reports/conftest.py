"""A page of made-up populations."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlab
from rlab.evaluation.comparison import Side as Compared
from rlab.evaluation.comparison import pair
from rlab.evaluation.report.model import Report, Side, Study, Task, Trial


def population(index: int, name: str, seeds: int = 5, **changes: Any) -> Side:
    """A made-up population: `index` says how well it does."""
    rng = np.random.default_rng(index)
    when = np.arange(1, 11) * 1000
    curve = 100.0 * (index + 1) * (1 - np.exp(-when / 3000)) + rng.normal(0, 5, (seeds, 10))
    facts: dict[str, Any] = {
        "path": f"runs/{name}",
        "agent": "ppo",
        "seeds": tuple(range(seeds)),
        "returns": curve[:, -1:] + rng.normal(0, 10, (seeds, 20)),
        "curve": (when, curve),
        "training": (when, curve - 10.0),
        "time": 10_000,
        "budget": 10_000,
        "status": "finished",
        "settings": {"learning_rate": 0.001 * (index + 1), "gamma": 0.99},
        "origins": {"learning_rate": "command line"},
        "versions": {"rlab": "0.1.0"},
        "hardware": {"cpu": "a processor", "cores": 2},
        "made_by": f"rlab train ppo CartPole-v1 --out runs/{name}",
    }
    return Side(name, **{**facts, **changes})


def a_report(names: tuple[str, ...] = ("alpha", "beta"), label: str = "CartPole-v1", **changes: Any) -> Report:
    """Populations on one env, compared, and a study."""
    sides = [population(index, name) for index, name in enumerate(names)]
    judged = [Compared(side.name, side.seeds, side.returns) for side in sides if side.returns is not None]
    pairs = [pair(a, b) for a, b in itertools.combinations(judged, 2)]
    task = Task(label, "20 episodes for each seed", sides, pairs, [], f"rlab compare {' '.join(names)}")
    settings = {"learning_rate": 0.001, "hidden": (64, 64)}
    trials = [Trial(i, float(i % 7), i % 3 != 2, "done" if i % 3 != 2 else "pruned", settings) for i in range(9)]
    study = Study(
        "dqn on CartPole-v1", "IQM over 3 seeds", trials, {"learning_rate": 0.7, "gamma": 0.3}, {"method": "tpe"}
    )
    return Report("", [task], [study], **{"made_by": "rlab report runs", "version": "0.1.0", **changes})


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    return a_report


@pytest.fixture(scope="session")
def make_side() -> Callable[..., Side]:
    return population


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of two seeds, hardly trained, and something that is not a run."""
    folder = tmp_path_factory.mktemp("runs")
    tiny: dict[str, Any] = {"experiment": "none", "num_envs": 4, "hidden": (8,), "seeds": 2, "max_episode_steps": 30}
    tiny |= {"env_steps": 256, "eval_every": 128, "eval_episodes": 1, "final_eval_episodes": 2, "log_every": 64}
    rlab.train("ppo", "CartPole-v1", out=folder / "ppo", rollout_steps=16, **tiny)
    rlab.train("a2c", "CartPole-v1", out=folder / "a2c", rollout_steps=16, **tiny)
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("nothing")
    return folder
