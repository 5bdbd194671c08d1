"""Where agents get their data from, by the name in their `data`: which storage is filled, which loop learns from it,
and how its batches are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlab.draws import Draws
from rlab.envs import EnvSpec
from rlab.envs.goals import goals_of
from rlab.errors import UsageError, unknown
from rlab.experience.demonstrations import Demonstrations
from rlab.experience.env_contract import DeviceEnv
from rlab.experience.fields import stored_fields
from rlab.experience.hindsight_sampler import HindsightSampler
from rlab.experience.mixture_sampler import MixtureSampler
from rlab.experience.samplers import Sampler
from rlab.experience.storage import Storage
from rlab.experience.under_way import LIVES_WITH_MEMORY
from rlab.learning.contract import Agent, RolloutConfig, updates_due
from rlab.learning.contract_checks import check_sampler
from rlab.learning.dataset_loop import DatasetLoop
from rlab.learning.hindsight_config import asks_for_hindsight
from rlab.learning.loop import Loop, ReplayLoop
from rlab.learning.rollout_loop import RolloutLoop
from rlab.runs.config import RunConfig

AHEAD = 16  # draws of a sampler that are worked out at once


@dataclass(frozen=True)
class DataSource:
    """One kind of data. The functions take the run's and the agent's settings, and the demonstrations, if any."""

    name: str
    loop: type[Loop]
    capacity: Callable[[RunConfig, Any, Demonstrations | None], int]  # transitions per member
    updates: Callable[[RunConfig, Any], int]  # in the whole budget
    rows: Callable[[RunConfig, Any], int]  # of one member in one update
    too_late: str  # why there may be no update at all


def data_source(agent: str, data: str) -> DataSource:
    """The data source of an agent.

    Raises:
        UsageError: rlab has no loop for such data.
    """
    if data not in DATA_SOURCES:
        raise unknown(f"data of agent {agent}", data, DATA_SOURCES)
    return DATA_SOURCES[data]


def check_demonstrations(name: str, agent: Agent, demonstrations: Demonstrations) -> None:
    """Refuse demonstrations to an agent that stores more of every row than they have: obs and action.

    Raises:
        UsageError: naming the fields that are missing.
    """
    lacking = [f.name for f in stored_fields(agent.fields()) if f not in demonstrations.fields]
    if lacking:
        raise UsageError(
            f"{name} cannot learn from a dataset: it stores {', '.join(lacking)} of every row, which recorded episodes "
            "do not have."
        )


def check_training_only(run: RunConfig, env: EnvSpec, agent: Agent, demonstrations: Demonstrations | None) -> None:
    """Refuse what would make an agent learn from two kinds of rewards or of endings.

    Raises:
        UsageError: naming both, and what to leave out.
    """
    if run.reward_clip is not None and demonstrations is not None and agent.data == "replay":
        raise UsageError(
            "--reward-clip: rewards of demonstrations are learned from as they were recorded, so that one replay would "
            "have both kinds; leave --reward-clip or --dataset out."
        )
    lives = any(name == "AtariFrames" and args.get("life_loss") for name, args in env.wrappers)
    if lives and agent.policy().has_memory:
        raise UsageError(LIVES_WITH_MEMORY)  # before anything is trained; other envs that do so are found when they do


def make_storage(
    source: DataSource, agent: Agent, run: RunConfig, demonstrations: Demonstrations | None, env: DeviceEnv
) -> Storage:
    """Empty storage for what the envs show; the demonstrations themselves for an agent that learns from a dataset."""
    if source.loop is DatasetLoop:
        return _given(demonstrations)
    capacity = source.capacity(run, agent.config, demonstrations)
    size, fields = (len(agent.policy().seeds), run.num_envs, capacity), agent.fields()
    return Storage(*size, fields, agent.device, env.has_reset_rows, growing=env.on_host, obs_space=env.obs_space)


def make_sampler(
    source: DataSource,
    agent: Agent,
    storage: Storage,
    demonstrations: Demonstrations | None,
    share: float,
    spec: EnvSpec,
    env: DeviceEnv,
) -> Sampler:
    """The agent's sampler, mixed with the share of demonstrations where there are any beside the storage. It reads both
    in hindsight where the agent's settings ask for it; the env `env`, made by `spec`, then says what goals pay.

    Raises:
        UsageError: it cannot draw from the storage, the env has no goals, or as `check_sampler`.
    """
    goals = goals_of(spec, env) if asks_for_hindsight(agent.config) else None
    seeds = agent.policy().seeds

    def drawn(rows: Storage, use: str) -> Sampler:
        sampler = agent.sampler(rows, Draws(seeds, use, agent.device, AHEAD))
        check_sampler(agent, sampler)
        if goals is None:
            return sampler
        which = Draws(seeds, f"hindsight of {use}", agent.device, AHEAD)
        return HindsightSampler(sampler, rows, goals, which, agent.config.hindsight, agent.config.hindsight_goals)

    sampler = drawn(storage, source.loop.stream_use)
    if demonstrations is None or demonstrations is storage:
        return sampler
    return MixtureSampler(sampler, drawn(demonstrations, "demonstrations"), share)


def _given(demonstrations: Demonstrations | None) -> Demonstrations:
    assert demonstrations is not None  # an agent that learns from a dataset is not built without one
    return demonstrations


def _rollout_capacity(run: RunConfig, settings: RolloutConfig, demonstrations: Demonstrations | None) -> int:
    rows = settings.rollout_steps * run.num_envs
    settings.check_rollout(rows)
    return rows


def _rollout_updates(run: RunConfig, settings: RolloutConfig) -> int:
    vector_steps = -(-run.env_steps // run.num_envs)
    rollouts = vector_steps // settings.rollout_steps
    return rollouts * settings.epochs * settings.minibatches


DATA_SOURCES: Mapping[str, DataSource] = {
    "replay": DataSource(
        "replay",
        ReplayLoop,
        lambda run, settings, demonstrations: int(settings.replay_capacity),
        lambda run, settings: updates_due(settings, 0, run.env_steps),
        lambda run, settings: int(settings.batch_size),
        "learning_starts is beyond the budget",
    ),
    "rollout": DataSource(
        "rollout",
        RolloutLoop,
        _rollout_capacity,
        _rollout_updates,
        lambda run, settings: settings.rollout_steps * run.num_envs // settings.minibatches,
        "the budget is shorter than one rollout",
    ),
    "dataset": DataSource(
        "dataset",
        DatasetLoop,
        lambda run, settings, demonstrations: int(_given(demonstrations).transitions.max()),
        lambda run, settings: run.updates,
        lambda run, settings: int(settings.batch_size),
        "there are no updates in the budget",
    ),
}
