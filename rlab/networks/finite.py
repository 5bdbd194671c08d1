"""Which of many tensors holds a number that is not finite, and whose: one look for all of them."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlab.errors import RlabError


class NotFinite(NamedTuple):
    """The first tensor that is not finite."""

    name: str
    row: int | None  # the first broken index of its leading axis; None for a tensor without axes


def first_not_finite(tensors: Mapping[str, Tensor], may_be_infinite: Container[str] = ()) -> NotFinite | None:
    """The first of these tensors that holds NaN or infinity; None where all are finite. The host waits for each device
    once.

    Args:
        may_be_infinite: names of those that may hold infinity. So may what a user's module keeps and does not train,
            as the masks of attention are: `OwnBody` begins their names with `fixed-`.
    """

    def sound(name: str) -> Tensor:
        free = name in may_be_infinite or name.rpartition(".")[2].startswith("fixed-")
        return ~floats[name].isnan() if free else floats[name].isfinite()

    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    places: dict[torch.device, list[str]] = {}
    for name, tensor in floats.items():
        places.setdefault(tensor.device, []).append(name)
    fine: dict[str, bool] = {}
    for names in places.values():
        found = torch.stack([sound(name).all() for name in names])
        fine |= dict(zip(names, found.tolist(), strict=True))
    first = next((name for name in floats if not fine[name]), None)
    if first is None:
        return None
    broken = ~sound(first)
    return NotFinite(first, int(broken.nonzero()[0, 0]) if broken.ndim else None)


def check_finite(module: nn.Module, seeds: Sequence[int], follows: str) -> None:
    """Refuse weights, statistics or constants `[S, ...]` that hold NaN or infinity.

    Args:
        seeds: one training seed per member; a single one may be of a module without the axis S.
        follows: what the message begins with, such as "the policy cannot be used".

    Raises:
        RlabError: naming the first tensor that does, and its member.
    """
    found = first_not_finite(module.state_dict(), _of_others(module))
    if found is not None:
        raise RlabError(f"{follows}: {in_words(found, seeds)} is NaN or infinite.")


def in_words(found: NotFinite, seeds: Sequence[int]) -> str:
    """`'network.0.weight' of the member with seed 3`."""
    if len(seeds) == 1:
        return f"{found.name!r} of the member with seed {seeds[0]}"
    member = "" if found.row is None or found.row >= len(seeds) else f" of the member with seed {seeds[found.row]}"
    return f"{found.name!r}{member}"


def _of_others(module: nn.Module) -> set[str]:
    """The names of the buffers of layers that are not rlab's; in the plain module of one member they are the user's."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in module.named_modules()
        if not type(layer).__module__.startswith("rlab.")
        for name, _ in layer.named_buffers(recurse=False)
    }
