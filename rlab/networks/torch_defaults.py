"""float32 numbers on the CPU, whatever the program around rlab has made torch's defaults."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def usual_torch() -> Iterator[None]:
    """Run a block with the defaults that torch comes with, float32 and the CPU.

    A program may have called `torch.set_default_dtype(torch.float64)` or `torch.set_default_device("cuda")`. Its
    defaults are put back afterwards.
    """
    with ExitStack() as undo:
        default = torch.empty(0)  # the cheapest way to see both defaults
        if default.dtype is not torch.float32:
            undo.callback(torch.set_default_dtype, default.dtype)
            torch.set_default_dtype(torch.float32)
        if default.device.type != "cpu":
            undo.enter_context(torch.device("cpu"))
        yield


def with_usual_torch(function: Callable[P, T]) -> Callable[P, T]:
    """A function that makes or reads tensors, callable from anywhere; where the defaults are as usual it costs 1 us."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        default = torch.empty(0)
        if default.dtype is torch.float32 and default.device.type == "cpu":
            return function(*args, **kwargs)
        with usual_torch():
            return function(*args, **kwargs)

    return call
