"""NaN or Inf anywhere stops a run within one update, and the error names the tensor and the member."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rlab.errors import RlabError
from rlab.learning.contract import Agent, Batch
from rlab.learning.contract_checks import check_metrics
from rlab.learning.means import Means

SQUARES_BELOW = 1e15  # in size: float32 holds the sum of a million squares of smaller numbers


def check_update(metrics: Mapping[str, Tensor], batch: Batch, agent: Agent, seeds: Sequence[int], updates: int) -> None:
    """Raise where an update went wrong. The sum of a loss and a gradient norm is finite only where everything is.

    Nothing is checked where the update reports no metrics; its weights are before they are saved.

    Raises:
        RlabError: naming the first tensor that is not finite, from the cause to the effect, and its member.
        UsageError: as `check_metrics`.
    """
    if not metrics:
        return
    try:
        total = torch.stack(list(metrics.values())).sum().item()
    except (RuntimeError, TypeError):
        check_metrics(agent, metrics, len(seeds))
        raise
    if not math.isfinite(total):
        _name_the_broken(_suspects(metrics, batch, agent), seeds, updates, _too_large(batch))


def check_sums(sums: Means, agent: Agent, seeds: Sequence[int], updates: int) -> None:
    """Raise where something that updates of a program reported was not finite.

    Raises:
        RlabError: naming the first tensor that is not finite, and its member.
    """
    if not sums.finite():
        found = {name: total for name, (total, _) in sums.sums().items()}
        _name_the_broken(_suspects(found, {}, agent), seeds, updates)


def check_weights(agent: Agent, seeds: Sequence[int], updates: int) -> None:
    """Raise where a weight is not finite. The last update may break a weight while its loss was still finite.

    Raises:
        RlabError: naming the first such tensor of the policy, and its member.
    """
    _name_the_broken(_weights(agent), seeds, updates)


def _too_large(batch: Batch) -> str:
    """What to do about rewards whose sums float32 cannot square; "" where they are not the cause."""
    tensors = {name: tensor for name, tensor in batch.items() if _of_rewards(name)}
    sizes = {name: tensor.abs().nan_to_num(0.0, 0.0).max().item() for name, tensor in tensors.items()}
    name = max(sizes, key=sizes.__getitem__, default="")
    if not name or sizes[name] < SQUARES_BELOW:
        return ""
    return (
        f"Rewards are the cause: {name!r} of the batch reaches {sizes[name]:.3g}, whose square float32 does not hold. "
        "Divide them in the env, or use --reward-scaling running where the agent has it."
    )


def _of_rewards(name: str) -> bool:
    return any(word in name for word in ("reward", "return", "advantage"))


def _name_the_broken(
    suspects: Iterator[tuple[str, Tensor]], seeds: Sequence[int], updates: int, cause: str = ""
) -> None:
    for name, tensor in suspects:
        broken = ~torch.isfinite(tensor).flatten(1).all(dim=1) if tensor.dim() > 1 else ~torch.isfinite(tensor)
        if broken.any():
            seed = seeds[int(broken.nonzero()[0])]
            raise RlabError(
                f"{name} of the member with seed {seed} is not finite at update {updates}; nothing was saved from it. "
                + (cause or "A lower --learning-rate, --max-grad-norm or --obs-scaling running often helps.")
            )


def _suspects(metrics: Mapping[str, Tensor], batch: Batch, agent: Agent) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in batch.items():
        if tensor.is_floating_point():
            # -inf is the value of an action that a mask forbids
            yield f"batch tensor {name!r}", tensor.masked_fill(tensor.isneginf(), 0.0)
    # After the step every weight of a broken member is broken; the metrics show whether loss or gradient came first.
    for name, tensor in metrics.items():
        yield f"metric {name!r}", tensor
    yield from _weights(agent)


def _weights(agent: Agent) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in agent.policy().state_dict().items():
        yield f"parameter {name!r}", tensor
