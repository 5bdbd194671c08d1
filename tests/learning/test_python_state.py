"""What a function changed beside tensors is found, named and put back."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlab.learning.python_state import PythonState

LEFT_OVER = torch.zeros(1)  # what a trace would leave behind, here


@dataclass
class Thing:
    """An object with a little of everything."""

    steps: int = 0
    moments: dict[str, Any] = field(default_factory=lambda: {"mean": torch.zeros(2)})
    losses: list[float] = field(default_factory=lambda: [1.0])
    recent: deque[float] = field(default_factory=lambda: deque([1.0], maxlen=3))
    network: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    pair: Any = None

    def call(self, change: Callable[["Thing"], None]) -> None:
        change(self)


def weight(thing: Thing) -> Tensor:
    return next(thing.network.parameters())


CHANGES: dict[str, tuple[Callable[[Thing], Any], str]] = {
    "number": (lambda t: setattr(t, "steps", 1), "Thing.steps changes from 0 to 1"),
    "rebound": (lambda t: t.moments.update(mean=torch.zeros(2)), "Thing.moments.mean changes from Tensor to Tensor"),
    "left over": (lambda t: t.moments.update(mean=LEFT_OVER), "Thing.moments.mean is replaced by a tensor that exists"),
    "added": (lambda t: t.moments.update(var=[LEFT_OVER]), r"Thing.moments.var\[0\] is replaced by a tensor"),
    "hidden": (lambda t: setattr(t, "pair", SimpleNamespace(a=(1, LEFT_OVER))), r"Thing.pair.a\[1\] is replaced"),
    "list": (lambda t: t.losses.append(2.0), "Thing.losses grows"),
    "deque": (lambda t: t.recent.appendleft(2.0), r"Thing.recent\[0\] changes from 1.0 to 2.0"),
    "removed": (lambda t: t.losses.clear(), "Thing.losses loses an item"),
    "gradient": (
        lambda t: setattr(weight(t), "grad", LEFT_OVER.view(1, 1)),
        "Thing.network._parameters.weight.grad is",
    ),
    "module": (lambda t: t.network.eval(), "Thing.network.training changes from True to False"),
    "generator": (lambda t: t.rng.random(), "Thing.rng draws random numbers on the host"),
    "random": (lambda t: random.random(), "the global generators of the host"),
    "numpy": (lambda t: np.random.rand(), "the global generators of the host"),
}


def is_left_over(value: Any) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().data_ptr() == LEFT_OVER.untyped_storage().data_ptr()


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_named_and_put_back(what: str) -> None:
    change, message = CHANGES[what]
    thing = Thing()
    before, draw = repr(thing), np.random.default_rng(0).random()
    state = PythonState(thing.call)
    assert list(state.differences(is_left_over)) == []
    globals_before = random.getstate(), np.random.get_state()[2]
    thing.call(change)
    differences = list(state.differences(is_left_over))
    assert len(differences) >= 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(differences[0])
    state.restore()
    assert list(state.differences(is_left_over)) == []
    assert repr(thing) == before
    assert thing.rng.random() == draw
    assert weight(thing).grad is None
    assert (random.getstate(), np.random.get_state()[2]) == globals_before


def test_a_cache_that_is_filled_and_a_number_set_to_what_it_was_are_no_change() -> None:
    thing = Thing()
    state = PythonState(thing.call)
    thing.steps = 0
    thing.losses = [1.0]
    thing.moments["cache"] = {"sizes": (1, 2)}
    weight(thing).data.add_(1.0)  # in place
    assert list(state.differences(is_left_over)) == []


def test_two_objects_that_change_places_are_a_change() -> None:
    thing = Thing()
    one, other = object(), object()
    thing.pair = {"now": one, "next": other}
    state = PythonState(thing.call)
    thing.pair["now"], thing.pair["next"] = other, one
    assert next(state.differences(is_left_over)).startswith("Thing.pair.now changes from object to object")


def test_a_closures_own_number_is_a_change_and_is_put_back() -> None:
    count = 0

    def fn() -> None:
        nonlocal count
        count += 1

    state = PythonState(fn)
    fn()
    assert next(state.differences(is_left_over)).startswith("count changes from 0 to 1")
    state.restore()
    assert count == 0
