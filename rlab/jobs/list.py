"""`rlab list`: agents, envs, experiments, runs, datasets and metrics as rows of plain data."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from rlab.agents import AGENTS, load_agent
from rlab.envs import list_envs
from rlab.experience.minari_files import list_datasets
from rlab.jobs.experiment_files import list_experiments
from rlab.runs import glossary
from rlab.runs.listing import list_runs

LISTS: Mapping[str, Callable[[str], list[dict[str, Any]]]] = {
    "agents": lambda root: [{"agent": name, "what": _summary(name)} for name in sorted(AGENTS)],
    "envs": lambda root: [asdict(row) for row in list_envs()],
    "experiments": lambda root: [
        {"experiment": e.name, "agent": e.agent, "env": e.env, "env_steps": e.run.get("env_steps"), "about": e.about}
        for e in list_experiments()
    ],
    "runs": list_runs,
    "datasets": list_datasets,
    "metrics": lambda root: glossary.rows(),
}


def rows_of(what: str, root: str | None = None, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of one list of `LISTS`.

    Args:
        root: the folder that has the runs or datasets; None: `runs` or `datasets`.
        wanted: values that a row must have, such as `agent="dqn"`.
    """
    return [row for row in LISTS[what](root or what) if wanted.items() <= row.items()]


def _summary(agent: str) -> str:
    return (load_agent(agent).__doc__ or "").partition("\n")[0]
