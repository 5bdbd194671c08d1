"""What a step of an optimizer does about numbers that are not finite, and about members that do not take it: their
weights and moments are put back."""

from collections.abc import Sequence

import torch
from torch import Tensor


def who_steps(alive: Tensor | None, loss: Tensor, norm: Tensor, members: Tensor | None) -> Tensor | None:
    """Of the `members`, bool `[S]` (None: all), those that are alive; one whose loss or gradient `norm [S]` is not
    finite is not from now on.

    Args:
        alive: bool `[S]`, changed in place; None: all stay alive whatever their numbers.
    """
    if alive is None:
        return members
    alive.logical_and_(loss.detach().isfinite() & norm.isfinite())
    return alive if members is None else members & alive


def put_back(alive: Tensor | None, members: Tensor, tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Give the `tensors [S, P]` of those that took no step, or a step that left a number that is not finite, the values
    that they had `before`.

    Args:
        alive: as of `who_steps`; those of the `members` that the step broke leave it.
    """
    if alive is not None:
        for tensor in tensors:
            alive.logical_and_(tensor.isfinite().all(dim=1) | ~members)
        members = members & alive
    for tensor, value in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(members.unsqueeze(1), tensor, value))


@torch.no_grad()
def or_nan(norm: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The `norm [S]` of those whose `weights [S, P]` are finite, to the bit, else NaN: under a layer that saturates,
    such as tanh, an infinite weight leaves loss and gradient finite."""
    for tensor in weights:
        norm = torch.add(norm, tensor.sum(dim=1), alpha=0.0)
    return norm
