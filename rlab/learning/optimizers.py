"""Optimizers by name, for all kinds of learning alike; `torch.optim` does the stepping."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlab.errors import UsageError, unknown

# name -> maker(parameters, lr, weight_decay, eps). AdamW decouples the decay from the gradient (Loshchilov and Hutter
# 2019); the others add it to the gradient.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, **kwargs: torch.optim.SGD(parameters, momentum=0.9, **kwargs),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "adam": lambda parameters, **kwargs: torch.optim.Adam(parameters, fused=True, **kwargs),
    "adamw": lambda parameters, **kwargs: torch.optim.AdamW(parameters, fused=True, **kwargs),
    "radam": torch.optim.RAdam,
}
_WITHOUT_EPS = ("sgd", "momentum")


@dataclass(frozen=True)
class OptimizerSettings:
    """What a config says about its optimizer.

    Raises:
        UsageError: an unknown name or a number out of range.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    l1: float = 0.0  # weight of the sum of absolute parameters
    eps: float | None = None  # None: torch's default; sgd and momentum have none
    max_grad_norm: float | None = None  # of one member's whole gradient; None: not clipped

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise unknown("optimizer", self.name, OPTIMIZERS)
        # Written so that NaN fails too: every comparison with it is false.
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.l1 < math.inf):
            raise UsageError(
                f"learning rate {self.learning_rate} must be above 0, weight decay {self.weight_decay} and "
                f"l1 {self.l1} 0 or more."
            )
        if self.eps is not None and not 0 <= self.eps < math.inf:
            raise UsageError(f"optimizer eps {self.eps} must be 0 or more; None takes torch's default.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise UsageError(f"max_grad_norm {self.max_grad_norm} must be above 0; None leaves gradients alone.")


class Stepper:
    """An optimizer with clipping per member and L1, over a stack's parameters `[S, ...]`.

    The parameters become views of one flat tensor `[S, P]`, so that norm, clipping and step are one operation each
    instead of one per parameter: a sixth of the time of an update of small networks. Build it after the network has
    been moved to its device.
    """

    def __init__(self, settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> None:
        self.settings = settings
        self.parameters = list(parameters)
        self.flat = nn.Parameter(_flatten(self.parameters))
        self.flat.grad = torch.zeros_like(self.flat)
        kwargs: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
        if settings.eps is not None and settings.name not in _WITHOUT_EPS:
            kwargs["eps"] = settings.eps
        self.optimizer = OPTIMIZERS[settings.name]([self.flat], **kwargs)

    def step(self, loss: Tensor, members: Tensor | None = None) -> Tensor:
        """One step down the gradient of `loss [S]`, summed over S so that members never mix.

        Args:
            members: bool `[S]`, who takes the step; the others stand still, moments and all. None: everybody. The
                count of steps, which corrects the bias of Adam's moments, is everybody's and goes on.

        Returns:
            the norm of each member's gradient `[S]`, before clipping.
        """
        grads = torch.autograd.grad(loss, self.parameters, torch.ones_like(loss))
        flat_grad = self.flat.grad
        assert flat_grad is not None
        torch.cat([grad.flatten(1) for grad in grads], dim=1, out=flat_grad)
        if self.settings.l1:
            flat_grad.add_(self.flat.detach().sign(), alpha=self.settings.l1)
        norm = torch.linalg.vector_norm(flat_grad, dim=1)
        if self.settings.max_grad_norm is not None:
            clip_members(flat_grad, norm, self.settings.max_grad_norm)
        if members is None:
            self.optimizer.step()
        else:
            self._step_only(members.unsqueeze(1))
        return norm

    @torch.no_grad()
    def _step_only(self, members: Tensor) -> None:
        """Under Adam even a zero gradient moves, so those who stand still are put back."""
        moments = [v for v in self.optimizer.state[self.flat].values() if v.shape == self.flat.shape]
        before = [tensor.clone() for tensor in (self.flat, *moments)]
        self.optimizer.step()
        # An optimizer makes its moments in its first step. Before it they were zeros, or as good as zeros: momentum's
        # begins as the gradient, which is where a step from zero leads.
        moments = [v for v in self.optimizer.state[self.flat].values() if v.shape == self.flat.shape]
        before += [torch.zeros_like(self.flat)] * (1 + len(moments) - len(before))
        for tensor, old in zip((self.flat, *moments), before, strict=True):
            tensor.copy_(torch.where(members, tensor, old))

    def set_learning_rate_factor(self, factor: float) -> None:
        """Scale the base learning rate, as a schedule asks."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def clip_members(grad: Tensor, norm: Tensor, max_norm: float) -> None:
    """Scale, in place, the gradient `[S, P]` of each member whose `norm [S]` is above `max_norm` down to it.

    Pascanu et al. (2013), algorithm 1, for every member by itself.
    """
    grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1))


def _flatten(parameters: Sequence[nn.Parameter]) -> Tensor:
    """One tensor `[S, P]` of which the parameters, their values kept, become views."""
    flat = torch.cat([p.detach().flatten(1) for p in parameters], dim=1)
    for parameter, view in zip(parameters, flat.split([p[0].numel() for p in parameters], dim=1), strict=True):
        parameter.data = view.view(parameter.shape)
    return flat
