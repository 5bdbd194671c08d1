"""Settings that differ from member to member of one run: what was asked for, and the run folder of each set of them.

A run with several sets of settings trains all of them as one stack, every set with all training seeds, so that sets
pair by seed. Its folder holds what belongs to the stack: config, checkpoint and status. Each set has a run folder of
its own in it, with logs, policies and result, which every verb takes: statistics never mix sets.
"""

import ast
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlab.agents import load_agent
from rlab.errors import UsageError
from rlab.jobs.defaults import COMMAND_LINE
from rlab.jobs.request import Request
from rlab.jobs.settings import merge
from rlab.learning.novelty_config import pays_for_novelty
from rlab.networks.policy import Policy
from rlab.runs.config import RunConfig, SourceConfig
from rlab.runs.folder import SETTINGS, RunFolder, is_run

MOST_LETTERS = 100  # of the name of a folder
ALONE = ("film_every", "log_episodes")  # settings of a run without several sets
Point = Mapping[str, Any]  # one set: values by name


@dataclass(frozen=True)
class Share:
    """The members of a stack that are reported as one run."""

    request: Request
    folder: RunFolder
    members: range  # their places in the stack

    def policy_of(self, stack: Policy, members: Sequence[int]) -> Policy:
        """The policy of some of these members, whose head has what their own settings say of it, such as epsilon."""
        policy = stack if len(members) == len(stack.seeds) else stack.at(members)
        agent_class: Any = load_agent(self.request.agent)
        if "of_stack" not in self.folder.config or not hasattr(agent_class, "head_json"):
            return policy
        head = agent_class.head_json(self.request.settings, policy.spec.action_space)
        return Policy(replace(policy.spec, head=head), policy.preprocess, policy.network, policy.seeds).eval()


def read_points(words: Sequence[str]) -> list[dict[str, Any]]:
    """The sets that `--vary NAME=VALUE,VALUE ...` asks for: every value of one with every value of the others.

    Raises:
        UsageError: a word has no values.
    """
    values = {}
    for word in words:
        name, equals, listed = word.partition("=")
        if not equals or not all(listed.split(",")):
            raise UsageError(f"--vary {word}: write NAME=VALUE,VALUE, for example learning_rate=1e-4,3e-4,1e-3.")
        values[name.strip().replace("-", "_")] = [_value(each) for each in listed.split(",")]
    return grid(values)


def grid(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every value of each setting with every value of the others; [] of nothing."""
    combined = itertools.product(*values.values())
    return [dict(zip(values, each, strict=True)) for each in combined] if values else []


def with_points(request: Request, vary: Mapping[str, Sequence[Any]] | Sequence[Point], where: str) -> Request:
    """A request whose members differ: values by setting, each with each, or the sets themselves.

    Raises:
        UsageError: a setting is unknown, its value not valid, given for all members too, or one that the agent has
            only one of; sets name different settings, or are equal.
    """
    points = grid(vary) if isinstance(vary, Mapping) else [dict(each) for each in vary]
    if not points:
        return request
    from rlab.learning.novel_agent import with_novelty  # torch takes its time; the agent's module has it already
    from rlab.learning.per_member import check_per_member

    names = tuple(points[0])
    whole = {field.name for kind in (RunConfig, SourceConfig) for field in fields(kind)}
    for point in points:
        if set(point) != set(names):
            raise UsageError(f"{where}: every set must name the same settings: {', '.join(names)}; not {point}.")
        if of_run := [name for name in point if name in whole]:
            raise UsageError(f"{where}: {of_run[0]} belongs to the whole run; members differ in the agent's settings.")
        if twice := [name for name in point if request.origins.get(name) == COMMAND_LINE]:
            flag = f"--{twice[0].replace('_', '-')}"
            raise UsageError(f"{where}: {twice[0]} has values for the members and one for all: leave out {flag}.")
    known = {field.name for field in fields(request.settings)}
    learner = with_novelty(load_agent(request.agent), request.settings)
    words = request.agent + (" with novelty" if pays_for_novelty(request.settings) else "")
    check_per_member(words, learner, [name for name in names if name in known])
    configs = [merge(request.settings, point, where) for point in points]
    values = tuple({name: getattr(config, name) for name in names} for config in configs)
    if len({tuple(each.values()) for each in values}) < len(values):
        raise UsageError(f"{where}: two sets of settings are equal; --seeds trains one of them several times.")
    for name in ALONE:
        if getattr(request.run, name):
            raise UsageError(f"--{name.replace('_', '-')} is for a run whose members all have the same settings.")
    origins = {**request.origins, **dict.fromkeys(names, COMMAND_LINE)}
    return replace(request, settings=configs[0], origins=origins, vary=values)


def name_of(point: Point) -> str:
    """A set of settings for people: `learning_rate=0.001, gamma=0.9`."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def shares_of(parts: Sequence[Request], folder: RunFolder) -> list[Share]:
    """What each set of settings is reported as, its folder made or brought up to date; the run itself where there is
    one set.

    Args:
        parts: `request.parts` of the run in the folder, complete.
    """
    seeds = parts[0].run.seeds
    if "vary" not in folder.config:
        return [Share(parts[0], folder, range(seeds))]
    points, names = folder.config["vary"], folders_of(folder)
    found = []
    for number, (request, name) in enumerate(zip(parts, names, strict=True)):
        path, shown = folder.path / SETTINGS / name, f"{folder.name}/{SETTINGS}/{name}"
        kept: dict[str, Any] = {key: folder.config[key] for key in ("computed_with", "history") if key in folder.config}
        config: dict[str, Any] = {**request.to_json(), **kept, "of_stack": {"number": number, "of": len(points)}}
        if not is_run(path):
            own = RunFolder.create(path, config, shown)
        elif (own := RunFolder.open(path)).config != config:
            own = own.changed(config)
        found.append(Share(request, replace(own, name=shown), range(number * seeds, (number + 1) * seeds)))
    return found


def folders_of(folder: RunFolder) -> list[str]:
    """The names of the folders of its sets, in order; [] of a run whose members have the same settings."""
    points = folder.config.get("vary", [])
    names = [re.sub(r"[^A-Za-z0-9_=.+-]+", "-", name_of(point).replace(", ", "_")) for point in points]
    plain = len(set(names)) == len(names) and max(map(len, names), default=0) <= MOST_LETTERS
    return names if plain else [f"set-{number}" for number in range(len(points))]


def paths_of(folder: RunFolder) -> list[Path]:
    """The run folders of its sets that are there, in order."""
    paths = [folder.path / SETTINGS / name for name in folders_of(folder)]
    return [path for path in paths if is_run(path)]


def _value(word: str) -> Any:
    try:
        return ast.literal_eval(word.strip())
    except (ValueError, SyntaxError):
        return word.strip()
