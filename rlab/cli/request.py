"""What a user asked for, settled: which value each setting has and where it came from."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rlab.agents import load_agent
from rlab.cli.experiment_files import Experiment, find_experiment
from rlab.cli.flags import merge
from rlab.envs import EnvSpec
from rlab.errors import RlabError, UsageError
from rlab.runs.config import RunConfig
from rlab.runs.folder import versions

DEFAULT, COMMAND_LINE = "default", "command line"


@dataclass(frozen=True)
class Request:
    """One run, complete: everything that `config.json` keeps in order to repeat it."""

    agent: str
    env: EnvSpec
    run: RunConfig
    settings: Any  # the agent's Config
    origins: dict[str, str]  # setting -> default, command line, or experiment NAME
    command: str

    def to_json(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {
            "agent": self.agent,
            "env": self.env.to_json(),
            "run": asdict(self.run),
            "settings": asdict(self.settings),
            "origins": self.origins,
            "versions": versions(),
            "command": self.command,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str, trust: bool) -> "Request":
        """The request that a run folder's `config.json` holds.

        Raises:
            RlabError: it names code of others and `trust` is false.
            UsageError: a setting is unknown or of the wrong type: the run was made by another version.
        """
        env = EnvSpec.from_json(data["env"])
        agent_module = [data["agent"].partition(":")[0]] if ":" in data["agent"] else []
        check_trust(where, [*agent_module, *env.foreign_modules], trust)
        return cls(
            data["agent"],
            env,
            merge(RunConfig(), data["run"], where),
            merge(agent_config(data["agent"]), data["settings"], where),
            dict(data["origins"]),
            data["command"],
        )

    def tuned(self) -> str:
        """The settings that are not the defaults, grouped by where they came from, for people."""
        values = {**asdict(self.run), **asdict(self.settings)}
        lines = []
        for origin in sorted(set(self.origins.values()) - {DEFAULT}):
            named = ", ".join(f"{name}={values[name]}" for name, from_ in self.origins.items() if from_ == origin)
            lines.append(f"{origin}: {named}")
        return "\n".join([*lines, "everything else: defaults"])


def check_trust(where: str, modules: Sequence[str], trust: bool) -> None:
    """Raise RlabError where a folder names modules from outside rlab and nobody vouched for them."""
    if modules and not trust:
        named = ", ".join(dict.fromkeys(modules))
        raise RlabError(f"{where} names {named}, which is code from outside rlab; add --trust if you trust it.")


@dataclass(frozen=True)
class Defaults:
    """Where the command line starts from: the agent's defaults with an experiment's settings over them."""

    run: RunConfig
    settings: Any
    experiment: Experiment | None

    def origins(self, given: Iterable[str]) -> dict[str, str]:
        """Where each setting came from, when the command line named those in `given`."""
        tuned = {} if self.experiment is None else {**self.experiment.run, **self.experiment.settings}
        named = set(given)
        origins = {}
        for field in (*fields(self.run), *fields(self.settings)):
            from_file = f"experiment {self.experiment.name}" if self.experiment and field.name in tuned else DEFAULT
            origins[field.name] = COMMAND_LINE if field.name in named else from_file
        return origins


def agent_config(agent: str) -> Any:
    """The plain defaults of an agent's settings."""
    found = load_agent(agent)
    if not hasattr(found, "Config"):
        raise UsageError(f"{agent} is no agent: it has no Config. rlab/learning/contract.py says what an agent has.")
    return found.Config()


def defaults_for(agent: str, env_id: str, experiment: str | None) -> Defaults:
    """Agent defaults, then the experiment file's settings and budget where there is one.

    Raises:
        UsageError: the agent, the experiment or one of its settings does not exist.
    """
    run, settings = RunConfig(), agent_config(agent)
    found = find_experiment(agent, env_id, experiment)
    if found is not None:
        for name in ("seed", "seeds"):
            if name in found.run:
                raise UsageError(f"{found.path}: {name} belongs to [bench], not to [run].")
        run = merge(run, found.run, str(found.path))
        settings = merge(settings, found.settings, str(found.path))
    return Defaults(run, settings, found)


def request_from_keywords(agent: str, env: EnvSpec, experiment: str | None, keywords: Mapping[str, Any]) -> Request:
    """A request from Python: `keywords` may name settings of the run and of the agent alike.

    Raises:
        UsageError: a keyword that neither has.
    """
    start = defaults_for(agent, env.env_id, experiment)
    of_run = {f.name for f in fields(start.run)}
    run = merge(start.run, {k: v for k, v in keywords.items() if k in of_run}, "rlab.train")
    settings = merge(start.settings, {k: v for k, v in keywords.items() if k not in of_run}, "rlab.train")
    env = replace(env, max_episode_steps=run.max_episode_steps)
    words = ", ".join([repr(agent), repr(env.env_id), *(f"{k}={v!r}" for k, v in keywords.items())])
    return Request(agent, env, run, settings, start.origins(keywords), f"rlab.train({words})")


def command_words() -> str:
    """The command line as it was typed, without the path of the interpreter."""
    return " ".join(["rlab", *sys.argv[1:]])
