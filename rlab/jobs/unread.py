"""Settings that a run would not read: they are not on its help page, are refused when a user names them, and are
recorded as not in force."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rlab.errors import UsageError
from rlab.jobs.defaults import COMMAND_LINE, FROM_START
from rlab.jobs.request import Request
from rlab.learning.finetune_config import OF_ONE_STRATEGY

if TYPE_CHECKING:
    from rlab.networks.spaces import Space

OF_ENV_LOOPS = ("env_steps", "num_envs", "vector", "log_episodes", "reward_clip")
OF_DEMONSTRATIONS = ("demonstration_loss", "demonstration_weight", "margin", "cloning_weight")
OF_DATASETS = ("dataset", "dataset_episodes", "demonstration_share")
# What fresh networks alone are made with. Dropout is not among them: an agent reads whether it is on.
OF_FRESH_NETWORKS = (
    *("hidden", "layer_norm", "init", "init_gain", "dueling", "memory", "memory_size", "memory_window"),
)
OF_TEACHERS = ("teacher", "teacher_member", "teacher_weight", "teacher_fraction", "teacher_temperature")


def unread_by_kind(agent: str, agent_class: Any) -> dict[str, str]:
    """Settings of the run and its sources that no run of this agent reads, each with the reason."""
    from rlab.learning.terms import takes_terms  # torch takes its time; the class of the agent has it already

    data = agent_class.data
    found = {} if takes_terms(agent_class) else dict.fromkeys(OF_TEACHERS, f"{agent} takes no teacher")
    if data == "dataset":
        found |= dict.fromkeys(OF_ENV_LOOPS, f"{agent} learns from a dataset and steps no env")
        return found | {"demonstration_share": f"every row that {agent} learns from is of the dataset"}
    found["updates"] = f"the budget of {agent} is env_steps"
    if data == "rollout":
        found |= dict.fromkeys(OF_DATASETS, f"{agent} learns from its own rollouts")
    return found


def unread_settings(request: Request, agent_class: Any, action_space: "Space") -> dict[str, str]:
    """All settings of a request that its run does not read, each with the reason."""
    from rlab.learning.common_config import KnowsUnread  # torch takes its time, and help pages do not need it

    sources, start = request.sources, request.start
    found = unread_by_kind(request.agent, agent_class)
    if isinstance(request.settings, KnowsUnread):
        found |= request.settings.unread(action_space)
    if sources.dataset is None:
        found.setdefault("dataset_episodes", "no dataset is named: --dataset DIR")
        names = [name for name in OF_DEMONSTRATIONS if hasattr(request.settings, name)]
        found |= dict.fromkeys(names, "there are no demonstrations: --dataset DIR --demonstration-share SHARE")
    if sources.teacher is None:
        for name in OF_TEACHERS[1:]:
            found.setdefault(name, "no teacher is named: --teacher DIR")
    if start is not None:
        for name, strategy in OF_ONE_STRATEGY.items():
            if strategy != start.config.strategy:
                found[name] = f"it is for --strategy {strategy}, not for {start.config.strategy}"
        # A policy folder without its run does not say with which settings its network was made.
        made_by_start = [name for name in OF_FRESH_NETWORKS if request.origins.get(name) not in (None, FROM_START)]
        found |= dict.fromkeys(made_by_start, f"the network is that of {start.run}")
    return found


def with_unread(request: Request, agent_class: Any, action_space: "Space") -> tuple[Request, list[Request]]:
    """The request, and that of each set of its settings, with what is not in force; in the whole that of no set is."""
    parts = [replace(part, unread=unread_settings(part, agent_class, action_space)) for part in request.parts()]
    of_all = set.intersection(*(set(part.unread.items()) for part in parts))
    return replace(request, unread={name: why for name, why in parts[0].unread.items() if (name, why) in of_all}), parts


def as_started(settings: Any, preprocess: Mapping[str, Any]) -> Any:
    """The settings of an agent that begins with a policy, with that policy's scaling of observations, which another
    observation space may have changed."""
    scale = preprocess["scale"]
    real = {"obs_scaling": preprocess["scaling"], "obs_scale": None if scale is None else tuple(scale)}
    own = {f.name for f in fields(settings)}
    return replace(settings, **{name: value for name, value in real.items() if name in own})


def refuse_unread(unread: Mapping[str, str], origins: Mapping[str, str]) -> None:
    """Refuse a setting that a user names and nothing would read.

    Raises:
        UsageError: there is one.
    """
    for name, reason in unread.items():
        if origins.get(name) == COMMAND_LINE:
            raise UsageError(f"--{name.replace('_', '-')} has no effect here: {reason}. Leave it out.")
