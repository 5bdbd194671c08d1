"""Experiment files: tuned settings and budget for one agent in one env, with the claim they are held to."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rlab.experiments
from rlab.agents import AGENTS, load_agent
from rlab.door import check_counts, read_toml
from rlab.envs import EnvSpec
from rlab.envs.specs import parse_wrappers
from rlab.errors import RlabError, UsageError, unknown
from rlab.jobs.foreign_code import check_trust, foreign_agent_module, foreign_network_module
from rlab.trust import Trust

_KEYS = {"format", "about", "agent", "env", "env_kwargs", "wrapper", "run", "settings", "bench", "claim"}
_WITH_THRESHOLD = ("seeds_at_or_above", "share_of_episodes_at_or_above")
_BENCH_KEYS = {"seed", "seeds", "episodes"}
MOST_SEEDS = 1_000_000  # and episodes, and the number of a seed
MEASURES = ("iqm", "median", "lowest_seed", *_WITH_THRESHOLD)


@dataclass(frozen=True)
class Claim:
    """One promise about the final evaluation of an experiment.

    `iqm` and `median`: of the seeds' mean returns; `lowest_seed`: the mean return of the worst seed;
    `seeds_at_or_above`: how many seeds have a mean return of `threshold` or more;
    `share_of_episodes_at_or_above`: the share of all episodes of all seeds, 0 to 1, that return `threshold` or more.
    Each holds when it is `at_least` the given number.

    Raises:
        UsageError: an unknown measure, a threshold that is missing or unused, or a share outside [0, 1].
    """

    measure: str
    at_least: float
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise unknown("measure of a claim", self.measure, MEASURES)
        if (self.threshold is None) == (self.measure in _WITH_THRESHOLD):
            raise UsageError(f"a claim has a threshold exactly when its measure is {' or '.join(_WITH_THRESHOLD)}.")
        if self.measure == "share_of_episodes_at_or_above" and not 0.0 <= self.at_least <= 1.0:
            raise UsageError(f"a claim's share of episodes, at_least {self.at_least:g}, must be in [0, 1].")


@dataclass(frozen=True)
class Experiment:
    """What one file says. `seed`, `seeds` and `episodes` belong to `rlab bench`."""

    path: Path
    agent: str
    env: str
    env_kwargs: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    about: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    seeds: int = 20
    episodes: int = 100
    claims: tuple[Claim, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem

    def foreign_modules(self) -> list[str]:
        """The modules from outside rlab that training what the file says imports."""
        env = EnvSpec(self.env, wrappers=parse_wrappers(self.wrapper))
        return [*foreign_agent_module(self.agent), *env.foreign_modules, *foreign_network_module(self.settings)]

    @property
    def result_path(self) -> Path:
        """Where the result is recorded: beside the file."""
        return self.path.with_suffix(".result.json")


def shipped_folder() -> Path:
    """The folder of the experiment files that come with rlab."""
    return Path(str(rlab.experiments.__file__)).parent


def list_experiments() -> list[Experiment]:
    """Every experiment file that comes with rlab, by name."""
    return [read_experiment(path) for path in sorted(shipped_folder().glob("*.toml"))]


def find_experiment(agent: str, env: str, chosen: str | None, trust: Trust = False) -> Experiment | None:
    """The experiment that tunes a run: the one chosen by name or file, else the one named `AGENT-ENV`, else None.

    `none` as the choice asks for the agent's plain defaults.

    Raises:
        UsageError: the chosen one does not exist, or is about another agent, of which this one is not a subclass.
        RlabError: it names code from outside rlab that the call does not name itself, and `trust` is false.
    """
    if chosen == "none":
        return None
    if chosen is None:
        path = _shipped_path(agent, env)
        return read_experiment(path) if path.is_file() else None
    experiment = read_experiment(experiment_path(chosen))
    named = {name.rpartition(":")[0] for name in (agent, env)}
    unnamed = [module for module in experiment.foreign_modules() if module not in named]
    check_trust(str(experiment.path), unnamed, trust)
    if experiment.agent != agent and not issubclass(load_agent(agent), load_agent(experiment.agent)):
        raise UsageError(f"experiment {experiment.name} tunes {experiment.agent}, and {agent} is not a subclass of it.")
    return experiment


def _shipped_path(agent: str, env: str) -> Path:
    return shipped_folder() / f"{agent}-{env}.toml".replace("/", "-")


def inherited_experiment(agent: str, env: str) -> str | None:
    """The shipped experiment of the nearest registered agent that `agent`, a class of a user's own, extends.

    It is used only where a user names it, since what a subclass changes may need other settings.
    """
    names = {location: name for name, location in AGENTS.items()}
    for base in load_agent(agent).__mro__[1:] if ":" in agent else ():
        name = names.get(f"{base.__module__}:{base.__qualname__}")
        path = None if name is None else _shipped_path(name, env)
        if path is not None and path.is_file():
            return path.stem
    return None


def experiment_path(chosen: str) -> Path:
    """The file of an experiment that is named by its file, or by the name of one that comes with rlab.

    Raises:
        UsageError: no shipped experiment has that name.
    """
    if chosen.endswith(".toml"):
        return Path(chosen)
    path = shipped_folder() / f"{chosen}.toml"
    if not path.is_file():
        raise unknown("experiment", chosen, [p.stem for p in shipped_folder().glob("*.toml")])
    return path


def _check_kinds(path: Path, data: dict[str, Any]) -> None:
    """Raise UsageError where a value of the file is of another kind than `Experiment` and `Claim` say."""
    wanted: dict[str, type] = {"agent": str, "env": str, "about": str, "run": dict, "settings": dict, "bench": dict}
    for key, kind in wanted.items():
        if not isinstance(data.get(key, kind()), kind):
            raise UsageError(f"{path}: {key} must be {'a text' if kind is str else 'a table'}, not {data[key]!r:.80}")
    for key in ("env_kwargs", "wrapper"):
        words = data.get(key, [])
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UsageError(f"{path}: {key} must be a list of texts, not {words!r:.80}")
    claims = data.get("claim", [])
    if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
        raise UsageError(f"{path}: each claim is a table of its own: [[claim]]")
    for claim in claims:
        for key in ("at_least", "threshold"):
            if isinstance(claim.get(key, 0), bool) or not isinstance(claim.get(key, 0), int | float):
                raise UsageError(f"{path}: {key} of a claim must be a number, not {claim[key]!r:.80}")
    try:
        check_counts(f"{path}: [bench]", MOST_SEEDS, **data.get("bench", {}))
    except RlabError as error:
        raise UsageError(str(error)) from error


def read_experiment(path: Path) -> Experiment:
    """Read and check one file; settings are checked where they are merged.

    Raises:
        UsageError: it is missing, is not TOML, or has unknown keys.
    """
    if not path.exists():
        raise UsageError(f"there is no experiment file {path}.")
    try:
        data = read_toml(path)
    except RlabError as error:
        raise UsageError(str(error)) from error
    if data.get("format") != 1:
        raise RlabError(f"{path} has format {data.get('format')!r}; this rlab reads format 1.")
    for key in data.keys() - _KEYS:
        raise unknown(f"key in {path}", key, _KEYS)
    _check_kinds(path, data)
    bench = data.get("bench", {})
    for key in bench.keys() - _BENCH_KEYS:
        raise unknown(f"key in [bench] of {path}", key, _BENCH_KEYS)
    try:
        read = Experiment(
            path=path,
            agent=data["agent"],
            env=data["env"],
            env_kwargs=tuple(data.get("env_kwargs", ())),
            wrapper=tuple(data.get("wrapper", ())),
            about=data.get("about", ""),
            run=data.get("run", {}),
            settings=data.get("settings", {}),
            claims=tuple(Claim(**claim) for claim in data.get("claim", ())),
            **bench,
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is not an experiment file: {error}. Each needs agent and env.") from error
    for claim in read.claims:
        if claim.measure == "seeds_at_or_above" and claim.at_least > read.seeds:
            raise UsageError(f"{path} claims {claim.at_least:g} seeds of {read.seeds}; a claim that cannot hold.")
    return read
