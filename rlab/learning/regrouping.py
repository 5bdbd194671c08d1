"""Other groups of parameters for the optimizers of an agent that is built."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rlab.errors import UsageError
from rlab.learning.optimizers import StackedOptimizer
from rlab.learning.parameter_groups import ParameterGroup


def regroup(optimizers: Mapping[str, StackedOptimizer], groups: Sequence[ParameterGroup]) -> None:
    """Give each optimizer `groups` as far as it steps their parameters. What else it steps stays in the groups that it
    has.

    Raises:
        UsageError: no group ever learns.
    """
    if all(group.begins_at is None for group in groups):
        raise UsageError(f"nothing would ever learn: {', '.join(group.name for group in groups)} are frozen.")
    for optimizer in optimizers.values():
        if own := _shares(groups, stepped_by(optimizer)):
            optimizer.regroup([*own, *_shares(optimizer.groups, stepped_by(optimizer) - _ids(own))])


def stepped_by(optimizer: StackedOptimizer) -> set[int]:
    """The `id` of every parameter that an optimizer steps."""
    return _ids(optimizer.groups)


def _ids(groups: Iterable[ParameterGroup]) -> set[int]:
    return {id(parameter) for group in groups for parameter in group.parameters}


def _shares(groups: Iterable[ParameterGroup], ids: set[int]) -> list[ParameterGroup]:
    """The groups with those of their parameters that have one of these ids; without groups that have none."""
    shares = [(group, tuple(p for p in group.parameters if id(p) in ids)) for group in groups]
    return [replace(group, parameters=share) for group, share in shares if share]
