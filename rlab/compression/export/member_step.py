"""One step of a member as exported files have it: with memory, its state is one row of numbers in and one out.

The state `[B, K]` holds every tensor of the member's state, flattened, one behind the other in the order of
`initial_state`. An episode begins with zeros.
"""

from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.networks.memory import State
from rlab.networks.policy import MemberPolicy

STEPS = 16  # in a row that a file with memory is checked on


class Part(NamedTuple):
    """Where one tensor of a state is in the row: its numbers `first .. last - 1`, and its shape without rows."""

    first: int
    last: int
    shape: tuple[int, ...]


def parts_of(member: MemberPolicy) -> dict[str, Part]:
    """The parts of a member's state by the names that the policy gives them; none without memory.

    Raises:
        UsageError: an episode does not begin with zeros.
    """
    found, first = {}, 0
    for name, value in member.initial_state(1).items():
        if value.any():
            raise UsageError(f"an exported file begins episodes with a state of zeros, and {name} begins with others.")
        shape = tuple(value.shape[1:])
        found[name] = Part(first, first + prod(shape), shape)
        first += prod(shape)
    return found


def state_size(member: MemberPolicy) -> int:
    """K; 0 without memory."""
    return max((part.last for part in parts_of(member).values()), default=0)


def as_row(state: State) -> Tensor:
    """`[B, K]`."""
    return torch.cat([value.flatten(1) for value in state.values()], dim=1)


def from_row(row: Tensor, parts: dict[str, Part]) -> State:
    """The way back."""
    return {name: row[:, part.first : part.last].unflatten(1, part.shape) for name, part in parts.items()}


def decision(member: MemberPolicy, obs: Tensor, outputs: Tensor) -> Tensor:
    """The greedy actions `[B, *action]`, as `env.step` takes them."""
    return member.head.to_env(member.head.act(outputs, member.preprocess.mask(obs)))


@torch.no_grad()
def answers(
    member: MemberPolicy, obs: np.ndarray, batch: int, state: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """A member's greedy actions `[R, *action]` and outputs `[R, width]`, asked in batches of this size; with memory,
    in these states `[R, K]`, also the next ones."""
    parts, found = parts_of(member), []
    for i in range(0, len(obs), batch):
        given = torch.from_numpy(np.array(obs[i : i + batch]))
        before = {} if state is None else from_row(torch.from_numpy(state[i : i + batch].copy()), parts)
        outputs, after = member.step(given, before)
        more = () if state is None else (as_row(after).numpy(),)
        found.append((decision(member, given, outputs).numpy(), outputs.numpy(), *more))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def states_before(member: MemberPolicy, obs: np.ndarray) -> np.ndarray | None:
    """A state `[R, K]` for each of the observations `[R, *obs]`, as if they came one after another, `STEPS` in an
    episode; None without memory."""
    size = state_size(member)
    if not size:
        return None
    found = np.zeros((len(obs), size), np.float32)
    for step in range(min(STEPS, len(obs)) - 1):
        rows = np.arange(step, len(obs) - 1, STEPS)
        found[rows + 1] = answers(member, obs[rows], len(obs), found[rows])[2]
    return found
