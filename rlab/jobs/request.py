"""What a user asked for, settled: which value each setting has and where it came from."""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from rlab.agents import load_agent
from rlab.cli.flags import merge
from rlab.envs import EnvLike, EnvSpec, given_again
from rlab.envs.specs import env_keywords
from rlab.errors import RlabError, UsageError
from rlab.jobs.experiment_files import Experiment, find_experiment
from rlab.learning.finetune_config import FinetuneConfig
from rlab.runs.config import RunConfig, SourceConfig
from rlab.runs.folder import A_RUN, path_of, versions
from rlab.trust import Trust, advice, in_force, trusts
from rlab.types import LOCAL

DEFAULT, COMMAND_LINE = "default", "command line"
# What a call from Python takes besides settings, for whoever misspells it.
CALL, OF_ENV = ("out", "progress", "trust", "listeners", "experiment"), ("env_kwargs", "wrappers")
FROM_START = "start"  # the origin of what the policy that a run begins with decides
# Settings that say what an agent's networks are: a policy that a run begins with decides them itself.
NETWORK_SETTINGS = (
    *("network", "hidden", "activation", "layer_norm", "dropout", "init", "init_gain", "actor_gain", "dueling"),
    *("obs_scaling", "obs_scale", "squash", "log_std_init"),
)
# Settings that say how a run is watched and where it runs, and change nothing of what is learned.
BOOKKEEPING = frozenset(
    {"log", "log_every", "log_episodes", "eval_every", "eval_episodes", "final_eval_episodes", "checkpoint_every"}
    | {"eval_envs", "eval_alone", "film_every", "device", "threads", "vector", "seed"}
)
A_DATASET = "a folder of demonstrations, or what rlab.collect returned"
# What a run that counts updates reports and judges by, unless told otherwise.
UPDATE_PERIODS: dict[str, Any] = {"log_every": 100, "eval_every": 2_000, "checkpoint_every": 2_000}


@dataclass(frozen=True)
class Start:
    """The policy that a fine-tuned run begins with."""

    run: str  # its run or policy folder, as it was named
    member: int | None = None  # its training seed; None: the same as the learner's, or the only one
    config: FinetuneConfig = field(default_factory=FinetuneConfig)

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "member": self.member, **asdict(self.config)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> "Start":
        rest = {name: value for name, value in data.items() if name not in ("run", "member")}
        return cls(data["run"], data["member"], merge(FinetuneConfig(), rest, where))


@dataclass(frozen=True)
class Request:
    """One run, complete: everything that `config.json` keeps in order to repeat it."""

    agent: str
    env: EnvSpec
    run: RunConfig
    settings: Any  # the agent's Config
    origins: dict[str, str]  # setting -> default, command line, or experiment NAME
    command: str
    sources: SourceConfig = field(default_factory=SourceConfig)
    start: Start | None = None  # None: fresh weights
    for_agent: str | None = None  # whose network is pretrained; None: nobody's but the agent's own
    unread: Mapping[str, str] = field(default_factory=dict)  # settings that are not in force, and why

    @property
    def unit(self) -> str:
        """What the run's clock counts: `env_steps` or `updates`."""
        return unit_of(self.agent)

    @property
    def budget(self) -> int:
        """How far the clock goes."""
        return int(getattr(self.run, self.unit))

    def with_env(self, env: EnvLike) -> "Request":
        """With the env from Python that a file could not hold.

        Raises:
            UsageError: the file does say how the env is made.
        """
        if not self.env.local:
            raise UsageError(f"this run goes on in {self.env.label}, which its folder names; leave env out.")
        return replace(self, env=given_again(self.env, env))

    def to_json(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {
            "agent": self.agent,
            "env": self.env.to_json(),
            "run": self._in_force(asdict(self.run)),
            "unit": self.unit,
            "settings": self._in_force(asdict(self.settings)),
            "sources": self._in_force(asdict(self.sources)),
            "start": None if self.start is None else self._in_force(self.start.to_json()),
            "for_agent": self.for_agent,
            "origins": self.origins,
            "not_in_force": dict(self.unread),
            "versions": versions(),
            "command": self.command,
        }

    def _in_force(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values as a record states them: null where nothing reads them."""
        return {name: None if name in self.unread else value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str, trust: Trust) -> "Request":
        """The request that a run folder's `config.json` holds.

        Raises:
            RlabError: it names code of others and `trust` is false.
            UsageError: a setting is unknown or of the wrong type: the run was made by another version.
        """
        env = EnvSpec.from_json(data["env"])
        check_trust(where, foreign_code(data, env), trust)
        return cls(
            data["agent"],
            env,
            merge(RunConfig(), stated(data, "run"), where),
            merge(agent_config(data["agent"]), stated(data, "settings"), where),
            dict(data["origins"]),
            data["command"],
            merge(SourceConfig(), stated(data, "sources"), where),
            Start.from_json(stated(data, "start"), where) if data.get("start") else None,
            data.get("for_agent"),
            dict(data.get("not_in_force", {})),
        )

    def tuned(self) -> str:
        """The settings that are not the defaults, grouped by where they came from, for people."""
        values = {**asdict(self.run), **asdict(self.sources), **asdict(self.settings)}
        values |= {} if self.start is None else asdict(self.start.config)
        lines = []
        for origin in sorted(set(self.origins.values()) - {DEFAULT}):
            names = [name for name, from_ in self.origins.items() if from_ == origin and name not in self.unread]
            if names:
                lines.append(f"{origin}: {', '.join(f'{name}={values[name]}' for name in names)}")
        return "\n".join([*lines, "everything else: defaults"])

    def logged(self) -> dict[str, Any]:
        """Every setting in force by name, for TensorBoard."""
        start = {} if self.start is None else asdict(self.start.config)
        values = {**asdict(self.run), **asdict(self.sources), **start, **asdict(self.settings)}
        return {name: value for name, value in values.items() if name not in self.unread}

    def compared(self) -> dict[str, Any]:
        """What tells runs apart: agent, env, what was asked for in words, seeds, budget, and every setting that is not
        the plain default.

        TensorBoard shows the first five of them: what differs between runs, then by name, where capitals come first.
        """
        plain = agent_config(self.agent)
        defaults = {**asdict(RunConfig()), **asdict(SourceConfig()), **asdict(FinetuneConfig()), **asdict(plain)}
        changed = {n: v for n, v in self.logged().items() if v != defaults[n] and n not in BOOKKEEPING}
        first = {"Agent": self.agent, "Env": self.env.label, "Settings": self._asked_for(), "seeds": self.run.seeds}
        return first | {self.unit: self.budget} | changed

    def _asked_for(self) -> str:
        """`gamma=0.9, experiment dqn-CartPole-v1`: the settings that were named, and where others come from."""
        values, origins = self.logged(), self.origins
        named = [n for n, origin in origins.items() if origin == COMMAND_LINE and n not in BOOKKEEPING]
        given = [f"{name}={values[name]}" for name in named if name not in ("seeds", self.unit) and name in values]
        return ", ".join([*given, *sorted(set(origins.values()) - {DEFAULT, COMMAND_LINE})]) or "defaults"


def stated(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What a run's `config.json` states of one part, such as "settings": all but what is not in force."""
    unread = config.get("not_in_force", {})
    return {name: value for name, value in (config.get(part) or {}).items() if name not in unread}


def foreign_code(config: Mapping[str, Any], env: EnvSpec) -> list[str]:
    """The modules from outside rlab that a run with this `config.json` imports."""
    settings = config["settings"] if isinstance(config.get("settings"), dict) else {}
    return [*foreign_agent_module(config["agent"]), *env.foreign_modules, *foreign_network_module(settings)]


def to_resume(name: str, config: Mapping[str, Any], **changes: Any) -> str:
    """The command that goes on with a run, with `--trust` where it needs that in this working folder; the call from
    Python where the env or the network can be given again there alone."""
    env_id, network = str(config["env"]["env_id"]), str((config.get("settings") or {}).get("network") or "")
    again = [f"env={env_id if env_id.isidentifier() else '...'}"] if config["env"].get("local") else []
    again += ["network=..."] if network.startswith(LOCAL) else []
    if again:
        return f"rlab.resume({', '.join([repr(name), *again, *(f'{n}={value}' for n, value in changes.items())])})"
    flags = [f"--{n.replace('_', '-')}{'' if value is True else f' {value}'}" for n, value in changes.items()]
    modules, trusted = foreign_code(config, EnvSpec.from_json(config["env"])), in_force(False)
    needed = not all(trusts(trusted, module) for module in modules)
    return " ".join(["rlab resume", name, *(["--trust"] if needed else []), *flags])


def foreign_agent_module(agent: str) -> list[str]:
    """The module that running this agent imports, where it is none of rlab's."""
    return [agent.partition(":")[0]] if ":" in agent else []


def foreign_network_module(settings: Mapping[str, Any]) -> list[str]:
    """The module that making a network of the user's own imports."""
    named = str(settings.get("network") or "")
    return [named.partition(":")[0]] if ":" in named and not named.startswith(LOCAL) else []


def check_trust(where: str, modules: Sequence[str], trust: Trust) -> None:
    """Raise RlabError where a folder names modules from outside rlab and nobody vouched for them: neither the call nor
    the list of this project."""
    if not modules or trust is True:
        return
    allowed = in_force(trust)
    unknown = [module for module in dict.fromkeys(modules) if not trusts(allowed, module)]
    if unknown:
        raise RlabError(f"{where} names {', '.join(unknown)}, which is code from outside rlab; {advice(unknown)}")


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
    if not hasattr(found, "data"):
        raise UsageError(f"{agent} is no agent: it has no data. rlab/learning/contract.py says what an agent has.")
    return str(found.data)


def unit_of(agent: str) -> str:
    """What the clock of this agent's runs counts: `env_steps` or `updates`."""
    from rlab.jobs.data_sources import feed_for  # here, since it imports torch, which wrong words need not wait for

    return feed_for(agent, data_of(agent)).loop.unit


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
    settings = agent_config(agent)
    run = RunConfig()
    if data_of(agent) == "dataset":
        run = replace(run, **UPDATE_PERIODS)
    found = find_experiment(agent, env_id, experiment)
    if found is not None:
        for name in ("seed", "seeds"):
            if name in found.run:
                raise UsageError(f"{found.path}: {name} belongs to [bench], not to [run].")
        run = merge(run, found.run, str(found.path))
        settings = merge(settings, found.settings, str(found.path))
    return Defaults(run, settings, found)


def spec_for(
    experiment: Experiment | None,
    env: EnvSpec,
    env_kwargs: Sequence[str] | Mapping[str, Any],
    wrappers: Sequence[str],
) -> EnvSpec:
    """The env of a run: as the experiment has it, with the keywords and in the wrappers that were asked for.

    Raises:
        UsageError: it does not exist, or a keyword or wrapper does not parse.
    """
    kwargs = env_keywords(env_kwargs)
    if experiment is not None:
        kwargs = env_keywords(experiment.env_kwargs) | kwargs
        wrappers = wrappers or experiment.wrapper
    return env.changed(env.kwargs | kwargs, wrappers or None)


def request_from_keywords(agent: str, env: EnvSpec, experiment: str | None, keywords: Mapping[str, Any]) -> Request:
    """What `rlab.train` asks for; `keywords` as for `complete`."""
    words = repr(agent), repr(env.env_id)
    return complete(agent, env, defaults_for(agent, env.env_id, experiment), keywords, "train", words)


def complete(
    agent: str,
    env: EnvSpec,
    defaults: Defaults,
    keywords: Mapping[str, Any],
    verb: str,
    words: Sequence[str],
    start: Start | None = None,
) -> Request:
    """A request from Python: `keywords` may name settings of the run, of its sources, of the agent and, where it begins
    with a policy, of fine-tuning alike.

    Args:
        words: what else the call says, as Python spells it, for the command that the run records.

    Raises:
        UsageError: a keyword that none of them has.
    """
    where = f"rlab.{verb}"
    check_budget(agent, keywords)
    rest = {**keywords, **_paths(keywords)}
    run = merge(defaults.run, _taken(rest, RunConfig), where)
    sources = merge(SourceConfig(), _taken(rest, SourceConfig), where)
    if start is not None:
        start = replace(start, config=merge(start.config, _taken(rest, FinetuneConfig), where))
    others = (RunConfig, SourceConfig, *([] if start is None else [FinetuneConfig]))
    elsewhere = [*(f.name for kind in others for f in fields(kind)), *CALL, *([] if verb == "pretrain" else OF_ENV)]
    settings = merge(defaults.settings, rest, where, elsewhere)
    env = replace(env, max_episode_steps=run.max_episode_steps or env.max_episode_steps)
    command = ", ".join([*words, *(f"{k}={v!r}" for k, v in keywords.items())])
    origins = defaults.origins(keywords, (sources,) if start is None else (sources, start.config))
    return Request(agent, env, run, settings, origins, f"{where}({command})", sources, start)


def check_budget(agent: str, named: Iterable[str]) -> None:
    """Refuse the budget of the other kind of agent.

    Raises:
        UsageError: env steps for an agent that takes none, or updates for one that takes them.
    """
    own = unit_of(agent)
    other = "updates" if own == "env_steps" else "env_steps"
    if other in named:
        flags = (f"--{name.replace('_', '-')}" for name in (other, own))
        raise UsageError(f"{next(flags)} is no budget of {agent}: {next(flags)} is.")


def _paths(keywords: Mapping[str, Any]) -> dict[str, str]:
    """Of the keywords, those that name a folder, which may be an object that has one, such as a `Run`."""
    named = {"teacher": A_RUN, "dataset": A_DATASET}
    return {n: path_of(keywords[n], what) for n, what in named.items() if keywords.get(n) is not None}


def _taken(keywords: dict[str, Any], kind: type) -> dict[str, Any]:
    """Those of the keywords that name fields of a dataclass, which they leave."""
    return {f.name: keywords.pop(f.name) for f in fields(kind) if f.name in keywords}


def command_words() -> str:
    """The command line as it was typed, without the path of the interpreter."""
    return " ".join(["rlab", *sys.argv[1:]])
