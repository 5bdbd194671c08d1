"""Settings that differ from member to member of one stack.

An agent's config has a plain number where all members agree. Where they differ it has a tensor `[S, 1]` on the agent's
device in its place, which broadcasts over rows `[S, B]`; `over` gives it the axes of other tensors. Numbers that the
host works out, such as those that follow the clock, come from `per_member`.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError

C = TypeVar("C")
V = TypeVar("V", float, float | None, float | Tensor)
_APART = "_apart"  # the attribute of a config whose members differ

OF_OPTIMIZERS = ("learning_rate", "lr_final", "lr_warmup_fraction", "max_grad_norm")  # which a `StackedOptimizer` reads


@runtime_checkable
class SettingsPerMember(Protocol):
    """It reads some settings as numbers that may differ from member to member: `[S, 1]` in its config."""

    per_member: ClassVar[tuple[str, ...]]  # the names of these settings


class _Apart:
    """The configs of S members, each kept once, and which of them each member has."""

    def __init__(self, configs: Sequence[Any], names: Collection[str]) -> None:
        self.names = tuple(names)
        self.set(configs)

    def set(self, configs: Sequence[Any]) -> None:
        places: dict[Any, int] = {}
        self.which = np.array([places.setdefault(config, len(places)) for config in configs])
        self.kinds = list(places)

    def numbers(self, number: Callable[[Any], float]) -> np.ndarray:
        return np.array([number(each) for each in self.kinds], np.float64)[self.which]


def settings_per_member(agent_class: Any) -> tuple[str, ...]:
    """The settings of an agent's class that may differ from member to member."""
    return tuple(agent_class.per_member) if isinstance(agent_class, SettingsPerMember) else ()


def check_per_member(name: str, agent_class: Any, settings: Collection[str]) -> None:
    """Refuse settings that an agent has one value of for all members.

    Raises:
        UsageError: naming them, and those that may differ.
    """
    able = settings_per_member(agent_class)
    if fixed := [setting for setting in settings if setting not in able]:
        some = f"{', '.join(able)}" if able else f"none: its class has no `per_member` ({__name__})"
        raise UsageError(f"{name} has one {' and one '.join(fixed)} for all members; what may differ: {some}.")


def apart(configs: Sequence[C], names: Collection[str], device: torch.device) -> C:
    """One config for the members of a stack, in whose `names` they may differ.

    Args:
        configs: one for each member, equal in everything else.
    """
    first = configs[0]
    if not names:
        return first
    _check_alike(configs, names)
    whole = copy.copy(first)
    object.__setattr__(whole, _APART, _Apart(configs, names))
    for name in names:
        object.__setattr__(whole, name, _column(configs, name).to(device))
    return whole


def change(whole: C, configs: Sequence[C]) -> None:
    """Give the members of a stack other values of the settings in which they may differ. It is in place: programs and
    whatever else holds these numbers go on with the new ones."""
    found = _apart_of(whole)
    assert found is not None  # it was made by `apart`
    _check_alike(configs, found.names)
    found.set(configs)
    for name in found.names:
        getattr(whole, name).copy_(_column(configs, name))


def first_of(config: C) -> C:
    """The config of the first member, plain: of what must be equal for all."""
    found = _apart_of(config)
    first: C = config if found is None else found.kinds[found.which[0]]
    return first


def per_member(config: C, number: Callable[[C], float]) -> float | np.ndarray:
    """A number that the host works out from a config: one where all members agree, else `[S]`, each member's from its
    own config."""
    found = _apart_of(config)
    return number(config) if found is None else found.numbers(number)


def largest(config: Any, name: str) -> int:
    """The largest value of a setting that counts something, over all members."""
    return int(np.max(per_member(config, lambda each: float(getattr(each, name)))))


def over(value: V, rows: Tensor) -> V:
    """A setting as it multiplies `rows [S, ...]`: `[S, 1]` gets as many axes as they have, a number stays one."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.reshape(-1, *[1] * (rows.dim() - 1))


def over_networks(value: Tensor, parameter: Tensor) -> Tensor:
    """A setting as it multiplies a parameter `[S, ...]`, or `[S * C, ...]` of an ensemble."""
    if value.dim() == 0:
        return value
    each = value.expand(-1, parameter.shape[0] // value.shape[0])
    return each.reshape(-1, *[1] * (parameter.dim() - 1))


def _apart_of(config: Any) -> _Apart | None:
    found: _Apart | None = getattr(config, _APART, None)
    return found


def _column(configs: Sequence[Any], name: str) -> Tensor:
    """A setting of all members `[S, 1]`; None, which means no limit, is infinite."""
    values = [getattr(each, name) for each in configs]
    kind = torch.int64 if all(isinstance(value, int) for value in values) else torch.float32
    return torch.tensor([[math.inf if value is None else value] for value in values], dtype=kind)


def _check_alike(configs: Sequence[Any], names: Collection[str]) -> None:
    first = configs[0]
    fixed = [field.name for field in dataclasses.fields(first) if field.name not in names]
    other = [name for name in fixed if any(getattr(each, name) != getattr(first, name) for each in configs)]
    if other:
        raise ValueError(f"members differ in {', '.join(other)}, not in {', '.join(names)} alone")
