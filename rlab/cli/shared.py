"""What several verbs do alike: words to settings, options to keywords, and a run from its request to its report."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from rlab.agents import load_agent
from rlab.cli.flags import given, parse
from rlab.cli.help import Page
from rlab.cli.main import HELP, STOPPED, leads
from rlab.cli.output import print_json
from rlab.door import clean
from rlab.jobs.defaults import DEFAULT, UPDATE_PERIODS, Defaults, data_of
from rlab.jobs.request import Request
from rlab.jobs.unread import unread_by_kind
from rlab.runs.config import SourceConfig


def read_settings(
    argv: Sequence[str],
    own: Sequence[Any],
    start: Defaults,
    *,
    prog: str,
    agent: str,
    sources: SourceConfig | None = None,
    usage: str = "[settings]",
    command: str = "",
) -> tuple[Any, dict[str, Any]]:
    """The verb's own options, filled, and the settings that the words name, with their values.

    `--help` prints the page of the agent: what it is, what it leaves unread, where defaults come from.

    Args:
        own: the verb's options, and dataclasses of settings that runs of all agents do not have.
        start: where the defaults come from.
        sources: the defaults of what is learned from besides the env; what they state is not on the page.
        usage, command: of the page.
    """
    schemas = (*own, start.run, sources or SourceConfig(), start.settings)
    page = None
    if HELP & set(argv):
        found = load_agent(agent)
        origins = start.origins(())
        if data_of(agent) == "dataset":
            origins |= {name: "agents that learn from a dataset" for name in UPDATE_PERIODS if origins[name] == DEFAULT}
        hidden = frozenset({*unread_by_kind(agent, found), *([] if sources is None else ["dataset"])})
        what = (found.__doc__ or "").strip().partition("\n")[0]
        page = Page(f"{prog} {usage}", what, origins=origins, hidden=hidden, agent=agent, command=command)
    options, *parts = parse(argv, schemas, prog=prog, subject=agent, page=page)
    named = given(argv, schemas)
    return options, {f.name: getattr(part, f.name) for part in parts for f in fields(part) if f.name in named}


def keywords(options: Any, *without: str) -> dict[str, Any]:
    """Options as keywords of the job that they are for; `json` is the command line's own."""
    names = [field.name for field in fields(options) if field.name not in ("json", *without)]
    return {"wrappers" if name == "wrapper" else name: getattr(options, name) for name in names}


def show(as_json: bool, facts: Callable[[], Any], text: Callable[[], str], success: bool = True) -> int:
    """Print a result as one JSON object or for people; the exit code."""
    if as_json:
        print_json(facts())
    else:
        print(clean(text()))
    return 0 if success else 1


def train(request: Request, options: Any) -> int:
    """Train what was asked for, and report; the exit code."""
    from rlab.jobs.running import start  # torch takes its time: after every check of the words

    return carry_out(lambda: start(request, options.out, True, options.trust), options.json)


def carry_out(job: Callable[[], Any], as_json: bool, report_it: bool = True) -> int:
    """Run a job that trains, and report for people or as one JSON object; the exit code."""
    done = job()
    if report_it and leads():
        print(clean(done.report()))
    if as_json and leads():
        print_json(run_as_json(done))
    return STOPPED if done.interrupted else 0


def run_as_json(run: Any) -> dict[str, Any]:
    """The one object for a run that has ended: its folder, its status, its clock, and what `rlab eval --json` would
    print of its final evaluation; `evaluation` is None where there was none."""
    agent, env_id = run.config["agent"], run.config["env"]["env_id"]
    facts = {"format": 1, "run": run.name, "status": run.status, "clock": {run.unit: run.time}}
    if run.evaluation is None:
        return {**facts, "policy": run.name, "agent": agent, "env_id": env_id, "evaluation": None}
    return {**facts, **run.evaluation.to_json(run.name, agent, env_id)}


def value_of(argv: Sequence[str], wanted: str) -> str | None:
    """The value that the words give to one flag, before they are parsed; None where it is not among them."""
    for index, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag == wanted:
            return value if equals else next(iter(argv[index + 1 :]), None)
    return None
