"""Where the settings of a run start from: the agent's defaults, its tuned experiment file, another run."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rlab.agents import load_agent
from rlab.errors import UsageError
from rlab.jobs.experiment_files import Experiment, find_experiment
from rlab.jobs.settings import merge
from rlab.runs.config import RunConfig
from rlab.trust import Trust

DEFAULT, COMMAND_LINE = "default", "command line"
FROM_START = "start"  # the origin of what the policy that a run begins with decides
# Settings that say what an agent's networks are: a policy that a run begins with decides them itself.
NETWORK_SETTINGS = (
    *("network", "hidden", "activation", "layer_norm", "dropout", "init", "init_gain", "actor_gain", "dueling"),
    *("obs_scaling", "obs_scale", "squash", "log_std_init", "memory", "memory_size", "memory_window"),
    *("value_head", "atoms", "value_min", "value_max", "quantiles", "iqn_samples", "iqn_points", "iqn_cosines"),
)
# The default periods of a run that counts updates.
UPDATE_PERIODS: dict[str, Any] = {"log_every": 100, "eval_every": 2_000, "checkpoint_every": 2_000}


@dataclass(frozen=True)
class Defaults:
    """Where the command line starts from: the agent's defaults with an experiment's settings over them."""

    run: RunConfig
    settings: Any
    experiment: Experiment | None
    copied: dict[str, str] = field(default_factory=dict)  # settings that come from elsewhere, and from where

    def origins(self, given: Iterable[str], further: Sequence[Any] = ()) -> dict[str, str]:
        """Where each setting, also of the dataclasses `further`, came from, when the command line named `given`."""
        tuned = {} if self.experiment is None else {**self.experiment.run, **self.experiment.settings}
        named = set(given)
        origins = {}
        for setting in itertools.chain(*map(fields, (self.run, self.settings, *further))):
            from_file = f"experiment {self.experiment.name}" if self.experiment and setting.name in tuned else DEFAULT
            origin = self.copied.get(setting.name, from_file)
            origins[setting.name] = COMMAND_LINE if setting.name in named else origin
        return origins

    def copying(self, settings: Mapping[str, Any], names: Iterable[str], origin: str) -> "Defaults":
        """With those of `names` that the agent has and `settings` states taken from there."""
        own = {f.name for f in fields(self.settings)}
        taken = {name: settings[name] for name in names if name in own and name in settings}
        copied = {**self.copied, **dict.fromkeys(taken, origin)}
        return replace(self, settings=merge(self.settings, taken, origin), copied=copied)


def data_of(agent: str) -> str:
    """What an agent learns from: "replay", "rollout" or "dataset"."""
    found: Any = load_agent(agent)
    return str(found.data)


def unit_of(agent: str) -> str:
    """What the clock of this agent's runs counts: `env_steps` or `updates`."""
    from rlab.jobs.data_sources import data_source  # here, since it imports torch, which wrong words need not wait for

    return data_source(agent, data_of(agent)).loop.unit


def agent_config(agent: str) -> Any:
    """The plain defaults of an agent's settings.

    Raises:
        UsageError: there is no such agent, or its own defaults are invalid.
    """
    found: Any = load_agent(agent)
    try:
        return found.Config()
    except ValueError as error:
        raise UsageError(f"the defaults of {agent}: {error}") from None


def check_budget(agent: str, named: Iterable[str]) -> None:
    """Refuse the budget of the other kind of agent.

    Raises:
        UsageError: env steps for an agent that takes none, or updates for one that takes them.
    """
    own = unit_of(agent)
    other = "updates" if own == "env_steps" else "env_steps"
    if other in named:
        flags = (f"--{name.replace('_', '-')}" for name in (other, own))
        raise UsageError(f"{next(flags)} is not the budget of {agent}; use {next(flags)}.")


def defaults_for(agent: str, env_id: str, experiment: str | None, trust: Trust = False) -> Defaults:
    """Agent defaults, then the experiment file's settings and budget where there is one.

    Raises:
        UsageError: the agent, the experiment or one of its settings does not exist.
        RlabError: the experiment names code from outside rlab and `trust` is false.
    """
    settings = agent_config(agent)
    run = RunConfig()
    if data_of(agent) == "dataset":
        run = replace(run, **UPDATE_PERIODS)
    found = find_experiment(agent, env_id, experiment, trust)
    if found is not None:
        for name in ("seed", "seeds"):
            if name in found.run:
                raise UsageError(f"{found.path}: {name} belongs to [bench], not to [run].")
        missing = [name for name in found.settings if name not in {f.name for f in fields(settings)}]
        if missing and found.agent != agent:
            raise UsageError(
                f"{agent} has no setting {', '.join(missing)}, which experiment {found.name} sets for {found.agent}; "
                "copy the file without them, and name the copy: --experiment FILE."
            )
        run = merge(run, found.run, str(found.path))
        settings = merge(settings, found.settings, str(found.path))
    return Defaults(run, settings, found)
