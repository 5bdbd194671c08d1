"""Goals in observations: where they are, and what reaching one pays."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from rlab.errors import UsageError
from rlab.networks.spaces import Dict, Leaf, Masked, Space

if TYPE_CHECKING:  # torch takes its time, and rlab.envs is imported by every command
    from torch import Tensor

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"  # the names of Gymnasium-Robotics' GoalEnv
NEEDED = (
    "it takes a Dict observation with the parts observation, achieved_goal and desired_goal, and a method "
    "compute_reward(achieved_goal, desired_goal, info)"
)


@dataclass(frozen=True)
class GoalPlaces:
    """Where the two goals are in an observation's array form `[F]`, and the space of both."""

    achieved: slice
    desired: slice
    space: Leaf


@dataclass(frozen=True)
class Goals:
    """What an env says of goals. The functions take goals `[..., g]` in array form that were achieved and desired."""

    places: GoalPlaces
    reward: "Callable[[Tensor, Tensor], Tensor]"  # float32 [...], of the step that achieved it
    terminated: "Callable[[Tensor, Tensor], Tensor] | None"  # bool [...]; None: endings do not depend on goals
    on_host: bool  # whether the functions cannot be part of a program


def goal_places(space: Space, env_id: str) -> GoalPlaces:
    """Where the goals are in an env's observations.

    Raises:
        UsageError: the observations have none, or the achieved and the desired one have different spaces.
    """
    inner = space.obs if isinstance(space, Masked) else space
    parts = dict(inner.items) if isinstance(inner, Dict) else {}
    if not {ACHIEVED, DESIRED} <= parts.keys():
        raise UsageError(f"--hindsight: {env_id} has no goals in its observations {space}; {NEEDED}.")
    achieved, desired = parts[ACHIEVED], parts[DESIRED]
    if not isinstance(achieved, Leaf) or type(achieved) is not type(desired) or achieved.shape != desired.shape:
        raise UsageError(
            f"--hindsight: the {ACHIEVED} of {env_id} is {achieved} and its {DESIRED} {desired}; both must be arrays "
            "of one kind and shape, so that each can stand in the place of the other."
        )
    first, begins = 0, {}
    for name, part in parts.items():
        begins[name] = slice(first, first := first + prod(part.shape))
    return GoalPlaces(begins[ACHIEVED], begins[DESIRED], achieved)
