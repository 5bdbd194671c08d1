"""Trees of tensors, taken apart and put together."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from rlab.learning.trees import flatten, rebuilder


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Row:
    obs: Tensor
    steps: int


def structure(tree: Any) -> Any:
    return flatten(tree, [])


def test_a_tree_is_put_together_as_it_was_with_other_tensors() -> None:
    tree = {"a": [torch.zeros(1), 2], "b": Pair(torch.zeros(2), None), "c": Row(torch.zeros(3), 4), "d": ("x",)}
    leaves: list[Tensor] = []
    flatten(tree, leaves)
    assert [leaf.numel() for leaf in leaves] == [1, 2, 3]
    found = rebuilder(tree)(iter("pqr"))
    assert found == {"a": ["p", 2], "b": Pair("q", None), "c": Row("r", 4), "d": ("x",)}
    assert type(found["b"]) is Pair


def test_trees_that_differ_in_numbers_alone_have_one_structure() -> None:
    assert structure({"a": torch.zeros(2)}) == structure({"a": torch.ones(2)})
    assert hash(structure({"a": torch.zeros(2)})) == hash(structure({"a": torch.ones(2)}))


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(3, 2).t()},
        {"a": torch.zeros(2, 3, dtype=torch.int64)},
        {"a": torch.zeros(2, 3, device="meta")},
        {"a": [torch.zeros(2, 3)]},
        {"a": torch.zeros(2, 3), "b": None},
        {"a": 6},
    ],
    ids=["key", "shape", "strides", "dtype", "device", "container", "further", "constant"],
)
def test_trees_that_differ_in_anything_else_have_two(other: Any) -> None:
    assert structure({"a": torch.zeros(2, 3)}) != structure(other)


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (0, False), (0.0, -0.0), ("1", 1)])
def test_constants_of_two_kinds_are_two(one: Any, other: Any) -> None:
    assert structure([one]) != structure([other])
    assert structure([math.nan]) == structure([math.nan])


def test_a_leaf_that_is_no_tensor_and_no_constant_is_named() -> None:
    made: Callable[[], int] = int
    with pytest.raises(TypeError, match=r"^type is not a tensor, a number, a string, or a dict"):
        structure({"a": made})
