"""What storage keeps of every row: named fields, their sizes, and whether the machine has the memory for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rlab.errors import UsageError

if TYPE_CHECKING:  # what reads and writes datasets needs fields, and not torch, which takes a second
    import torch

SMALL = 1024  # bytes of an observation up to which there is a place for every row's hidden successor


@dataclass(frozen=True)
class Field:
    """One value to store for every row: its name, the shape of one value and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one value."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


# What every row has, beside the fields that the agent asks for.
FIXED_FIELDS = (
    Field("reward", (), "float32"),
    Field("terminated", (), "bool"),
    Field("truncated", (), "bool"),
    Field("valid", (), "bool"),
)
# Names that samplers and checkpoints add to the fields of a batch or a chunk.
TAKEN_NAMES = {"row", "steps", "next_obs", "begins", "demonstration", "final_obs", "final_row", "final_at", "first_row"}


def stored_fields(fields: Sequence[Field]) -> tuple[Field, ...]:
    """All fields of a row: `obs`, `action`, the fixed ones, and the agent's further ones.

    Raises:
        UsageError: the first two are not `obs` and `action`, or a name occurs twice or is taken.
    """
    every = (*fields[:2], *FIXED_FIELDS, *fields[2:])
    names = [f.name for f in every]
    if names[:2] != ["obs", "action"] or len(set(names)) < len(names) or TAKEN_NAMES & set(names):
        given = ", ".join(f.name for f in fields)
        taken = ", ".join(sorted({f.name for f in FIXED_FIELDS} | TAKEN_NAMES))
        raise UsageError(
            f"an agent's fields must be obs, action and others, with names other than {taken}; not {given}."
        )
    return every


def storage_nbytes(
    members: int,
    num_envs: int,
    capacity: int,
    fields: Sequence[Field],
    device: "torch.device",
    has_reset_rows: bool,
    growing: bool,
    more_rows: int = 1,
) -> int:
    """Bytes of the storage of all members, before anything is allocated.

    Of large observations in growing storage the hidden final ones are not included: one per finished episode that is
    still held.

    Args:
        fields: the agent's, `obs` and `action` first; the fixed fields are added here.
        members, num_envs, capacity, device, has_reset_rows, growing: as of `Storage`.
        more_rows: of each lane, beyond the capacity.

    Raises:
        UsageError: the capacity is below one row per env, or needs more memory than the device has free; or as
            `stored_fields`.
    """
    if capacity < num_envs:
        raise UsageError(f"replay_capacity {capacity} must be at least num_envs, {num_envs}: one row per env.")
    obs = fields[0].nbytes
    row_nbytes = sum(f.nbytes for f in stored_fields(fields)) + np.dtype(np.int32).itemsize  # see `FinalObservations`
    row_nbytes += obs if obs <= SMALL or not growing else 0
    row_nbytes += np.dtype(np.int64).itemsize if has_reset_rows else 0  # see `ValidRows`
    nbytes = members * num_envs * (capacity // num_envs + more_rows) * row_nbytes
    whose = "one member" if members == 1 else f"each of {members} members"
    check_memory(f"storage for {capacity} transitions of {whose}", nbytes, device)
    return nbytes


def check_memory(what: str, nbytes: int, device: "torch.device") -> None:
    """Raise UsageError where the device does not have so many bytes free."""
    free = _free_memory() if device.type == "cpu" else _free_memory_of(device)
    if free is not None and nbytes > free:
        raise UsageError(
            f"{what} needs {nbytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "lower --seeds, or --replay-capacity or --rollout-steps."
        )


def _free_memory_of(device: "torch.device") -> int:
    """Bytes that can be allocated on a GPU."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free


def _free_memory() -> int | None:
    """Bytes that can be allocated without swapping; None where the system does not report them."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
