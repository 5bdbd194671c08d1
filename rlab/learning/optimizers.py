"""Optimizers by name, for all kinds of learning alike; `torch.optim` does the stepping."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlab.errors import UsageError
from rlab.learning.optimizer_settings import OptimizerSettings
from rlab.learning.parameter_groups import ParameterGroup, as_groups
from rlab.types import Clock


class StepHook(Protocol):
    """Looks after parameters while an optimizer steps them, such as weights that are to stay at 0."""

    def before(self) -> None:
        """The gradient is known and the step comes next."""
        ...

    def after(self, clock: Clock) -> None:
        """The step was made, at this time."""
        ...

    def metrics(self) -> Mapping[str, Tensor]:
        """What the last step led to, `[S]` each; asked for when the run logs."""
        ...


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

    Raises:
        ValueError: a group is empty, two have a name or a parameter in common, or members differ in number.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        parameters: Iterable[nn.Parameter] | Sequence[ParameterGroup],
        members: int | None = None,
    ) -> None:
        self.settings, self.hooks = settings, list[StepHook]()
        self._members = members
        self.regroup(parameters)

    def regroup(self, parameters: Iterable[nn.Parameter] | Sequence[ParameterGroup]) -> None:
        """Start over with these parameters or groups in place of those that it had: without moments, with its hooks."""
        self.groups = as_groups(list(parameters))
        self._rows = _rows([p for group in self.groups for p in group.parameters], self._members)
        self._flats = [nn.Parameter(_flatten(group.parameters, self._rows)) for group in self.groups]
        self._grads = [torch.zeros_like(flat) for flat in self._flats]
        self.torch_optimizer = self.settings.make(self._flats)
        self.at(0, factor=1.0)

    def at(self, env_steps: int, factor: float) -> None:
        """The time, which decides which groups learn, and the schedule's factor of every learning rate."""
        self._set_time(env_steps)
        for group, settings in zip(self.groups, self.torch_optimizer.param_groups, strict=True):
            settings["lr"] = self.settings.learning_rate * group.factor * factor

    def _set_time(self, env_steps: int) -> None:
        self.env_steps = env_steps
        self._learning = [i for i, group in enumerate(self.groups) if group.learns(env_steps)]
        for i, flat in enumerate(self._flats):
            flat.grad = self._grads[i] if i in self._learning else None  # torch.optim skips what has no gradient

    def learning(self) -> tuple[str, ...]:
        """The names of the groups that learn now."""
        return tuple(self.groups[i].name for i in self._learning)

    def rates(self) -> dict[str, float]:
        """The learning rate of every group, learning or not, as the optimizer has it."""
        rates = [settings["lr"] for settings in self.torch_optimizer.param_groups]
        return {group.name: rate for group, rate in zip(self.groups, rates, strict=True)}

    @property
    def flat(self) -> nn.Parameter:
        """All parameters `[S, P]` of an optimizer with one group."""
        (only,) = self._flats
        return only

    def step(
        self, loss: Tensor, clock: Clock | None = None, *, progress: float | None = None, members: Tensor | None = None
    ) -> Tensor:
        """One step down the gradient of `loss [S]`, summed over S so that members never mix.

        Parameters that the loss does not depend on have a gradient of 0.

        Args:
            clock: the time, for the schedule, the groups and the hooks; None: as `at` set them.
            progress: the share of the budget that the schedule goes by; None: the clock's.
            members: bool `[S]`, who takes the step; the others stand still, moments and all. None: everybody. The
                count of steps, which corrects the bias of Adam's moments, is everybody's and goes on.

        Raises:
            UsageError: the loss is not `[S]`, or has no gradient.

        Returns:
            the norm `[S]` of each member's gradient over all groups that learn, before clipping.
        """
        if loss.shape != (self._rows,):
            shape = tuple(loss.shape)
            raise UsageError(
                f"the loss has the shape {shape}; a step takes one loss for each member, [S], here [{self._rows}]: "
                "average over the batch and never over members."
            )
        if clock is not None:
            self.at(clock.env_steps, self.settings.schedule.factor(clock.progress if progress is None else progress))
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
        if self.settings.max_grad_norm is not None:
            for grad in grads:
                clip_members(grad, norm, self.settings.max_grad_norm)
        for hook in self.hooks:
            hook.before()
        if members is None:
            self.torch_optimizer.step()
        else:
            self._step_only(members.unsqueeze(1))
        if clock is not None:
            for hook in self.hooks:
                hook.after(clock)
        return norm

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient `[S, P]` of each group that learns, in the place from which the optimizer reads it."""
        parameters = [parameter for i in self._learning for parameter in self.groups[i].parameters]
        ones = torch.ones_like(loss)
        found = iter(torch.autograd.grad(loss, parameters, ones, allow_unused=True, materialize_grads=True))
        for i in self._learning:
            parts = [next(found).reshape(self._rows, -1) for _ in self.groups[i].parameters]
            torch.cat(parts, dim=1, out=self._grads[i])
        return [self._grads[i] for i in self._learning]

    @torch.no_grad()
    def _step_only(self, members: Tensor) -> None:
        """Under Adam even a zero gradient moves, so those who stand still are put back."""
        flats = [self._flats[i] for i in self._learning]
        before = [[tensor.clone() for tensor in (flat, *self._moments(flat))] for flat in flats]
        self.torch_optimizer.step()
        for flat, old in zip(flats, before, strict=True):
            # An optimizer makes its moments in its first step. Before it they were zeros, or as good as zeros:
            # momentum's begins as the gradient, which is where a step from zero leads.
            moments = self._moments(flat)
            old += [torch.zeros_like(flat)] * (1 + len(moments) - len(old))
            for tensor, value in zip((flat, *moments), old, strict=True):
                tensor.copy_(torch.where(members, tensor, value))

    def _moments(self, flat: nn.Parameter) -> list[Tensor]:
        """What the optimizer remembers of each number."""
        return [value for value in self.torch_optimizer.state[flat].values() if value.shape == flat.shape]

    def state(self) -> dict[str, Any]:
        return {**self.torch_optimizer.state_dict(), "env_steps": self.env_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        self.torch_optimizer.load_state_dict({key: state[key] for key in ("state", "param_groups")})
        self._set_time(state["env_steps"])


def regroup(optimizers: Mapping[str, StackedOptimizer], groups: Sequence[ParameterGroup]) -> None:
    """Give each optimizer `groups` as far as it steps their parameters. What else it steps stays in the groups that it
    has.

    Raises:
        UsageError: no group ever learns.
    """
    if all(group.begins_at is None for group in groups):
        raise UsageError(f"nothing would ever learn: {', '.join(group.name for group in groups)} are frozen.")
    for optimizer in optimizers.values():
        if own := _shares(groups, stepped_by(optimizer)):
            optimizer.regroup([*own, *_shares(optimizer.groups, stepped_by(optimizer) - _ids(own))])


def stepped_by(optimizer: StackedOptimizer) -> set[int]:
    """The `id` of every parameter that an optimizer steps."""
    return _ids(optimizer.groups)


def _ids(groups: Iterable[ParameterGroup]) -> set[int]:
    return {id(parameter) for group in groups for parameter in group.parameters}


def _shares(groups: Iterable[ParameterGroup], ids: set[int]) -> list[ParameterGroup]:
    """The groups with those of their parameters that have one of these ids; without groups that have none."""
    shares = [(group, tuple(p for p in group.parameters if id(p) in ids)) for group in groups]
    return [replace(group, parameters=share) for group, share in shares if share]


def clip_members(grad: Tensor, norm: Tensor, max_norm: float) -> None:
    """Scale, in place, the gradient `[S, P]` of each member whose `norm [S]` is above `max_norm` down to it.

    Pascanu et al. (2013), algorithm 1, for every member by itself.
    """
    grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1))


def _rows(parameters: Sequence[nn.Parameter], members: int | None) -> int:
    """S, which every parameter leads with, unless `members` is 1."""
    rows = parameters[0].shape[0] if members is None else members
    if members != 1 and any(p.shape[:1] != (rows,) for p in parameters):
        raise ValueError(f"{rows} members lead every parameter; found shapes {[tuple(p.shape) for p in parameters]}")
    return rows


def _flatten(parameters: Sequence[nn.Parameter], rows: int) -> Tensor:
    """One tensor `[S, P]` of which the parameters, their values kept, become views."""
    flat = torch.cat([p.detach().reshape(rows, -1) for p in parameters], dim=1)
    for parameter, view in zip(parameters, flat.split([p.numel() // rows for p in parameters], dim=1), strict=True):
        parameter.data = view.view(parameter.shape)
    return flat
