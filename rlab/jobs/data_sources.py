"""What agents learn from, by the name in their `data`: which store is filled, and which loop learns from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlab.errors import UsageError, unknown
from rlab.experience.demonstrations import DemonstrationReplay, Demonstrations
from rlab.experience.lanes import Field, Lanes
from rlab.experience.replay import Replay
from rlab.experience.rollout import Rollout
from rlab.learning.contract import ReplayConfig, RolloutConfig
from rlab.learning.dataset_loop import DatasetLoop
from rlab.learning.loop import Loop, ReplayLoop, RolloutLoop, updates_due
from rlab.runs.config import RunConfig


@dataclass(frozen=True)
class Feed:
    """One way of learning. The functions take the run's and the agent's settings, and the demonstrations, if any."""

    name: str
    loop: type[Loop]
    capacity: Callable[[RunConfig, Any, Demonstrations | None], int]  # transitions per member
    make_store: Callable[[RunConfig, Any, tuple[Field, Field], Demonstrations | None, float], Lanes]
    updates: Callable[[RunConfig, Any], int]  # in the whole budget
    too_late: str  # why there may be no update at all


def feed_for(agent: str, data: str) -> Feed:
    """The feed of an agent.

    Raises:
        UsageError: rlab has no loop for such data.
    """
    if data not in FEEDS:
        raise unknown(f"data of agent {agent}", data, FEEDS)
    return FEEDS[data]


def _rollout_capacity(run: RunConfig, settings: RolloutConfig, demonstrations: Demonstrations | None) -> int:
    rows = settings.rollout_steps * run.num_envs
    if settings.minibatches > rows:
        raise UsageError(
            f"minibatches {settings.minibatches} is more than the {rows} rows of a rollout: "
            f"rollout_steps {settings.rollout_steps} x num_envs {run.num_envs}."
        )
    if getattr(settings, "normalize_advantage", False) and rows < 2 * settings.minibatches:
        raise UsageError(
            f"a minibatch of one row has nothing to be normalised by: a rollout has {rows} rows for "
            f"{settings.minibatches} minibatches. Raise --rollout-steps, or say --no-normalize-advantage."
        )
    return rows


def _rollout_updates(run: RunConfig, settings: RolloutConfig) -> int:
    vector_steps = -(-run.env_steps // run.num_envs)
    rollouts = vector_steps // settings.rollout_steps
    return rollouts * settings.epochs * settings.minibatches


def _replay(
    run: RunConfig,
    settings: ReplayConfig,
    fields: tuple[Field, Field],
    demonstrations: Demonstrations | None,
    share: float,
) -> Replay:
    sizes = (run.seeds, run.num_envs, settings.replay_capacity)
    if demonstrations is None:
        return Replay(*sizes, *fields)
    return DemonstrationReplay(*sizes, *fields, demonstrations, share, run.training_seeds)


def _given(demonstrations: Demonstrations | None) -> Demonstrations:
    assert demonstrations is not None  # an agent that learns from a dataset is not built without one
    return demonstrations


FEEDS: Mapping[str, Feed] = {
    "replay": Feed(
        "replay",
        ReplayLoop,
        lambda run, settings, demonstrations: int(settings.replay_capacity),
        _replay,
        lambda run, settings: updates_due(settings, 0, run.env_steps),
        "learning_starts is beyond the budget",
    ),
    "rollout": Feed(
        "rollout",
        RolloutLoop,
        _rollout_capacity,
        lambda run, settings, fields, *_: Rollout(run.seeds, run.num_envs, settings.rollout_steps, *fields),
        _rollout_updates,
        "the budget is shorter than one rollout",
    ),
    "dataset": Feed(
        "dataset",
        DatasetLoop,
        lambda run, settings, demonstrations: int(_given(demonstrations).transitions.max()),
        lambda run, settings, fields, demonstrations, share: _given(demonstrations),
        lambda run, settings: run.updates,
        "there are no updates in the budget",
    ),
}
