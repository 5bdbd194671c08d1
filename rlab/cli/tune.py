"""`rlab tune AGENT ENV`: search for settings, and report the best on seeds that chose nothing."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rlab.cli.flags import command_words, parse
from rlab.cli.help import Page, spelled
from rlab.cli.main import HELP
from rlab.cli.shared import read_settings, show, value_of
from rlab.cli.text_tables import table
from rlab.door import clean
from rlab.errors import UsageError
from rlab.jobs.aliases import check_not_a_policy, check_words
from rlab.jobs.defaults import Defaults, defaults_for
from rlab.jobs.request import train_request
from rlab.search.tune_settings import EPISODES, SEEDS, TuneSettings

USAGE = "rlab tune AGENT ENV [settings]"
EXAMPLE = "rlab tune dqn CartPole-v1 --trials 40 --jobs 2"


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Where to search, where the study is, and how to report."""

    space: bool = False  # print what would be searched, and search nothing
    ranges: str | None = None  # a TOML file of ranges, choices and fixed values, over those that --space prints
    out: str | None = None  # the folder of the study, which the same command goes on with; None: studies/AGENT-ENV
    storage: str | None = None  # the address of a database that several machines share; None: a file in the folder
    env_kwargs: tuple[str, ...] = ()  # key=value ..., keywords of the env
    wrapper: tuple[str, ...] = ()  # NAME or NAME:key=value, innermost first
    experiment: str = "none"  # NAME or FILE of settings to start from; none: the agent's plain defaults
    trust: bool = False  # run code from outside rlab that the experiment file or the teacher's folder names
    json: bool = False  # the result as one JSON object on standard output


SCHEMAS = (TuneOptions, TuneSettings)
PAGE = Page(
    USAGE,
    "Search for the settings of an agent in an environment. Each trial trains a stack of --seeds members, the best are "
    "judged again on fresh seeds, and the winner is reported on others again and written as an experiment file.",
    (EXAMPLE, "rlab tune ppo CartPole-v1 --space"),
    (
        "Settings of runs and of the agent can be named, too, as for rlab train: they are then fixed. rlab tune AGENT "
        "ENV --help lists them.",
        "--jobs N tries N settings at once. A search that was interrupted goes on with the same command.",
    ),
    command="rlab tune",
)


def run(argv: list[str]) -> int:
    """Parse, search, report."""
    named = [word for word in argv[:2] if not word.startswith("-")]
    if HELP & set(argv) and len(named) < 2:
        parse(argv, SCHEMAS, prog="rlab tune", page=PAGE)
    check_words(*named) if len(named) == 2 else check_not_a_policy(*named)
    if len(named) < 2:
        raise UsageError(f"tune needs an agent and an env first: {USAGE}; for example: {EXAMPLE}")
    (agent, env_id), rest = named, argv[2:]
    start = _searched(defaults_for(agent, env_id, value_of(rest, "--experiment") or "none", "--trust" in rest))
    schemas = (TuneOptions(), TuneSettings())
    options, settings = read_settings(rest, schemas, start, prog=f"rlab tune {agent} {env_id}", agent=agent)
    how = TuneSettings(**{f.name: settings.pop(f.name) for f in fields(TuneSettings) if f.name in settings})
    request = train_request(
        agent, env_id, options.env_kwargs, options.wrapper, options.experiment, settings, command_words(), options.trust
    )
    from rlab.search.plan import plan  # torch takes its time: after every check of the words

    planned = plan(request, how, options.ranges, options.out, options.storage, options.trust)
    if options.space:
        space = planned.space.to_json()
        facts = {"format": 1, "agent": agent, "env_id": env_id, "space": space}
        return show(options.json, lambda: facts, lambda: _shown(space))
    from rlab.search.tune import search

    try:
        tuned = search(planned, True, options.trust)
    except KeyboardInterrupt:
        print(clean(f"stopped; the same command goes on with the study in {planned.folder}"), file=sys.stderr)
        raise
    return show(options.json, lambda: tuned.facts, tuned.report)


def _searched(start: Defaults) -> Defaults:
    """The defaults of the runs of a search, for its help page."""
    tuned = {} if start.experiment is None else start.experiment.run
    usual: dict[str, Any] = {"seeds": SEEDS, "final_eval_episodes": EPISODES}
    return replace(start, run=replace(start.run, **{n: v for n, v in usual.items() if n not in tuned}))


def _shown(space: Mapping[str, Mapping[str, Any]]) -> str:
    """The space as a table for people."""
    rows = []
    for name, each in space.items():
        where = f"{each['low']:g} to {each['high']:g}" if "low" in each else ", ".join(map(_spelled, each["choices"]))
        rows.append([name, where, each.get("scale", "choices"), _spelled(each["start"]), each["source"]])
    width = shutil.get_terminal_size((120, 24)).columns
    return "\n".join(table(rows, ("setting", "range", "scale", "default", "source"), width))


def _spelled(value: Any) -> str:
    return spelled(tuple(value) if isinstance(value, list) else value)
