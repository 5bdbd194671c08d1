"""Target networks: slow copies of networks that learn."""

import torch
from torch import nn

from rlab.networks.spec import copy_parameters


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Polyak averaging, in place: `target = (1 - tau) target + tau online` (Lillicrap et al. 2016, algorithm 1).

    Args:
        tau: in (0, 1]; 1 is a hard copy, buffers included.
    """
    if tau == 1.0:
        copy_parameters(online, target)
    else:
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
