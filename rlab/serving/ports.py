"""The inputs and outputs of a model in the words of the Open Inference Protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# The protocol's names of NumPy's dtypes.
DATATYPES = {
    "bool": "BOOL",
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}


@dataclass(frozen=True)
class Port:
    """One input or output; `shape` is that of one row, without the batch axis."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @cached_property  # NumPy takes microseconds for these two
    def datatype(self) -> str:
        """The dtype as the protocol calls it."""
        return DATATYPES[self.dtype.name]

    @cached_property
    def size(self) -> int:
        """The numbers of one row."""
        return int(np.prod(self.shape))

    def to_json(self) -> dict[str, Any]:
        """As the metadata of a model have it; -1 stands for any number of rows."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}


def ports_of(described: Mapping[str, Any]) -> dict[str, Port]:
    """The ports that the metadata of an exported file describe, by name; KeyError, TypeError where they do not."""
    return {
        name: Port(name, tuple(map(int, port["shape"])), np.dtype(port["dtype"])) for name, port in described.items()
    }
