"""What a config says about an optimizer: its name, its learning rate over the budget, and what it adds to gradients."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError, unknown
from rlab.learning.per_member import first_of, per_member
from rlab.learning.schedules import CONSTANT, Schedule


class Adagrad(torch.optim.Adagrad):
    """torch's reads its count of steps on the host, which only a decay of the rate would need."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Duchi et al. (2011): each number by its gradient over the root of the sum of its squared gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if (grad := parameter.grad) is not None:
                    grad = grad.add(parameter, alpha=group["weight_decay"]) if group["weight_decay"] else grad
                    total = self.state[parameter]["sum"].addcmul_(grad, grad)
                    parameter.addcdiv_(grad, total.sqrt().add_(group["eps"]), value=-group["lr"])


# name -> maker(parameters, lr, weight_decay, eps). AdamW decouples the decay from the gradient (Loshchilov and Hutter
# 2019); the others add it to the gradient.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, **kwargs: torch.optim.SGD(parameters, momentum=0.9, **kwargs),
    "adagrad": Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "adam": lambda parameters, **kwargs: torch.optim.Adam(parameters, fused=True, **kwargs),
    "adamw": lambda parameters, **kwargs: torch.optim.AdamW(parameters, fused=True, **kwargs),
    "radam": torch.optim.RAdam,
}
_WITHOUT_EPS = ("sgd", "momentum")
ADAMS = ("adam", "adamw", "radam")
_CAPTURABLE = ("adadelta", "rmsprop", "adam", "adamw", "radam")  # those that count steps, on the CPU unless told


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of one optimizer.

    Apart from `OptimizerConfig`, whose fields are the flags of a whole agent, so that an agent with several optimizers
    can give each its own.

    Raises:
        UsageError: an unknown name or a number out of range.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    l1: float = 0.0  # weight of the sum of absolute parameters
    eps: float | None = None  # None: torch's default; sgd and momentum have none
    max_grad_norm: float | None = None  # of one member's whole gradient; None: not clipped
    schedule: Schedule = CONSTANT  # of the learning rate
    beta1: float = 0.9  # share of the past in the mean gradient of those that are kinds of Adam
    config: Any = None  # where they come from, if its members may differ in rate or norm; the rest is the first's

    @classmethod
    def of(cls, config: Any) -> "OptimizerSettings":
        """Those of a learner's config, `rlab.learning.common_config.OptimizerConfig`."""
        first = first_of(config)
        return cls(
            first.optimizer,
            first.learning_rate,
            first.weight_decay,
            first.l1,
            first.optimizer_eps,
            first.max_grad_norm,
            _schedule_of(first),
            config=None if first is config else config,
        )

    def make(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of `torch.optim`, each of the parameters in a group of its own; on a GPU it can be part of a
        graph."""
        kwargs: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.eps is not None and self.name not in _WITHOUT_EPS:
            kwargs["eps"] = self.eps
        if self.name in ADAMS:
            kwargs["betas"] = (self.beta1, 0.999)
        if self.name in _CAPTURABLE and parameters[0].is_cuda:
            kwargs["capturable"] = True
        return OPTIMIZERS[self.name]([{"params": [parameter]} for parameter in parameters], **kwargs)

    def rate(self, progress: float) -> float | np.ndarray:
        """The learning rate when this share of the budget is used; `[S]` where members differ."""
        if self.config is None:
            return self.learning_rate * self.schedule.factor(progress)
        return per_member(self.config, lambda each: each.learning_rate * _schedule_of(each).factor(progress))

    @property
    def most_norm(self) -> float | Tensor | None:
        """To what a member's gradient is clipped; `[S, 1]` where members differ."""
        return self.max_grad_norm if self.config is None else self.config.max_grad_norm

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise unknown("optimizer", self.name, OPTIMIZERS)
        # Written so that NaN fails too: every comparison with it is false.
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate {self.learning_rate} must be above 0 and finite.")
        for name in ("weight_decay", "l1"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} {getattr(self, name)} must be 0 or more and finite.")
        if not 0 <= self.beta1 < 1:
            raise UsageError(f"beta1 {self.beta1} must be 0 or more and below 1.")
        if self.eps is not None and not 0 <= self.eps < math.inf:
            raise UsageError(f"optimizer eps {self.eps} must be 0 or more; None takes torch's default.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise UsageError(f"max_grad_norm {self.max_grad_norm} must be above 0; None leaves gradients alone.")


def _schedule_of(config: Any) -> Schedule:
    return _schedule(config.lr_schedule, config.lr_final, config.lr_warmup_fraction, config.lr_steps)


@lru_cache(maxsize=1024)
def _schedule(name: str, final: float, warmup_fraction: float, steps: int) -> Schedule:
    return Schedule(name, final, warmup_fraction, steps)
