"""Target networks: slow copies of networks that learn."""

import torch
from torch import Tensor, nn

from rlab.learning.per_member import over_networks
from rlab.networks.spec import copy_parameters
from rlab.types import Clock


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, tau: float | Tensor) -> None:
    """Polyak averaging, in place: `target = (1 - tau) target + tau online` (Lillicrap et al. 2016, algorithm 1).

    Args:
        tau: in [0, 1]; 0 leaves the target alone, 1 is a hard copy, buffers included. `[S, 1]` where members differ.
    """
    if isinstance(tau, Tensor):
        # The same average, written so that 0 and 1 leave and copy every bit.
        for old, new in zip(target.parameters(), online.parameters(), strict=True):
            share = over_networks(tau, old)
            old.copy_(torch.where(share == 1.0, new, old.lerp(new, share)))
        for buffer, newer in zip(target.buffers(), online.buffers(), strict=True):
            buffer.copy_(torch.where(over_networks(tau, buffer) == 1.0, newer, buffer))
    elif tau == 1.0:
        copy_parameters(online, target)
    elif tau > 0.0:
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


def share_due(clock: Clock, every: int, tau: float) -> float:
    """The share of the online weights that a target takes over now, which follows by `tau` at every multiple of `every`
    of the clock: 0 unless the last step of the clock passed one.

    A vector step may pass several multiples; the online weights stand still in between.
    """
    times = clock.env_steps // every - (clock.env_steps - clock.per_step) // every
    return 1.0 - (1.0 - tau) ** times if clock.env_steps else 0.0
