"""Members of a stack that go on with what others have learned: the step "exploit" of population-based training."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def inherit(agent: Any, parents: Sequence[int]) -> None:
    """Give each member what `parents[i]` has learned: weights, targets, running statistics, and the moments of the
    optimizers. Replay, random streams and the episodes under way stay each member's own.

    It is in place, so that programs go on with the same tensors. What an agent has learned are its networks, those
    modules that are its attributes, and attributes with a method `inherit(parents)`.

    Args:
        parents: for each member, whom it takes over; a parent keeps its own.

    Raises:
        ValueError: a parent is to take over another member.
    """
    if any(parents[parent] != parent for parent in parents):
        raise ValueError(f"parents must keep what they have: {list(parents)}")
    found: dict[int, nn.Module] = {id(module): module for module in _modules(agent)}
    for module in found.values():
        for tensor in module.state_dict().values():
            take_rows(tensor, parents)
    for optimizer in agent.optimizers.values():
        for moments in optimizer.torch_optimizer.state.values():
            for value in moments.values():
                if value.dim() == 2:  # the count of steps is everybody's
                    take_rows(value, parents)
    for part in vars(agent).values():
        if not isinstance(part, nn.Module) and hasattr(part, "inherit"):
            part.inherit(parents)


def take_rows(tensor: Tensor, parents: Sequence[int]) -> None:
    """Give each member of `tensor [S, ...]`, or `[S * C, ...]` of an ensemble, the values of its parent."""
    rows = tensor.unflatten(0, (len(parents), -1))
    index = torch.as_tensor(list(parents), device=tensor.device)
    tensor.copy_(rows.index_select(0, index).flatten(0, 1))


def _modules(agent: Any) -> Iterator[nn.Module]:
    yield agent.policy()
    yield from agent.networks.values()
    yield from (part for part in vars(agent).values() if isinstance(part, nn.Module))
