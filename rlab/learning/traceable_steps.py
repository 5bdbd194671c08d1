"""Steps of torch's optimizers as plain operations on tensors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def traceable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A block in which an optimizer of torch steps with plain operations on tensors, where the host is not to know its
    count of steps: in a program, and on a GPU; elsewhere any block.

    The counts are tensors of float64 there: `1 - beta ** steps` has few digits left in float32, of which RAdam would
    find another step than the sixth to be the first that it rectifies. What torch has fused needs neither.
    """
    any_group = optimizer.param_groups[0]
    on_device = any_group.get("capturable") and not any_group.get("fused")
    if not (torch.compiler.is_compiling() or on_device):
        yield
        return
    before = [dict(group) for group in optimizer.param_groups]
    states = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    counts = [(state, state["step"]) for state in states if "step" in state]
    plain = {"fused": False, "foreach": False, "capturable": True}
    for group in optimizer.param_groups:
        group.update({name: value for name, value in plain.items() if name in group})
    for state, count in counts:
        state["step"] = count.double()
    try:
        yield
    finally:
        for state, count in counts:
            count.copy_(state["step"])
            state["step"] = count
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update({name: old[name] for name in plain if name in old})
