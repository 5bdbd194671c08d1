"""Batch renormalisation (Ioffe 2017) with a seed axis: statistics of a batch, held to their running averages.

Each member has its own statistics. In training mode a layer normalises by its batch and folds it into the running
averages; in evaluation mode it is affine, by the running averages alone. Constants as in CrossQ (Bhatt et al. 2024,
appendix A.1 and the authors' code), which has one abrupt warm-up where Ioffe loosens the bounds step by step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rlab.networks.layers import StackedLayer
from rlab.networks.registry import LayerKind, register

EPSILON = 1e-3  # added to variances
SHARE = 0.01  # of a batch in the running averages; a momentum of 0.99
R_MAX = 3.0  # the most that the deviation of a batch may differ from the running one, as a factor
D_MAX = 5.0  # the most that the mean of a batch may differ, in running deviations
WARM_UP = 100_000  # batches that are normalised by their own statistics alone, as in batch normalisation


class BatchRenorm(nn.Module):
    """`[B, D] -> [B, D]`, for one network: `weight`, `bias` and the running `mean`, `variance` `[D]`, `batches` []."""

    weight: nn.Parameter
    bias: nn.Parameter
    mean: Tensor
    variance: Tensor
    batches: Tensor  # int64, how many there have been in training mode
    frozen = False  # in training mode, too, it normalises by its running statistics, and these stay

    def __init__(self, features: int, warm_up: int = WARM_UP) -> None:
        super().__init__()
        self._begin((), (features,), warm_up)

    def _begin(self, lead: tuple[int, ...], shape: tuple[int, ...], warm_up: int) -> None:
        self.warm_up = warm_up
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("batches", torch.zeros(lead, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """In training mode the running statistics follow, but where they are frozen."""
        if self.frozen or not self.training:
            return torch.addcmul(self.bias, x - self.mean, self.scale())
        variance, mean = torch.var_mean(x, dim=-2, correction=0, keepdim=True)  # over the rows of each member
        deviation = (variance + EPSILON).sqrt()
        with torch.no_grad():  # r and d are constants to the gradient; Ioffe 2017, algorithm 1
            running = (self.variance + EPSILON).sqrt()
            r = (deviation / running).clamp(1 / R_MAX, R_MAX)
            d = ((mean - self.mean) / running).clamp(-D_MAX, D_MAX)
            warm = (self.batches >= self.warm_up)[..., None, None]
            r, d = torch.where(warm, r, 1.0), torch.where(warm, d, 0.0)
            self._fold_in(self.mean, mean)
            self._fold_in(self.variance, variance)
            self.batches.add_(1)
        return torch.addcmul(self.bias + self.weight * d, x - mean, self.weight * r / deviation)

    def scale(self) -> Tensor:
        """What a feature, less its running mean, is multiplied with in evaluation."""
        return self.weight * (self.variance + EPSILON).rsqrt()

    @staticmethod
    def _fold_in(running: Tensor, found: Tensor) -> None:
        """Follow a batch, but for what is not finite: a member that goes wrong is left as it last was."""
        new = torch.lerp(running, found.detach().reshape(running.shape), SHARE)
        running.copy_(torch.where(new.isfinite(), new, running))

    @torch.no_grad()
    def narrow(self, keep: Tensor) -> None:
        """Lose the features that `keep [D]` does not keep, in place; for pruning."""
        for name in ("weight", "bias"):
            old = self.get_parameter(name)
            setattr(self, name, nn.Parameter(old[keep].clone(), old.requires_grad))
        self.mean, self.variance = self.mean[keep].clone(), self.variance[keep].clone()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[-1]}, warm_up={self.warm_up}"


class StackedBatchRenorm(BatchRenorm, StackedLayer):
    """`[S, B, D] -> [S, B, D]`: `weight`, `bias`, `mean`, `variance` `[S, 1, D]`, `batches [S]`."""

    def __init__(self, members: int, features: int, warm_up: int = WARM_UP) -> None:
        nn.Module.__init__(self)
        self._begin((members,), (members, 1, features), warm_up)

    def settings(self) -> dict[str, Any]:
        """The arguments that build it."""
        found = {"features": self.weight.shape[-1]}
        return found if self.warm_up == WARM_UP else {**found, "warm_up": self.warm_up}

    def _plain(self) -> BatchRenorm:
        return BatchRenorm(self.weight.shape[-1], self.warm_up)

    @classmethod
    def _of(cls, members: int, plain: BatchRenorm) -> "StackedBatchRenorm":
        return cls(members, plain.weight.shape[-1], plain.warm_up)


register(LayerKind.of("batch_renorm", StackedBatchRenorm, BatchRenorm))
