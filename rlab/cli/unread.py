"""Settings that a run would not read: they are not on its help page, are refused when a user names them, and are
recorded as not in force."""

from typing import Any

OF_ENV_LOOPS = ("env_steps", "num_envs", "vector", "log_episodes")
OF_DATASETS = ("dataset", "dataset_episodes", "demonstration_share")
OF_TEACHERS = ("teacher", "teacher_member", "teacher_weight", "teacher_fraction", "teacher_temperature")


def unread_by_kind(agent: str, agent_class: Any) -> dict[str, str]:
    """Settings of the run and its sources that no run of this agent reads, each with the reason."""
    data = getattr(agent_class, "data", "replay")
    if data == "dataset":
        found = dict.fromkeys(OF_ENV_LOOPS, f"{agent} learns from a dataset and steps no env")
        found["demonstration_share"] = f"every row that {agent} learns from is of the dataset"
        if not hasattr(agent_class, "guide"):
            found |= dict.fromkeys(OF_TEACHERS, f"{agent} takes no teacher")
        return found
    found = {"updates": f"the budget of {agent} is env_steps"}
    if data == "rollout":
        found |= dict.fromkeys(OF_DATASETS, f"{agent} learns from its own rollouts")
    return found
