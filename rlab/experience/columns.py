"""One field of all rows of a storage, in memory that is never replaced, so that a program can read and write it."""

from math import prod

import torch
from torch import Tensor

from rlab.experience.dtypes import memory_dtype, torch_dtype, zeros
from rlab.experience.fields import Field


class Column:
    """The values of a field, `[S, slots, N, *shape]`: one for each env of each member in each slot.

    `bits` is the memory: unsigned integers lie in it as signed ones. A slot is an int, or a tensor `[1]` in a program.

    Args:
        lanes: `(S, slots, N)`.
        field: its shape and dtype.
        device: where the values are.
    """

    def __init__(self, lanes: tuple[int, int, int], field: Field, device: torch.device) -> None:
        self.dtype = torch_dtype(field.dtype)
        self.bits = zeros((*lanes, *field.shape), memory_dtype(field.dtype), device)
        self._flat = self.bits.flatten(0, 2)
        self._as_is = self.dtype == self.bits.dtype

    def put(self, slot: int | Tensor, value: Tensor) -> None:
        """The values of one slot, `[S, N, *shape]`."""
        value = self.bits_of(value)
        if isinstance(slot, int):  # four times as fast
            self.bits[:, slot] = value
        else:
            self.bits.index_copy_(1, slot, value.to(self.bits.dtype).unsqueeze(1))

    def clear(self, slot: int | Tensor) -> None:
        """The values of one slot are 0."""
        if isinstance(slot, int):
            self.bits[:, slot] = 0
        else:
            self.bits.index_fill_(1, slot, 0)

    def at(self, slot: int | Tensor) -> Tensor:
        """The bits of one slot, `[S, N, *shape]`; on the host a view of them."""
        return self.bits[:, slot] if isinstance(slot, int) else self.bits.index_select(1, slot)[:, 0]

    def take(self, place: Tensor) -> Tensor:
        """The bits `[K, *shape]` at flat places `[K]`, each `(member * slots + slot) * N + env`."""
        return self._flat.index_select(0, place)

    def lanes(self, slots: Tensor) -> Tensor:
        """The values `[S, N, T, *shape]` in the slots `[T]`."""
        return self.values(self.bits.index_select(1, slots).transpose(1, 2))

    def put_lanes(self, slots: Tensor, value: Tensor) -> None:
        """Overwrite the slots `[T]` with values `[S, N, T, *shape]`."""
        self.bits[:, slots] = self.bits_of(value).transpose(1, 2)

    def bits_of(self, value: Tensor) -> Tensor:
        """A value as it lies in memory, or what torch converts to that."""
        return value if self._as_is else value.to(self.dtype).view(self.bits.dtype)

    def values(self, bits: Tensor) -> Tensor:
        """What these bits mean."""
        return bits if self._as_is else bits.view(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return prod(self.bits.shape) * self.bits.element_size()
