"""Optimizers by name, for all kinds of learning alike; `torch.optim` does the stepping."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.parameter_groups import ParameterGroup, as_groups, flattened, leading_members, parts_of, rows_of
from rlab.learning.standing_still import or_nan, put_back, who_steps
from rlab.learning.step_hooks import StepHook
from rlab.learning.traceable_steps import traceable
from rlab.ranks import average_
from rlab.types import Clock


class StackedOptimizer:
    """An optimizer with clipping per member and L1, over a stack's parameters `[S, ...]`.

    The parameters of a group become views of one flat tensor `[S, P]`, so that norm, clipping and step are one
    operation each instead of one per parameter: a sixth of the time of an update of small networks. Build it after the
    network has been moved to its device.

    A group that does not learn yet, or never, keeps every bit of its weights and moments: it has no gradient, so that
    neither weight decay nor L1 touches it. All groups are known to `torch.optim` from the start. A step while no group
    learns, such as an actor's while its critic learns alone, does nothing.

    Args:
        parameters: of one group, or the groups.
        members: S. None: the first axis of every parameter; 1 takes plain modules, whose parameters have no such axis.
            With it the parameters of an ensemble may lead with `S * C`.
        name: what `scheduled` calls its learning rate by; two optimizers of one agent have different ones.

    Raises:
        ValueError: a group is empty, two have a name or a parameter in common, or members differ in number.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        parameters: Iterable[nn.Parameter] | Sequence[ParameterGroup],
        members: int | None = None,
        name: str = "optimizer",
    ) -> None:
        self.settings, self.hooks, self.name = settings, list[StepHook](), name
        # bool [S]: who learns. A step takes those out of it whose numbers are not finite. None: nobody is taken out
        self.alive: Tensor | None = None
        self._members = members
        self.regroup(parameters)

    def regroup(self, parameters: Iterable[nn.Parameter] | Sequence[ParameterGroup]) -> None:
        """Start over with these parameters or groups in place of those that it had: without moments, with its hooks."""
        self.groups = as_groups(list(parameters))
        self._rows = leading_members([p for group in self.groups for p in group.parameters], self._members)
        self._parts = parts_of(self.groups, self._rows)  # what is flat together
        self._flats = [nn.Parameter(flattened(part.parameters, self._rows)) for part in self._parts]
        self._grads = [torch.zeros_like(flat) for flat in self._flats]
        self.torch_optimizer = self.settings.make(self._flats)
        self._set_rates([float(np.max(self.settings.rate(0.0))) * part.factor for part in self._parts])
        self._learning: list[int] = []  # the parts that learn now
        self._set_time(0)

    def scheduled(self, clock: Clock, progress: float | None = None) -> dict[str, float | np.ndarray]:
        """The learning rate at this time, `[S]` where members differ: part of what the agent's `scheduled` gives.

        Args:
            progress: the share of the budget that the schedule goes by; None: the clock's.
        """
        rate = self.settings.rate(clock.progress if progress is None else progress)
        return {f"{self.name}/learning_rate": rate}

    def at(self, clock: Clock) -> bool:
        """The time, which decides which groups learn and what hooks do; on the host, before the steps of that time.

        Returns:
            whether other groups learn than before, so that programs with steps of this optimizer are out of date.
        """
        before = self._learning
        self._set_time(clock.env_steps)
        for hook in self.hooks:
            hook.at(clock)
        return self._learning != before

    def next_event(self, clock: Clock) -> int | None:
        """The first time behind this one, in env steps, at which `at` does something; None: never again."""
        later = [at for group in self.groups if (at := group.begins_at) is not None and at > clock.env_steps]
        later += [hook.next_event(clock) for hook in self.hooks]
        return min(later, default=None)

    def _set_rates(self, rates: Sequence[float]) -> None:
        for rate, settings in zip(rates, self.torch_optimizer.param_groups, strict=True):
            settings["lr"] = rate

    def _set_time(self, env_steps: int) -> None:
        self.env_steps = env_steps
        learning = [i for i, part in enumerate(self._parts) if part.learns(env_steps)]
        if learning == self._learning:
            return
        self._learning = learning
        for i in learning:
            if not self.torch_optimizer.state.get(self._flats[i]):
                self._make_moments(i)
        for i, flat in enumerate(self._flats):
            flat.grad = self._grads[i] if i in learning else None  # torch.optim skips what has no gradient

    @torch.no_grad()
    def _make_moments(self, i: int) -> None:
        """Have torch make what it remembers of a part, which it does in a first step, and set that to 0: a program
        cannot keep tensors that are made in it."""
        for flat in self._flats:
            flat.grad = None
        flat = self._flats[i]
        before = flat.clone()
        flat.grad = torch.zeros_like(flat)
        self.torch_optimizer.step()
        flat.copy_(before)
        for value in self.torch_optimizer.state[flat].values():
            value.zero_()

    def learning(self) -> tuple[str, ...]:
        """The names of the groups that learn now."""
        return tuple(dict.fromkeys(self._parts[i].name for i in self._learning))

    def rates(self) -> dict[str, float]:
        """The learning rate of every group, learning or not, in the last step whose rate the host knew."""
        return {part.name: self.torch_optimizer.param_groups[i]["lr"] for i, part in enumerate(self._parts)}

    @property
    def flat(self) -> nn.Parameter:
        """All parameters `[S, P]` of an optimizer with one group."""
        (only,) = self._flats
        return only

    def step(
        self, loss: Tensor, now: Mapping[str, float | Tensor] | None = None, *, members: Tensor | None = None
    ) -> Tensor:
        """One step down the gradient of `loss [S]`, summed over S so that members never mix.

        Parameters that the loss does not depend on have a gradient of 0.

        Args:
            now: holds the learning rate that `scheduled` gave; None: the rate of the last step, of all members.
            members: bool `[S]`, who takes the step; the others stand still, moments and all. None: everybody. The
                count of steps, which corrects the bias of Adam's moments, is everybody's and goes on.

        Raises:
            UsageError: the loss is not `[S]`, or has no gradient, or `now` lacks the learning rate.

        Returns:
            the norm `[S]` of each member's gradient over all groups that learn, before clipping; NaN where a weight is
            not finite now.
        """
        if loss.shape != (self._rows,):
            shape = tuple(loss.shape)
            raise UsageError(
                f"the loss has the shape {shape}; a step takes one loss for each member, [S], here [{self._rows}]: "
                "average over the batch and never over members. The optimizer of an ensemble takes members=S."
            )
        if not self._learning:
            return torch.zeros_like(loss, requires_grad=False)
        if not loss.requires_grad:
            raise UsageError("the loss depends on no parameter: it was detached, or computed under torch.no_grad().")
        grads = self._gradients(loss)
        if self.settings.l1:
            for i, grad in zip(self._learning, grads, strict=True):
                grad.add_(self._flats[i].detach().sign(), alpha=self.settings.l1)
        norms = [torch.linalg.vector_norm(grad, dim=1) for grad in grads]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)
        for grad in grads:
            clip_members(grad, norm, self.settings.most_norm)
        members = who_steps(self.alive, loss, norm, members)
        found = [hook.before() for hook in self.hooks]
        self._move(None if now is None else self._rate_of(now), members)
        for hook, before in zip(self.hooks, found, strict=True):
            hook.after(before)
        return or_nan(norm, [self._flats[i] for i in self._learning])

    def _rate_of(self, now: Mapping[str, float | Tensor]) -> float | Tensor:
        name = f"{self.name}/learning_rate"
        if name not in now:
            raise UsageError(f"the agent's `scheduled` lacks {name!r}: hand on what optimizer.scheduled(clock) gives.")
        return now[name]

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient `[S, P]` of each part that learns, in the place from which the optimizer reads it."""
        parameters = [parameter for i in self._learning for parameter in self._parts[i].parameters]
        ones = torch.ones_like(loss)
        found = iter(torch.autograd.grad(loss, parameters, ones, allow_unused=True, materialize_grads=True))
        for i in self._learning:
            rows = rows_of(self._parts[i].parameters[0], self._rows)
            grads = [next(found).reshape(rows, -1) for _ in self._parts[i].parameters]
            torch.cat(grads, dim=1, out=self._grads[i].view(rows, -1))
        return average_([self._grads[i] for i in self._learning])

    @torch.no_grad()
    def _move(self, rate: float | Tensor | None, members: Tensor | None) -> None:
        """The step itself.

        Args:
            rate: None: as it is. A tensor, `[]` or `[S, 1]`: the host does not know it, or members differ. Every
                optimizer here moves a number by the rate times something that does not depend on the rate, so that the
                step is made at 1 and cut down to it.
            members: bool `[S]`; under Adam even a zero gradient moves, so that those who stand still are put back.
        """
        flats = [self._flats[i] for i in self._learning]
        weights = [flat.clone() for flat in flats] if isinstance(rate, Tensor) else []
        before = [] if members is None else [number.clone() for number in self._numbers()]
        if isinstance(rate, Tensor):
            known = [settings["lr"] for settings in self.torch_optimizer.param_groups]
            self._set_rates([1.0] * len(known))
        elif rate is not None:
            self._set_rates([rate * part.factor for part in self._parts])
        with traceable(self.torch_optimizer):
            self.torch_optimizer.step()
        if isinstance(rate, Tensor):
            self._set_rates(known)
            for i, flat, old in zip(self._learning, flats, weights, strict=True):
                flat.sub_(old).mul_(rate * self._parts[i].factor).add_(old)
        if members is not None:
            put_back(self.alive, members, self._numbers(), before)

    def _numbers(self) -> list[Tensor]:
        """The weights of the groups that learn, and what the optimizer remembers of each of them."""
        flats = [self._flats[i] for i in self._learning]
        moments = [value for flat in flats for value in self.torch_optimizer.state[flat].values()]
        return [*flats, *(value for value in moments if value.dim() == 2)]

    def state(self) -> dict[str, Any]:
        return {**self.torch_optimizer.state_dict(), "env_steps": self.env_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`, on whatever device that was."""
        present = self.torch_optimizer.state_dict()["param_groups"]  # how torch steps depends on the device
        groups = [{**own, "lr": saved["lr"]} for own, saved in zip(present, state["param_groups"], strict=True)]
        self.torch_optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
        self._learning = []
        self._set_time(state["env_steps"])


def clip_members(grad: Tensor, norm: Tensor, max_norm: float | Tensor | None) -> None:
    """Scale, in place, the gradient `[S, P]` of each member whose `norm [S]` is above `max_norm` down to it.

    Pascanu et al. (2013), algorithm 1, for every member by itself; `max_norm` may be `[S, 1]`, a number for each;
    None leaves all as they are.
    """
    if max_norm is not None:
        grad.mul_((max_norm / (norm.unsqueeze(1) + 1e-6)).clamp(max=1.0))
