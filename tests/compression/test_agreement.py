"""How far two policies are from each other, on numbers worked by hand."""

import pytest
import torch

from rlab.compression.agreement import agreement
from rlab.networks.heads import build_head
from rlab.networks.spaces import Box, Discrete, MultiBinary, MultiDiscrete


def test_choices_agree_where_the_greedy_action_is_the_same():
    head = build_head({"kind": "q"}, Discrete(2))
    teacher = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]]])
    student = torch.tensor([[[0.0, 9.0], [3.0, 0.5], [1.0, 0.0], [5.0, 4.0]]])
    found = agreement(teacher, student, head)
    assert (found.measure, found.value.tolist(), found.worst_output_error.tolist()) == ("same_action", [0.75], [7.0])


def test_what_a_mask_forbids_is_no_action_of_either():
    head = build_head({"kind": "categorical"}, Discrete(3))
    teacher, student = torch.tensor([[9.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 9.0]])
    assert agreement(teacher, student, head).value.item() == 0.0
    assert agreement(teacher, student, head, torch.tensor([[True, True, False]])).value.item() == 0.0
    assert agreement(teacher, student, head, torch.tensor([[False, True, False]])).value.item() == 1.0


@pytest.mark.parametrize(
    ("kind", "space", "rows"),
    [
        # the second choice differs in the second row
        (
            "multi_categorical",
            MultiDiscrete((2, 2), (0, 0), (2,)),
            ([[1, 0, 1, 0], [1, 0, 1, 0]], [[2, 0, 3, 0], [1, 0, 0, 1]]),
        ),
        ("bernoulli", MultiBinary((2,)), ([[1, -1], [1, 1]], [[2, -9], [1, -1]])),
    ],
)
def test_an_action_of_several_parts_agrees_only_as_a_whole(kind, space, rows):
    teacher, student = (torch.tensor(each, dtype=torch.float32) for each in rows)
    assert agreement(teacher, student, build_head({"kind": kind}, space)).value.item() == 0.5


def test_continuous_actions_differ_in_units_of_their_range():
    head = build_head({"kind": "gaussian"}, Box((2,), "float32", (0.0, -10.0), (4.0, 10.0)))
    # means in units in which [-1, 1] is the range: 0 is 2 and 0, (1, 0.5) is 4 and 5, beyond the bounds is clipped
    teacher = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    student = torch.tensor([[1.0, 0.5, 0.0, 0.0], [1.0, 0.0, -3.0, 0.0]])
    found = agreement(teacher, student, head)
    assert found.measure == "action_difference"
    assert found.value.item() == pytest.approx((2 / 4 + 5 / 20) / 4)  # of four elements two differ
    assert found.worst_output_error.item() == 8.0


def test_outputs_of_different_shapes_are_a_programming_error():
    with pytest.raises(ValueError, match="differ in shape"):
        agreement(torch.zeros(2, 3), torch.zeros(2, 2), build_head({"kind": "q"}, Discrete(3)))
