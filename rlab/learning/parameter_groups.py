"""Groups of parameters that one optimizer steps: which of them learn, from when on, and how fast."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn from the same time on, at the same share of the learning rate."""

    name: str  # "actor.4", "critic": for reports and logs
    parameters: tuple[nn.Parameter, ...]
    factor: float = 1.0  # of the learning rate; Howard and Ruder 2018, section 3.2 (discriminative fine-tuning)
    begins_at: int | None = 0  # env steps from which it learns; None: never

    def learns(self, env_steps: int) -> bool:
        """Whether it learns at this time."""
        return self.begins_at is not None and env_steps >= self.begins_at


def as_groups(given: Sequence[nn.Parameter | ParameterGroup]) -> tuple[ParameterGroup, ...]:
    """The groups, checked; parameters alone are one group."""
    groups = tuple(group for group in given if isinstance(group, ParameterGroup))
    if len(groups) < len(given):
        groups = (ParameterGroup("all", tuple(p for p in given if isinstance(p, nn.Parameter))),)
    names = [group.name for group in groups]
    if not groups or not all(group.parameters for group in groups):
        raise ValueError(f"every group needs a parameter; there are {names}")
    if len(set(names)) < len(names):
        raise ValueError(f"two groups have one name: {names}")
    found = [id(parameter) for group in groups for parameter in group.parameters]
    if len(set(found)) < len(found):
        raise ValueError(f"a parameter is in two groups or twice in one; there are {names}")
    return groups


def leading_members(parameters: Sequence[nn.Parameter], members: int | None) -> int:
    """S, which every parameter leads with where `members` is None; given, `[S * C, ...]` of an ensemble lead too."""
    if members is None:
        members = parameters[0].shape[0]
        fit = all(p.shape[:1] == (members,) for p in parameters)
    else:
        fit = members == 1 or all(p.dim() > 0 and p.shape[0] % members == 0 for p in parameters)
    if not fit:
        raise ValueError(f"{members} members lead every parameter; found shapes {[tuple(p.shape) for p in parameters]}")
    return members


def parts_of(groups: Iterable[ParameterGroup], members: int) -> list[ParameterGroup]:
    """The groups, in which all parameters lead with as many networks: one that mixes S and `S * C` becomes several."""
    parts = []
    for group in groups:
        leads: dict[int, list[nn.Parameter]] = {}
        for parameter in group.parameters:
            leads.setdefault(rows_of(parameter, members), []).append(parameter)
        parts += [replace(group, parameters=tuple(parameters)) for parameters in leads.values()]
    return parts


def rows_of(parameter: Tensor, members: int) -> int:
    """How many networks a parameter leads with; 1 for plain modules, whose parameters have no such axis."""
    return 1 if members == 1 else parameter.shape[0]


def flattened(parameters: Sequence[nn.Parameter], members: int) -> Tensor:
    """One tensor `[S, P]` of which the parameters of a part, their values kept, become views; the parameters of an
    ensemble network by network, so that no view has to be copied to be used."""
    rows = rows_of(parameters[0], members)
    flat = torch.cat([p.detach().reshape(rows, -1) for p in parameters], dim=1)
    for parameter, view in zip(parameters, flat.split([p.numel() // rows for p in parameters], dim=1), strict=True):
        parameter.data = view.view(parameter.shape)
    return flat.view(members, -1)
