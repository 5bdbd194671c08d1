"""A bound of the memory that building a network from a file may take: a spec is short, whatever widths it states."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from rlab.errors import RlabError

# Operators that make a tensor of stated lengths out of nothing.
MAKERS = frozenset(
    {"empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "arange", "eye"}
    | {"linspace", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "repeat"}
)
LARGEST_NUMBER = 8  # bytes


class AtMost(TorchDispatchMode):
    """In a `with` block new tensors have at most so many bytes in all.

    Raises:
        RlabError: more is asked for; nothing is allocated then.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self._asked = most, 0

    def _call(self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func.overloadpacket.__name__ in MAKERS:
            self._asked += LARGEST_NUMBER // 2 * max(_elements(args), 0)
            if self._asked > self._most:
                raise RlabError(f"it asks for more than {self._most:,} bytes, which its weights do not have")
        return func(*args, **(kwargs or {}))


# torch keeps its tracer away from a method that the class is made with, and imports the whole compiler to do so: more
# than a second for every program that opens a policy. Nothing is traced here.
AtMost.__torch_dispatch__ = AtMost._call  # type: ignore[assignment, method-assign]


def _elements(args: Iterable[Any]) -> int:
    """How many elements the first lengths among the arguments ask for."""
    given = list(args)
    lengths = next((arg for arg in given if isinstance(arg, list | tuple)), None)
    if lengths is None:
        lengths = [arg for arg in given if type(arg) is int]
    return math.prod(lengths) if lengths else 1
