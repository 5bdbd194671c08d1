"""Layers that hold whole networks: the streams of a dueling head; one branch for each image, one for all the rest.

What SB3's CombinedExtractor does. The layers here have no weights of their own and work on trailing axes, so that they
serve stacks `[S, B, ...]` and plain networks `[B, ...]` alike.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from rlab.networks.bounds import FIRST
from rlab.networks.registry import register_shared


class Pick(nn.Module):
    """`[..., F] -> [..., f]`: the elements of a vector that `ranges` name, each `(first, last + 1)`, in that order."""

    def __init__(self, ranges: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.ranges = tuple((int(first), int(last)) for first, last in ranges)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., first:last] for first, last in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def extra_repr(self) -> str:
        return f"ranges={self.ranges}"


class PickImage(nn.Module):
    """`[..., F] -> [..., C, H, W]`: the pixels of one image from element `first` on.

    `shape` is that of the env's array, whose `channels` are first or last.
    """

    def __init__(self, first: int, shape: Sequence[int], channels: str) -> None:
        super().__init__()
        self.first, self.shape, self.channels = first, tuple(int(side) for side in shape), channels

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.shape
        image = x[..., self.first : self.first + a * b * c].unflatten(-1, self.shape)
        return image if self.channels == FIRST else image.movedim(-1, -3)

    def extra_repr(self) -> str:
        return f"first={self.first}, shape={self.shape}, channels={self.channels!r}"


class Streams(nn.Module):
    """A layer that holds whole networks, all of which read its input. Serves stacked and plain ones."""

    def streams(self) -> dict[str, nn.Module]:
        """The networks by their names inside the layer, in a fixed order."""
        raise NotImplementedError

    def rebuilt(self, streams: Sequence[nn.Module]) -> Self:
        """The same layer with other networks, in the order of `streams`."""
        raise NotImplementedError


class Dueling(Streams):
    """Two streams joined as `Q = V + A - mean(A)` (Wang et al. 2016, equation 9).

    Where the value is n numbers, such as the atoms or quantiles of a return, the advantages are n for each action,
    those of one action behind each other, and each of the n is joined by itself.
    """

    def __init__(self, value: nn.Module, advantage: nn.Module) -> None:
        super().__init__()
        self.value, self.advantage = value, advantage

    def forward(self, x: Tensor) -> Tensor:
        advantage, value = self.advantage(x), self.value(x)  # [..., B, A * n], [..., B, n]
        if value.shape[-1] == 1:
            joined: Tensor = value + advantage - advantage.mean(dim=-1, keepdim=True)
            return joined
        advantage = advantage.unflatten(-1, (-1, value.shape[-1]))
        return (value.unsqueeze(-2) + advantage - advantage.mean(dim=-2, keepdim=True)).flatten(-2)

    def streams(self) -> dict[str, nn.Module]:
        return {"value": self.value, "advantage": self.advantage}

    def rebuilt(self, streams: Sequence[nn.Module]) -> Self:
        return type(self)(*streams)


class Branches(Streams):
    """What several networks make of the same input, one behind the other: `[..., F] -> [..., f1 + f2 + ...]`."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch.forward(x) for branch in self.branches], dim=-1)

    def streams(self) -> dict[str, nn.Module]:
        return {f"branches.{index}": branch for index, branch in enumerate(self.branches)}

    def rebuilt(self, streams: Sequence[nn.Module]) -> Self:
        return type(self)(streams)


register_shared("dueling", Dueling, lambda layer: {})  # its streams are described by themselves
register_shared("branches", Branches, lambda layer: {})
register_shared("pick", Pick, lambda layer: {"ranges": layer.ranges})
register_shared(
    "pick_image", PickImage, lambda layer: {"first": layer.first, "shape": layer.shape, "channels": layer.channels}
)
