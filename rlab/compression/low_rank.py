"""Low-rank factorisation: a wide linear layer becomes two narrow ones in sequence.

The truncated singular value decomposition is the matrix of that rank nearest to the weights (Eckart and Young 1936):
the spectral norm of what is lost is the largest singular value that was dropped, the squared Frobenius norm the sum of
their squares. So no output moves by more than that largest value times the norm of the layer's input.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.networks.branches import Streams
from rlab.networks.merging import merged

Ranks = dict[str, int]  # name of a linear layer -> rank of the two that take its place


def factorise(networks: Sequence[nn.Module], rank: int | None = None, energy: float | None = None) -> list[nn.Module]:
    """Copies of plain networks of one shape in which two linear layers replace one, wherever that saves parameters.

    `in -> out` becomes `in -> rank -> out` with nothing in between and the bias in the second; the first one's bias is
    0 and counts as parameters. Both take the square root of each singular value, so that neither has much larger
    weights than the other. Adapters are merged first. All networks get the same ranks, so that they can be stacked.

    Args:
        rank: of every such layer.
        energy: or the share of the sum of squared singular values that every network keeps, in (0, 1], layer by layer.

    Raises:
        UsageError: not exactly one of the two is given, or it is out of range.
    """
    networks = [merged(network) for network in networks]
    ranks = find_ranks(networks, rank, energy)
    return [_factorised(network, "", ranks).train(network.training) for network in networks]


@torch.no_grad()
def find_ranks(networks: Sequence[nn.Module], rank: int | None = None, energy: float | None = None) -> Ranks:
    """The rank of every linear layer of which two of that rank have fewer parameters, the largest that a member needs.

    Raises:
        UsageError: not exactly one of the two is given, or it is out of range.
    """
    _check(rank, energy)
    found: Ranks = {}
    for name, layer in networks[0].named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        weights = [_weight(network, name) for network in networks]
        chosen = rank if rank is not None else max(_rank_for(weight, energy or 1.0) for weight in weights)
        out_features, in_features = weights[0].shape
        if chosen * (in_features + out_features + 1) < in_features * out_features:  # 1: the first one's bias
            found[name] = chosen
    return found


def _rank_for(weight: Tensor, energy: float) -> int:
    """The smallest rank whose singular values have this share of the sum of all squares; 1 or more."""
    squares = torch.linalg.svdvals(weight.double()).square()
    kept = squares.cumsum(dim=0)
    # The total is the last of the same cumulative sums, so that an energy of 1 can be reached.
    return int((kept < energy * kept[-1]).sum()) + 1


def _factorised(module: nn.Module, name: str, ranks: Mapping[str, int]) -> nn.Module:
    """A copy with two layers instead of each that `ranks` names."""
    if isinstance(module, nn.Sequential):
        layers: list[nn.Module] = []
        for child_name, child in module.named_children():
            path = f"{name}.{child_name}".lstrip(".")
            layers += _two(child, ranks[path]) if path in ranks else [_factorised(child, path, ranks)]
        return nn.Sequential(*layers)
    if isinstance(module, Streams):
        inner = module.streams().items()
        return module.rebuilt([_factorised(stream, f"{name}.{s}".lstrip("."), ranks) for s, stream in inner])
    return copy.deepcopy(module)


@torch.no_grad()
def _two(layer: nn.Module, rank: int) -> list[nn.Module]:
    """`in -> rank` and `rank -> out`, the nearest to the layer."""
    assert isinstance(layer, nn.Linear)
    # In double precision, so that nothing is lost but the values that are dropped.
    u, s, vh = torch.linalg.svd(layer.weight.double(), full_matrices=False)
    root = s[:rank].sqrt()
    first = nn.Linear(layer.in_features, rank).to(layer.weight)
    second = nn.Linear(rank, layer.out_features).to(layer.weight)
    first.weight.copy_(root.unsqueeze(1) * vh[:rank])
    first.bias.zero_()
    second.weight.copy_(u[:, :rank] * root)
    second.bias.zero_()
    if layer.bias is not None:
        second.bias.copy_(layer.bias)
    return [first, second]


def _weight(network: nn.Module, name: str) -> Tensor:
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer.weight


def _check(rank: int | None, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise UsageError("factorisation goes by a rank or by the share of energy that stays: give one of the two.")
    if rank is not None and rank < 1:
        raise UsageError(f"the rank {rank} must be 1 or more.")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise UsageError(f"the share of energy that stays must be in (0, 1], not {energy}.")
