"""States one behind the other, and what policies and networks say of them, each with a state of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlab.networks import memory
from rlab.networks.memory import State
from rlab.networks.policy import Policy

ROWS_AT_ONCE = 250  # states of each member that are processed together, so that large images fit into memory


@dataclass(frozen=True, eq=False)
class Visits:
    """States that each member of a stack visited: a sample in which every row stands by itself, or whole episodes."""

    obs: Tensor  # [S, R, *obs] in array form
    begins: Tensor  # [S, R] bool: nothing before this row belongs to it; of a sample true everywhere

    def to(self, device: torch.device) -> "Visits":
        """These on a device."""
        return Visits(self.obs.to(device), self.begins.to(device))


class InOrder(NamedTuple):
    """Features of whole episodes, one behind the other."""

    x: Tensor  # [S, R, ...], for the network of one member [R, ...]
    begins: Tensor  # [S, R] or [R] bool, as in `Visits`


Features = Tensor | InOrder  # what a network reads in visited states; a tensor where every row stands by itself


@torch.no_grad()
def features_of(policy: Policy, visits: Visits) -> Features:
    """What the network of a policy reads in these states."""
    x: Tensor = policy.preprocess(visits.obs)
    return InOrder(x, visits.begins) if policy.has_memory else x


@torch.no_grad()
def outputs(policy: Policy, visits: Visits) -> Tensor:
    """What every member says of its states, `[S, R, width]`."""
    rows, member = lanes(visits.begins), torch.arange(len(visits.obs)).view(-1, 1, 1)
    said: Tensor | None = None
    for some in rows.split(ROWS_AT_ONCE, dim=1):
        state = policy.initial_state(some.shape[1])
        for part in _parts(some):
            found, state = policy.unroll(visits.obs[member, part], state, visits.begins[member, part])
            said = found.new_empty(*visits.begins.shape, found.shape[-1]) if said is None else said
            said[member, part] = found
    assert said is not None  # there is one row or more
    return said


def run(network: nn.Module, features: Features, initial_state: Callable[[int], State]) -> None:
    """Let a network, plain or a stack, process all features; some of those in order twice.

    Args:
        initial_state: of the network, for so many rows.
    """
    if isinstance(features, Tensor):
        network(features)
        return
    x, begins = features
    stacked = begins.ndim == 2
    rows = lanes(begins if stacked else begins.unsqueeze(0))
    lead = (torch.arange(len(begins)).view(-1, 1, 1),) if stacked else ()
    rows, axis = (rows, 1) if stacked else (rows[0], 0)
    state = initial_state(rows.shape[axis])
    for part in _parts(rows):
        at = (*lead, part)
        _, state = memory.unroll(network, x[at].flatten(axis, axis + 1), state, begins[at])


def by_row(found: Tensor, begins: Tensor) -> Tensor:
    """What a layer of a stack was given while `run` processed states in order, `[S, ...]` in the order of its calls, as
    `[S, R, ...]`."""
    order = torch.cat([part.flatten(1) for part in _parts(lanes(begins))], dim=1).to(found.device)
    member = torch.arange(len(found), device=found.device).unsqueeze(-1)
    rows = found.new_empty(*begins.shape, *found.shape[2:])
    rows[member, order] = found  # a row that is there twice has the same both times
    return rows


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    """Lanes `[..., L, T]` in parts that are processed one behind the other."""
    return rows.split(max(1, ROWS_AT_ONCE // rows.shape[-2]), dim=-1)


def lanes(begins: Tensor) -> Tensor:
    """The rows `[S, R]` side by side in lanes of one length, `[S, L, T]`: each lane begins with an episode, and goes on
    with those that follow. Every row is in one of them, some in two; of a sample T is 1.

    Args:
        begins: as in `Visits`; the first row begins an episode.
    """
    count = begins.shape[1]
    ends = [[*member.nonzero().flatten().tolist(), count] for member in begins]
    length = max(last - first for member in ends for first, last in pairwise(member))
    found = []
    for member in ends:
        found.append([0])
        for first, last in pairwise(member):
            if last - found[-1][-1] > length:
                found[-1].append(first)
    most = max(map(len, found))
    starts = torch.tensor([[*each, *[0] * (most - len(each))] for each in found])
    rows: Tensor = (starts.unsqueeze(-1) + torch.arange(length)) % count
    return rows
