"""What populations must have in common before their returns are put side by side, and what their reader should know."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlab.envs import EnvSpec
from rlab.errors import RlabError, UsageError
from rlab.evaluation.episode_driver import check_episodes
from rlab.evaluation.evaluate import Evaluation
from rlab.jobs.evidence import RESULT, RUN, Evidence, Protocol, different_settings
from rlab.jobs.judging import FINAL_EPISODE_SEED
from rlab.jobs.lineage import lineage_notes
from rlab.runs.status import FINISHED

EPISODES = 100  # per member, where nothing was judged yet
MOST_SETTINGS = 8  # that a note names


def env_differences(a: EnvSpec, b: EnvSpec) -> list[str]:
    """In what two envs differ, in words."""
    found = []
    if a.env_id != b.env_id:
        return [f"environments {a.label} and {b.label}"]
    if a.kwargs != b.kwargs:
        found.append(f"keywords {a.kwargs or 'none'} and {b.kwargs or 'none'}")
    if a.wrappers != b.wrappers:
        found.append(f"wrappers {_wrappers(a)} and {_wrappers(b)}")
    if a.max_episode_steps != b.max_episode_steps and _time_limit(a) != _time_limit(b):
        found.append(f"time limits {_time_limit(a)} and {_time_limit(b)}")
    return found


def common_env(of: Sequence[Evidence]) -> EnvSpec:
    """The env of all of these.

    Raises:
        UsageError: theirs differ; the message says in what, and how to judge them in one.
    """
    first = of[0]
    for each in of[1:]:
        if found := env_differences(first.env, each.env):
            fixed = [one.path for one in (first, each) if not one.can_be_judged]
            advice = (
                "--env, --wrapper and --max-episode-steps judge all of them in one env"
                if not fixed
                else f"{fixed[0]} is a recorded result, which cannot be judged in another env"
            )
            raise UsageError(f"{first.path} and {each.path} cannot be compared: {', '.join(found)}. {advice}.")
    return first.env


def common_protocol(of: Sequence[Evidence], episodes: int | None, seed: int | None) -> Protocol:
    """How all of these are compared: as asked for, else as they were all judged.

    Raises:
        UsageError: they were judged otherwise than each other, and nothing was asked for; or no episodes can be so.
    """
    on_record = {each.protocol: each.path for each in of if each.protocol is not None}
    if len(on_record) > 1 and episodes is None:
        (first, path), (second, other), *_ = on_record.items()
        advice = f"--episodes {min(first.episodes, second.episodes)} compares them on as many"
        raise UsageError(f"{path} was judged by {first}, {other} by {second}. {advice}.")
    first_seeds = {protocol.first_seed for protocol in on_record}
    start = seed if seed is not None else first_seeds.pop() if len(first_seeds) == 1 else FINAL_EPISODE_SEED
    common = next(iter(on_record)).episodes if on_record else EPISODES
    wanted = common if episodes is None else episodes
    check_episodes("a comparison", wanted, start)
    return Protocol(wanted, start)


def recorded(evidence: Evidence, env: EnvSpec, protocol: Protocol) -> Evaluation | None:
    """What is on record of these episodes in this env; None where they have to be played now.

    Raises:
        UsageError: there is no such record, and no policy to play them.
    """
    known, returns = evidence.protocol, evidence.returns
    if known is not None and returns is not None and known.covers(protocol) and not env_differences(evidence.env, env):
        start = protocol.first_seed - known.first_seed
        found = returns[:, start : start + protocol.episodes]
        return Evaluation(evidence.seeds, protocol.first_seed, found, np.zeros(found.shape, np.int64))
    if not evidence.can_be_judged:
        raise UsageError(
            f"{evidence.path} is a recorded result of {known} in {evidence.env.label}, which cannot be judged again by "
            f"{protocol} in {env.label}: compare a run in its place."
        )
    return None


def check_one_setting(name: str, made_of: Sequence[Evidence]) -> None:
    """Refuse runs that cannot count as one side: those of different settings, or of a training seed that another has.

    Raises:
        UsageError: they are; the message says which.
    """
    first, seen = made_of[0], dict.fromkeys(made_of[0].seeds, made_of[0].path)
    for each in made_of[1:]:
        both = f"{first.path} and {each.path} cannot count as one side, {name}"
        if (first.agent, first.time, first.unit) != (each.agent, each.time, each.unit):
            ours, theirs = (f"{one.agent} for {one.time} {one.unit}" for one in (first, each))
            raise UsageError(f"{both}: {ours} and {theirs}.")
        if differing := different_settings([first, each]):
            raise UsageError(f"{both}: settings differ ({_listed(differing)}).")
        for seed in each.seeds:
            if seed in seen:
                raise UsageError(f"{both}: training seed {seed} is in {seen[seed]} already, and counts once.")
        seen |= dict.fromkeys(each.seeds, each.path)


def notes_of(sides: Mapping[str, Sequence[Evidence]]) -> list[str]:
    """What a reader should know of these sides, by name, a line each."""
    firsts = {name: made_of[0] for name, made_of in sides.items()}
    notes = lineage_notes({name: made_of[0] for name, made_of in sides.items() if len(made_of) == 1})
    for each in (each for made_of in sides.values() for each in made_of):
        if each.kind == RUN and each.status != FINISHED and each.returns is None:
            total = each.settings.get(each.unit)
            notes.append(f"{each.path} is {each.status}, at {each.time:,} of {total:,} {in_words(each.unit)}")
        if each.dropped:
            notes.append(f"{each.path} {lost(each)}")
    times = {name: each.time for name, each in firsts.items() if each.time is not None and each.unit == "env_steps"}
    if len(set(times.values())) > 1:
        notes.append(f"trained for different times: {_each(times, ',')} env steps")
    agents = {each.agent for each in firsts.values()}
    trained = {name: each for name, each in firsts.items() if each.kind in (RUN, RESULT)}
    if len(agents) == 1 and len(trained) == len(firsts) and (found := different_settings(list(firsts.values()))):
        found = {name: values for name, values in found.items() if name != "env_steps"}
        notes += [f"settings that differ: {_listed(found)}"] if found else []
    gymnasium = {name: each.versions.get("gymnasium") for name, each in firsts.items()}
    if len({version for version in gymnasium.values() if version is not None}) > 1:
        notes.append(f"judged with different versions of gymnasium: {_each(gymnasium)}")
    return notes


def lost(of: Evidence) -> str:
    """What to say of members that were dropped: they are the ones that went wrong."""
    seeds = f"training seed{'' if len(of.dropped) == 1 else 's'} {', '.join(map(str, of.dropped))}"
    return f"went on without {seeds}, whose numbers were not finite: what it returned is that of the others alone"


def _listed(settings: Mapping[str, Sequence[Any]]) -> str:
    shown = [f"{name} {' / '.join(map(str, values))}" for name, values in list(settings.items())[:MOST_SETTINGS]]
    rest = len(settings) - len(shown)
    return ", ".join([*shown, *([f"{rest} more"] if rest else [])])


def _each(values: Mapping[str, Any], spec: str = "") -> str:
    return ", ".join(f"{name} {value:{spec}}" for name, value in values.items())


def in_words(unit: str) -> str:
    """A unit of training for people: `env steps`."""
    return unit.replace("_", " ")


def _wrappers(env: EnvSpec) -> str:
    return env.label.partition(" + ")[2] or "none"


def _time_limit(env: EnvSpec) -> int | None:
    """The time limit in force: its own, or the registered one where the env exists here."""
    if env.max_episode_steps is not None:
        return env.max_episode_steps
    try:
        return env.check().max_episode_steps
    except RlabError:
        return None
