"""Finite numbers that would ruin running statistics for good: they are left out of them, and counted."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

HELD = float(torch.finfo(torch.float32).max) ** 0.5  # 1.8e19: float32 does not hold the square of anything larger
FAR = 1e6  # running deviations, or means where those are larger, or 1 where both are small
KNOWN = 100  # numbers in the statistics from which on the distance counts


class Outlier(NamedTuple):
    """The first number of a member that was left out."""

    member: int
    lane: int  # in which it was, such as its env
    feature: int
    value: float
    left_out: int  # rows of the member so far


class Outliers(nn.Module):
    """Leaves rows out of running statistics, one of each of S members.

    A row is left out where the size of one of its numbers is above `HELD`; and, once `KNOWN` rows are in the
    statistics, where it is more than `FAR` deviations from the mean. It works in programs: what it remembers are
    tensors that are changed in place, and the host asks for `found` when it looks in. They are not saved.
    """

    count: Tensor  # [S] int64, rows left out
    first: Tensor  # [S, 3] float64: the lane, the feature and the value of the first

    def __init__(self, members: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(members, dtype=torch.int64), persistent=False)
        self.register_buffer("first", torch.zeros(members, 3, dtype=torch.float64), persistent=False)

    def keep(self, values: Tensor, valid: Tensor, seen: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Which rows of `values [S, R, F]` may be folded in, `[S, R]`.

        Args:
            valid: those that count, `[S, N]` or `[S, N, T]` of N lanes, such as envs; N * T is R.
            seen: `[S]`, the rows in the statistics.
            mean, variance: of them, `[S, 1, F]`.
        """
        scale = torch.maximum(variance.sqrt(), mean.abs()).clamp(min=1.0)
        known = (seen >= KNOWN).reshape(-1, 1, 1)
        far = (values.abs() > HELD) | (known & ((values - mean).abs() > FAR * scale))  # [S, R, F]
        rows = valid.flatten(1)
        out = far.any(dim=-1) & rows
        row = out.int().argmax(dim=1)  # [S], the first
        members = torch.arange(len(row), device=row.device)
        feature = far[members, row].int().argmax(dim=-1)
        lane = row // (rows.shape[1] // valid.shape[1])
        first = torch.stack([lane.double(), feature.double(), values[members, row, feature].double()], dim=1)
        fresh = (self.count == 0) & out.any(dim=1)
        self.first.copy_(torch.where(fresh.unsqueeze(1), first, self.first))
        self.count.add_(out.sum(dim=1))
        return rows & ~out

    def found(self) -> list[Outlier]:
        """The first of every member that had any."""
        if not bool(self.count.any()):
            return []
        rows = zip(self.count.tolist(), self.first.tolist(), strict=True)
        return [
            Outlier(member, int(first[0]), int(first[1]), first[2], count)
            for member, (count, first) in enumerate(rows)
            if count
        ]
