"""What the tests of searches share: an executor that trains nothing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.request import train_request
from rlab.search.executors import OnEnd, OnPoint, Result, Task
from rlab.search.plan import Plan, plan
from rlab.search.results import STATED_APART
from rlab.search.tune_settings import TuneSettings
from rlab.search.tuned import Tuned

Value = Callable[[Mapping[str, Any]], float]  # what a policy with these settings returns, on seed 0; NaN: it fails


@dataclass
class Pretended:
    """Carries out tasks by a formula: seed s reaches its value plus s / 1000, over a curve of ten equal steps."""

    value: Value
    at_once: int = 1
    tasks: list[Task] = field(default_factory=list)
    stop_after: int | None = None  # tasks, before it is interrupted in the next one

    def run(self, tasks: Iterator[Task], on_point: OnPoint, on_end: OnEnd) -> None:
        for task in tasks:
            if len(self.tasks) == self.stop_after:
                raise KeyboardInterrupt
            self.tasks.append(task)
            on_end(task, self._carried_out(task, on_point))

    def _carried_out(self, task: Task, on_point: OnPoint) -> Result:
        run = task.request.run
        reached = self.value({**asdict(run), **asdict(task.request.settings)})
        if np.isnan(reached):
            return Result("failed", 1.0, error="the loss is not finite")
        of_seeds = reached + np.array(run.training_seeds) / 1000.0
        when = np.arange(1, 11) * run.env_steps // 10
        curve = of_seeds[:, None] * np.arange(1, 11) / 10.0
        for index, time in enumerate(when):
            if not on_point(task, int(time), curve[:, index, None]):
                return Result("stopped", 1.0, None, (when[: index + 1], curve[:, : index + 1]))
        returns = np.repeat(of_seeds[:, None], run.final_eval_episodes, axis=1)
        lengths = np.ones_like(returns, dtype=np.int64)
        config = {key: value for key, value in task.request.to_json().items() if key not in STATED_APART}
        record = {"config": config, "origins": task.request.origins, "wall_seconds": 1.0}
        judged = Evaluation(run.training_seeds, 100_000, returns, lengths)
        return Result("done", 1.0, judged, (when, curve), record=record)


def plan_in(folder: Path, storage: str | None = None, ranges: Any = None, settings: Any = (), **how: Any) -> Plan:
    """A search of DQN on CartPole with two settings."""
    request = train_request("dqn", "CartPole-v1", (), (), "none", {"env_steps": 1_000, "seeds": 3, **dict(settings)})
    ranges = ranges or {"only": True, "learning_rate": {}, "n_step": {}}
    few = {"trials": 6, "finalists": 2, "finalist_seeds": 2, "report_seeds": 4, "episodes": 2, "method": "random"}
    return plan(request, TuneSettings(**{**few, **how}), ranges, folder, storage, False)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """Plans a search in a folder of the test."""
    return lambda folder="study", **kwargs: plan_in(tmp_path / folder, **kwargs)


@pytest.fixture
def pretended() -> type[Pretended]:
    """The executor that trains nothing."""
    return Pretended


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, list[Task]]:
    """A search that has ended, in which each step of the returns is worth 100, and what it had carried out."""
    pytest.importorskip("optuna")
    from rlab.search.stages import carry_out

    executor = Pretended(lambda settings: 100.0 * settings["n_step"])
    return carry_out(plan_in(tmp_path_factory.mktemp("searched") / "study"), executor, False), executor.tasks
