"""How far a compressed policy's actions are from those of the policy that it was made from, as an env gets them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlab.compression.sequences import Visits, outputs
from rlab.networks.heads import Head
from rlab.networks.policy import Policy


@torch.no_grad()
def outputs_of(policy: Policy, visits: Visits) -> Tensor:
    """What every member says of its states, `[S, R, width]`, as policies are compared: `to_distil` of its outputs."""
    return policy.head.to_distil(outputs(policy, visits))


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike two policies are on the same states; one number for each member, `[...]`."""

    measure: str  # "same_action": share of equal greedy actions; "action_difference": see `agreement`
    value: Tensor  # [...]
    worst_output_error: Tensor  # [...] largest absolute difference of one output, in the network's own units


@torch.no_grad()
def agreement(teacher_outputs: Tensor, student_outputs: Tensor, head: Head, mask: Tensor | None = None) -> Agreement:
    """Compare what two policies say of the same R states, `[..., R, width]` as `outputs_of` gives it.

    Choices and bits agree where the whole greedy action is the same. Continuous actions, clipped to their bounds as
    the env gets them, have a mean absolute difference, over rows and elements, in units of the range (upper less lower
    bound; an element without two finite bounds counts in half of its own unit).

    Args:
        head: of one of the policies; that of the other distils as the same.
        mask: bool `[..., R, head.mask_width]`, true where an action is allowed.

    Raises:
        ValueError: the shapes differ.
    """
    if teacher_outputs.shape != student_outputs.shape:
        raise ValueError(f"outputs {tuple(teacher_outputs.shape)} and {tuple(student_outputs.shape)} differ in shape")
    worst = (teacher_outputs - student_outputs).abs().amax(dim=(-2, -1))
    head = head.of_distilled
    ours, theirs = head.act(teacher_outputs, mask), head.act(student_outputs, mask)
    lead = teacher_outputs.shape[:-1]
    ours, theirs = ours.reshape(*lead, -1), theirs.reshape(*lead, -1)  # [..., R, elements of an action]
    if head.half_range is not None:
        return Agreement("action_difference", ((ours - theirs).abs() / (2 * head.half_range)).mean(dim=(-2, -1)), worst)
    return Agreement("same_action", (ours == theirs).all(dim=-1).to(worst.dtype).mean(dim=-1), worst)
