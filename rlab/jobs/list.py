"""`rlab list`: agents, envs, experiments, runs, models, datasets and metrics as rows of plain data."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from rlab.agents import AGENTS, load_agent
from rlab.envs import list_envs
from rlab.experience.minari_files import list_datasets
from rlab.jobs.experiment_files import list_experiments
from rlab.learning.contract import heads_of
from rlab.learning.terms import takes_terms
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from rlab.runs import glossary
from rlab.runs.listing import list_runs
from rlab.runs.registry import list_models, models_folder

CHOICES = (Discrete, MultiDiscrete, MultiBinary)
ACTIONS: Mapping[type, str] = {
    Discrete: "one choice",
    MultiDiscrete: "several choices",
    MultiBinary: "several yes or no",
    Box: "numbers",
}
DATA = {"replay": "replay", "rollout": "rollouts", "dataset": "a dataset"}
# A setting of an agent -> what one that has it takes, or has as a switch.
SETTINGS = {
    "memory": "memory",
    "value_head": "distributional values",
    "replay": "prioritised replay",
    "noisy": "noisy layers",
    "hindsight": "hindsight",
    "novelty": "novelty",
}

LISTS: Mapping[str, Callable[[str], list[dict[str, Any]]]] = {
    "agents": lambda root: [_agent(name) for name in sorted(AGENTS)],
    "envs": lambda root: [asdict(row) for row in list_envs()],
    "experiments": lambda root: [
        {"experiment": e.name, "agent": e.agent, "env": e.env, "env_steps": e.run.get("env_steps"), "about": e.about}
        for e in list_experiments()
    ],
    "runs": list_runs,
    "models": list_models,
    "datasets": list_datasets,
    "metrics": lambda root: glossary.rows(),
}


def rows_of(what: str, root: str | None = None, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of one list of `LISTS`.

    Args:
        root: the folder that has the runs, models or datasets; None: `runs`, `models` (or that of the variable
            RLAB_MODELS) or `datasets`.
        wanted: values that a row must have, such as `agent="dqn"`.
    """
    usual = str(models_folder()) if what == "models" else what
    return [row for row in LISTS[what](root or usual) if wanted.items() <= row.items()]


def _agent(name: str) -> dict[str, Any]:
    """What an agent's class and its settings say of it."""
    agent: Any = load_agent(name)
    settings = {each.name for each in fields(agent.Config)}
    takes = [words for setting, words in SETTINGS.items() if setting in settings]
    takes += ["masks"] * any(issubclass(kind, CHOICES) for kind in agent.action_spaces)
    takes += ["a teacher"] * takes_terms(agent) + ["fine-tuning"] * bool(heads_of(agent))
    return {
        "agent": name,
        "actions": [ACTIONS[kind] for kind in agent.action_spaces],
        "data": DATA[agent.data],
        "takes": takes,
        "what": (agent.__doc__ or "").partition("\n")[0],
    }
