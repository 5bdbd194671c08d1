"""What a user asked for, settled: which value each setting has and where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from rlab.envs import EnvLike, EnvSpec, env_spec, given_again
from rlab.envs.specs import env_keywords
from rlab.errors import RlabError, UsageError
from rlab.jobs.aliases import check_words
from rlab.jobs.defaults import COMMAND_LINE, DEFAULT, Defaults, agent_config, check_budget, defaults_for, unit_of
from rlab.jobs.experiment_files import inherited_experiment
from rlab.jobs.foreign_code import check_trust, foreign_code
from rlab.jobs.settings import merge
from rlab.learning.finetune_config import FinetuneConfig
from rlab.machine import commit, computed_with
from rlab.runs.config import RunConfig, SourceConfig
from rlab.runs.folder import A_RUN, path_of
from rlab.runs.registry import pinned
from rlab.trust import Trust

# Keywords of calls from Python besides settings, so that a misspelled one gets the near miss.
CALL, OF_ENV = ("out", "progress", "trust", "listeners", "experiment"), ("env_kwargs", "wrappers")
# Settings that say how a run is watched and where it runs, and change nothing of what is learned.
BOOKKEEPING = frozenset(
    {
        "log",
        "log_project",
        "log_every",
        "log_episodes",
        "eval_every",
        "eval_episodes",
        "final_eval_episodes",
        "checkpoint_every",
    }
    | {"keep_checkpoints"}
    | {
        "eval_envs",
        "eval_alone",
        "judge",
        "film_every",
        "device",
        "devices",
        "jobs",
        "engine",
        "compile",
        "threads",
        "vector",
        "seed",
        "deterministic",
        "on_nan",
    }
    | {"env_timeout", "env_restarts"}
)
# What may change when a run goes on: the budget, what does not touch what is learned, and a time limit for an env that
# has none, without which a policy that never ends an episode could never be judged.
BUDGETS = ("env_steps", "updates")
CHANGEABLE = (
    *BUDGETS,
    *("eval_every", "eval_episodes", "final_eval_episodes", "eval_envs", "eval_alone", "judge"),
    *(
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "log",
        "log_project",
        "log_episodes",
        "film_every",
        "max_episode_steps",
    ),
    *("device", "engine", "env_timeout", "on_nan"),
)
A_DATASET = "a folder of demonstrations, or what rlab.collect returned"


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
    engine: Mapping[str, Any] | None = None  # what it computes with, once that is chosen; see `jobs.engine`
    processes: int = 1  # that train one learner now; see `jobs.data_parallel`
    # sets of the agent's settings in which members differ, each with all seeds, see `jobs.varied`; (): they are alike
    vary: tuple[Mapping[str, Any], ...] = ()
    evolution: Mapping[str, Any] | None = None  # settings of each member that change in training, see `jobs.evolution`

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", replace(self.env, timeout=self.run.env_timeout))

    @property
    def unit(self) -> str:
        """What the run's clock counts: `env_steps` or `updates`."""
        return unit_of(self.agent)

    @property
    def budget(self) -> int:
        """How far the clock goes."""
        return int(getattr(self.run, self.unit))

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """One for each member of the stack: those of the run, for one set of settings after the other."""
        return self.run.training_seeds * max(1, len(self.vary))

    def parts(self) -> list["Request"]:
        """What each set of settings asks for, in their order; the request itself where there is one."""
        if not self.vary:
            return [self]
        return [replace(self, settings=replace(self.settings, **each), vary=()) for each in self.vary]

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
            "engine": self.engine,
            "computed_with": computed_with(str((self.engine or {}).get("device", "cpu")), self.processes),
            "commit": commit(),
            "command": self.command,
            **({"vary": [dict(each) for each in self.vary]} if self.vary else {}),
            **({} if self.evolution is None else {"evolution": dict(self.evolution)}),
        }

    def _in_force(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values as a record states them: null where nothing reads them."""
        return {name: None if name in self.unread else value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str, trust: Trust) -> "Request":
        """The request that a run folder's `config.json` holds.

        Raises:
            RlabError: it names code from outside rlab and `trust` is false.
            UsageError: a setting is unknown or of the wrong type: the run was made by another version.
        """
        for name in ("origins", "command"):
            if name not in data:
                raise RlabError(f"{where} lacks {name!r}. Was it edited?")
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
            data.get("engine"),
            vary=tuple(data.get("vary", ())),
            evolution=data.get("evolution"),
        )

    def tuned(self) -> str:
        """The settings that are not the defaults, grouped by where they came from, for people."""
        values, lines = self._values(), []
        differ = self.vary[0] if self.vary else ()
        for origin in sorted(set(self.origins.values()) - {DEFAULT}):
            names = [name for name, from_ in self.origins.items() if from_ == origin and name not in self.unread]
            names = [name for name in names if name not in differ]
            if names:
                lines.append(f"{origin}: {', '.join(f'{name}={values[name]}' for name in names)}")
        plain_env = self.start is None and not (self.env.kwargs or self.env.wrappers)
        near = inherited_experiment(self.agent, self.env.env_id) if plain_env else None
        if near is not None and f"experiment {near}" not in self.origins.values():
            lines.append(f"note: {self.agent} extends an agent with tuned settings for this env: --experiment {near}")
        return "\n".join([*lines, "everything else: defaults"])

    def logged(self) -> dict[str, Any]:
        """Every setting in force by name, for TensorBoard."""
        return {name: value for name, value in self._values().items() if name not in self.unread}

    def _values(self) -> dict[str, Any]:
        start = {} if self.start is None else asdict(self.start.config)
        return {**asdict(self.run), **asdict(self.sources), **start, **asdict(self.settings)}

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


def train_request(
    agent: str,
    env: EnvLike,
    env_kwargs: Sequence[str] | Mapping[str, Any],
    wrappers: Sequence[str],
    experiment: str | None,
    settings: Mapping[str, Any],
    command: str | None = None,
    trust: Trust = False,
) -> Request:
    """What `rlab.train` and `rlab train` ask for.

    Args:
        experiment: None: the tuned settings for this agent and env, unless keywords or wrappers change the env.
        settings: those that are named, as for `complete`.
        trust: allow code from outside rlab that the experiment names.

    Raises:
        UsageError: anything in the request that cannot be.
        RlabError: the experiment names code from outside rlab and `trust` is false.
    """
    check_words(agent, env)
    base = env_spec(env)
    if experiment is None and (env_kwargs or base.kwargs or wrappers):
        experiment = "none"
    defaults = defaults_for(agent, base.env_id, experiment, trust)
    kwargs, tuned = env_keywords(env_kwargs), defaults.experiment
    if tuned is not None:
        kwargs, wrappers = env_keywords(tuned.env_kwargs) | kwargs, wrappers or tuned.wrapper
    spec = base.changed(base.kwargs | kwargs, wrappers or None)
    words = repr(agent), repr(spec.env_id)
    return complete(agent, spec, defaults, settings, "train", words, command=command)


def complete(
    agent: str,
    env: EnvSpec,
    defaults: Defaults,
    keywords: Mapping[str, Any],
    verb: str,
    words: Sequence[str],
    start: Start | None = None,
    command: str | None = None,
) -> Request:
    """A request: `keywords` may name settings of the run, of its sources, of the agent and, where it begins with a
    policy, of fine-tuning alike.

    Args:
        words: what else the call says, as Python spells it, for the command that the run records.
        command: the command that the run records where it was not a call from Python.

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
    call = call_text(where, words, keywords)
    origins = defaults.origins(keywords, (sources,) if start is None else (sources, start.config))
    return Request(agent, env, run, settings, origins, command or call, sources, start)


def call_text(where: str, words: Sequence[str], keywords: Mapping[str, Any]) -> str:
    """`rlab.train('dqn', 'CartPole-v1', seeds=10)`: what a run records that was begun from Python."""
    return f"{where}({', '.join([*words, *(f'{k}={v!r}' for k, v in keywords.items())])})"


def _paths(keywords: Mapping[str, Any]) -> dict[str, str]:
    """Of the keywords, those that name a folder, which may be an object that has one, such as a `Run`; a published
    policy by its number, since an alias may be that of another one when the run goes on."""
    named = {"teacher": A_RUN, "dataset": A_DATASET}
    paths = {n: path_of(keywords[n], what) for n, what in named.items() if keywords.get(n) is not None}
    return {n: pinned(path) if n == "teacher" else path for n, path in paths.items()}


def _taken(keywords: dict[str, Any], kind: type) -> dict[str, Any]:
    """Those of the keywords that name fields of a dataclass, which they leave."""
    return {f.name: keywords.pop(f.name) for f in fields(kind) if f.name in keywords}
