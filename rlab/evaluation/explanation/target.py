"""What is explained of a policy's greedy action: one number for each of its parts, linear in what the head says.

- Q values, of distributional heads their means: what the chosen action is worth less what the runner-up is.
- Logits of one choice or several: the log odds of each chosen option against its runner-up.
- Bits: the log odds of each bit as it is set.
- Continuous actions have no runner-up: each element of the action itself, as the env gets it.

At other observations the same difference is read, of the options that were chosen and second at the one explained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlab.errors import UsageError
from rlab.networks.continuous_heads import BoxHead
from rlab.networks.heads import BernoulliHead, CategoricalHead, Head, MultiCategoricalHead
from rlab.networks.value_heads import QHead

ADVANTAGE, LOG_ODDS, ACTION = "advantage", "log odds", "action"


class Contrast(NamedTuple):
    """What is explained at each of B observations."""

    weights: Tensor  # [B, K, W]: part k is the weighted sum of the scores; 0 where only one option is allowed
    chosen: Tensor  # [B, K] int64, counted from 0; of continuous actions -1
    runner_up: Tensor  # [B, K] int64; -1 where there is none

    @property
    def defined(self) -> Tensor:
        """Where there is something to explain, `[B, K]` bool."""
        return (self.weights != 0).any(dim=-1)


@dataclass(frozen=True, eq=False)
class Target:
    """What is explained of the policies with one head; the base of three kinds.

    `scores` are W numbers that the head says of an observation, `parts` the names of the K numbers explained.
    """

    kind: str  # ADVANTAGE, LOG_ODDS or ACTION
    head: Head  # that reads distilled outputs
    source: Head  # the policy's own
    parts: tuple[str, ...]  # ("",) of an action that is one choice
    names: tuple[str, ...] = ()  # of the options of one choice; (): their numbers

    @property
    def about(self) -> str:
        """In words, for people."""
        return {
            ADVANTAGE: "the advantage: the Q value of the chosen action less that of the runner-up",
            LOG_ODDS: "the log odds of the chosen option against the runner-up",
            ACTION: "each element of the action itself, since continuous actions have no runner-up",
        }[self.kind]

    @property
    def unit(self) -> str:
        """Of what is explained."""
        return {ADVANTAGE: "return", LOG_ODDS: "nats", ACTION: "the env's units"}[self.kind]

    def option(self, number: int, part: int = 0) -> str:
        """What an option of a part is called: by its name, else by the number that the env gets."""
        if self.names:
            return self.names[number]
        start = getattr(self.head, "start", 0)
        shift = int(start.flatten()[part]) if isinstance(start, Tensor) else int(start)
        return f"action {number + shift}" if self.parts == ("",) else str(number + shift)

    def options(self, part: int = 0) -> tuple[str, ...]:
        """The names of all options of a part."""
        _, real = _choices(self.head)
        return tuple(self.option(number, part) for number in range(int(real[part].sum())))

    def scores(self, outputs: Tensor) -> Tensor:
        """`outputs [..., width]` of the network to `[..., W]`; the gradient passes."""
        return self.source.to_distil(outputs)

    def contrast(self, scores: Tensor, mask: Tensor | None) -> Contrast:
        """What is explained where the head says `scores [B, W]` and `mask [B, width]` allows actions."""
        raise NotImplementedError


class OfChoices(Target):
    """One option against another, of each choice that the action makes."""

    def contrast(self, scores: Tensor, mask: Tensor | None) -> Contrast:
        place, real = _choices(self.head)  # [K, n] each
        allowed = real if mask is None else real & mask[..., place]
        values = scores[..., place].masked_fill(~allowed, -torch.inf)  # [B, K, n]
        chosen = values.argmax(dim=-1)
        others = values.scatter(-1, chosen.unsqueeze(-1), -torch.inf)
        runner_up = others.argmax(dim=-1)
        defined = others.amax(dim=-1) > -torch.inf  # [B, K]
        part = torch.arange(len(place), device=scores.device)
        ends = [F.one_hot(place[part, option], scores.shape[-1]) for option in (chosen, runner_up)]
        weights = (ends[0] - ends[1]).to(scores.dtype) * defined.unsqueeze(-1)
        return Contrast(weights, chosen, runner_up.masked_fill(~defined, -1))


class OfBits(Target):
    """Each bit as it is set against its opposite."""

    def contrast(self, scores: Tensor, mask: Tensor | None) -> Contrast:
        chosen = (scores > 0).long()
        sign = (2 * chosen - 1).to(scores.dtype)
        return Contrast(torch.diag_embed(sign), chosen, 1 - chosen)


class OfNumbers(Target):
    """Each element of a continuous action."""

    def scores(self, outputs: Tensor) -> Tensor:
        return self.source.act(outputs).reshape(*outputs.shape[:-1], len(self.parts))

    def contrast(self, scores: Tensor, mask: Tensor | None) -> Contrast:
        size = scores.shape[-1]
        weights = torch.eye(size, dtype=scores.dtype).expand(len(scores), size, size)
        none = torch.full(scores.shape, -1)
        return Contrast(weights, none, none)


def target_of(head: Head, names: Sequence[str] = ()) -> Target:
    """What is explained of the policies that act by this head.

    Args:
        names: of the options of an action that is one choice; (): they have none.

    Raises:
        UsageError: it has only one action, it is not derived from a head of rlab, or the names are not those of all
            options of one choice.
    """
    found = _target_of(head)
    if names:
        count = len(found.options()) if isinstance(found, OfChoices) and found.parts == ("",) else 0
        if len(names) != count:
            has = f"{count} options" if count else "no options of a single choice"
            raise UsageError(f"--actions has {len(names)} names; the action has {has}.")
    return replace(found, names=tuple(names))


def _target_of(head: Head) -> Target:
    reads = head.of_distilled if head.distils_as is not None else head
    if isinstance(reads, QHead | CategoricalHead | MultiCategoricalHead):
        _, real = _choices(reads)
        if not (real.sum(dim=-1) > 1).any():
            raise UsageError("the policy has one action alone: there is no choice to explain.")
        kind = ADVANTAGE if isinstance(reads, QHead) else LOG_ODDS
        shape = reads.shape if isinstance(reads, MultiCategoricalHead) else ()
        return OfChoices(kind, reads, head, _part_names("choice", shape))
    if isinstance(reads, BernoulliHead):
        return OfBits(LOG_ODDS, reads, head, _part_names("bit", reads.shape))
    if isinstance(reads, BoxHead):
        return OfNumbers(ACTION, reads, head, _part_names("action", reads.shape))
    raise UsageError(
        f"the policy head {type(head).__name__} cannot be explained: derive it from a head of rlab (QHead, "
        "CategoricalHead, MultiCategoricalHead, BernoulliHead or BoxHead), or let it distil as one."
    )


def _choices(head: Head) -> tuple[Tensor, Tensor]:
    """Where among the scores each option of each choice is, `[K, n]`, and which are options at all."""
    if isinstance(head, MultiCategoricalHead):
        return head.place, head.real
    count = head.num_actions if isinstance(head, QHead) else head.width
    return torch.arange(count).unsqueeze(0), torch.ones(1, count, dtype=torch.bool)


def _part_names(what: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    if prod(shape) == 1:
        return ("",)
    return tuple(f"{what} {','.join(map(str, place))}" for place in np.ndindex(*shape))
