"""Drawing numbered things in proportion to their priorities, of which a few change between two draws."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FAN_OUT = 64  # children of a node: of 16 to 1024 the fastest at 50 000 to 1 000 000 leaves, for 1 and for 10 members
BELOW_ONE = 1.0 - 2.0**-52  # any positive float64 times this is less than that number


class SumTree:
    """Priorities of `size` leaves for each of S members in float64, and above them nodes with the sum of `FAN_OUT`
    children each.

    A change sets its leaf and sums the children of each node above it anew: O(log size), and no rounding adds up, since
    a node is always the sum of its present children.

    Args:
        members, size: S, and the leaves of one member.
        device: where they are. Everything here can be part of a program.
    """

    def __init__(self, members: int, size: int, device: torch.device | str = "cpu") -> None:
        self._first = torch.arange(members, device=device).unsqueeze(1)
        self.levels: list[Tensor] = []  # [S, nodes] from the leaves to the top, which has up to FAN_OUT nodes
        while size > FAN_OUT:
            size = -(-size // FAN_OUT)  # the nodes above
            self.levels.append(torch.zeros(members, size * FAN_OUT, dtype=torch.float64, device=device))
        self.levels.append(torch.zeros(members, size, dtype=torch.float64, device=device))

    def set(self, place: Tensor, priority: Tensor) -> None:
        """Give the leaves `place [S, B]` these priorities `[S, B]`, none below 0; a place that is there twice has the
        same one twice."""
        for level, above in pairwise([*self.levels, None]):
            assert level is not None
            nodes = (place + self._first * level.shape[1]).flatten()
            level.view(-1).index_copy_(0, nodes, priority.flatten())
            if above is not None:
                place = place // FAN_OUT
                priority = self._children(level, place).sum(dim=-1)

    def fill(self, priority: Tensor) -> None:
        """Give all leaves of each member priorities `[S, size]` at once."""
        for level in self.levels:
            level[:, : priority.shape[1]] = priority
            priority = level.view(len(level), -1, FAN_OUT).sum(dim=-1) if level is not self.levels[-1] else priority

    def get(self, place: Tensor) -> Tensor:
        """The priorities `[S, B]` of the leaves `place [S, B]`."""
        return self.levels[0].gather(1, place)

    def total(self) -> Tensor:
        """The sum of each member's priorities, `[S, 1]`."""
        return self.levels[-1].sum(dim=1, keepdim=True)

    def find(self, share: Tensor) -> Tensor:
        """The leaves `[S, B]` at these shares `[S, B]`, in [0, 1), of the sum of all priorities; never one of 0.

        Some priority of each member must be above 0.
        """
        place, rest = _pick(self.levels[-1], share * self.total())
        for level in reversed(self.levels[:-1]):
            child, left = _pick(self._children(level, place), rest.unsqueeze(-1))
            place, rest = place * FAN_OUT + child.squeeze(-1), left.squeeze(-1)
        return place

    def _children(self, level: Tensor, node: Tensor) -> Tensor:
        """The values `[S, B, FAN_OUT]` in `level` of the children of the nodes `[S, B]` above it."""
        families = level.view(-1, FAN_OUT)
        first = self._first * (level.shape[1] // FAN_OUT)
        return families.index_select(0, (node + first).flatten()).view(*node.shape, FAN_OUT)

    def state(self) -> dict[str, Any]:
        return {"levels": list(self.levels)}

    def load_state(self, state: dict[str, Any]) -> None:
        for mine, theirs in zip(self.levels, state["levels"], strict=True):
            mine.copy_(theirs)


def _pick(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the values `[..., n]` covers each target `[..., m]` where they are laid end to end, and how far into it
    the target is. A value of 0 covers nothing, also where rounding puts a target behind the last."""
    ends = F.pad(values.cumsum(dim=-1), (1, 0))
    target = torch.minimum(target, ends[..., -1:] * BELOW_ONE)
    place = torch.searchsorted(ends, target.contiguous(), right=True) - 1
    return place, target - ends.gather(-1, place)
