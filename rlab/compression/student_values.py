"""Q values for a student that has learned which action is better, but not how good it is.

A softmax ignores what the values of all actions of a state have in common, so a student of Q values is off by a number
per state. Its greedy actions are right, but fine-tuning by its values would have to learn that number first and would
forget the rest meanwhile.
"""

import torch
from torch import Tensor

from rlab.compression.agreement import outputs_of
from rlab.compression.quantized_layers import CompressedLayer
from rlab.compression.rounding_correction import entering, fitted
from rlab.compression.sequences import Visits, by_row, features_of
from rlab.networks.layers import StackedLinear
from rlab.networks.policy import Policy


@torch.no_grad()
def give_values(student: Policy, teacher: Policy, visits: Visits) -> None:
    """Raise the student's outputs, in place, by their mean distance from the teacher's over the actions of a state.

    A linear function of the last layer's inputs, fitted by least squares, is added to all its outputs alike, so that
    greedy actions stay the same. A layer with rounded weights only gets the mean over all states, in its bias. A
    network with any other last layer, such as a dueling one, stays as it is.

    Args:
        student: with Q values as outputs.
        teacher: with Q values, or distributions of which they are the means.
        visits: states of each member.
    """
    last = list(student.network.children())[-1]
    if not isinstance(last, StackedLinear | CompressedLayer):
        return
    gap = _gap(student, teacher, visits)  # [S, R]
    if isinstance(last, CompressedLayer):
        last.bias.add_(gap.mean(dim=1, keepdim=True))
        return
    features = torch.cat(entering(student.network, last, features_of(student, visits)), dim=1)  # [S, R, H]
    if student.has_memory:
        features = by_row(features, visits.begins)
    for member, (rows, wanted) in enumerate(zip(features, gap.unsqueeze(-1), strict=True)):
        slope = fitted(rows.new_zeros(1, rows.shape[-1]), rows, wanted)[0]  # [1, H]
        last.weight[member].add_(slope.T)
        last.bias[member].add_((wanted - rows @ slope.T.to(rows.dtype)).mean())


def _gap(student: Policy, teacher: Policy, visits: Visits) -> Tensor:
    """How much more the teacher's outputs are than the student's, the mean over allowed actions, `[S, R]`."""
    values, outputs = outputs_of(teacher, visits), outputs_of(student, visits)
    allowed = values.isfinite() & outputs.isfinite()  # forbidden actions are at -inf
    return torch.where(allowed, values - outputs, 0.0).sum(dim=-1) / allowed.sum(dim=-1).clamp(min=1)
