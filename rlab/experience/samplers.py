"""Samplers choose rows of a storage and read them as batches. Here rows are drawn uniformly; rollouts and sequences are
in `sequence_samplers`, batches with a share of demonstrations in `mixture_sampler`.

A sampler is given its random numbers, each member's from a stream of its own, so that a member's draws do not depend on
the other members. It computes with tensors on the storage's device, so that it can be part of a program.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import RlabError, UsageError
from rlab.experience.storage import Storage

Batch = dict[str, Tensor]


class Sampler(Protocol):
    """Gives the batches that an agent learns from."""

    draws_ahead: bool  # whether many batches may be drawn as one and cut up; such a sampler gets no feedback

    def sample(self, batch_size: int) -> Batch:
        """A batch `[S, batch_size, ...]` with `row [S, batch_size]`, the id of each (first) row in its storage."""
        ...

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """What the update said of the rows `[S, B]` of the last batch, one value `[S, B]` each, in their order."""
        ...

    def check(self) -> None:
        """Called before `sample`, never in a program: raise RlabError where there is nothing to draw."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next draws depend on besides the storage."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave: the next draw is the one that would have followed."""


class RandomSampler:
    """A storage and the random numbers that rows are drawn from it with. Subclasses give `sample`."""

    draws_ahead = True

    def __init__(self, storage: Storage, draws: Draws) -> None:
        self.storage, self.draws = storage, draws

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """Nothing changes: no row becomes more likely than another."""

    def check(self) -> None:
        """Nothing is known of what is needed."""

    def state(self) -> dict[str, Any]:
        """Where the random numbers stand."""
        return {"draws": self.draws.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.draws.load_state(state["draws"])


class UniformSampler(RandomSampler):
    """Windows of up to `n_step` transitions, whose first rows are drawn uniformly with replacement.

    A window stops at the end of an episode and at the newest row, so it may be shorter; `steps` is its length.

    Args:
        storage: what the rows are drawn from.
        draws: one stream per member.
        n_step: transitions in a window; `[S, 1]` where members differ.

    Raises:
        UsageError: the storage may hold reset rows alone.
    """

    def __init__(self, storage: Storage, draws: Draws, n_step: int | Tensor = 1) -> None:
        super().__init__(storage, draws)
        if storage.valid_rows is not None and storage.lane_rows == 1:  # the row behind a reset row is a transition
            raise UsageError(
                f"the storage keeps one row of each of {storage.num_envs} envs, which may be a reset row; "
                "raise --replay-capacity."
            )
        self.own_steps = n_step if isinstance(n_step, Tensor) else None
        self.n_step = int(n_step if self.own_steps is None else self.own_steps.max())  # the most of any member

    def check(self) -> None:
        """Raise RlabError where there is no row yet."""
        if not self.storage.rows:
            raise RlabError("the storage is empty; collect before sampling.")

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_windows` gives it."""
        return read_windows(self.storage, self._draw(batch_size), self.n_step, self.own_steps)

    def _draw(self, batch_size: int) -> Tensor:
        """The ids of valid rows, `[S, batch_size]`."""
        storage = self.storage
        if storage.valid_rows is not None:
            return storage.valid_rows.ids(self.draws.integers(storage.valid_rows.counts, batch_size))
        rows = storage.held() * storage.num_envs
        return storage.clock() * storage.num_envs - 1 - self.draws.integers(rows, batch_size)


def read_windows(storage: Storage, row: Tensor, n_step: int = 1, own_steps: Tensor | None = None) -> Batch:
    """Windows of up to `n_step` transitions that begin at the rows with the ids `row [S, B]`.

    Args:
        own_steps: `[S, 1]`, each member's instead, at most `n_step`; None: `n_step` for all.

    Returns:
        `row`, and all fields but those below, `[S, B, ...]`, of the first row; `reward [S, B, n_step]`, zero behind the
        window; `steps [S, B]`, the transitions in it; `terminated`, `truncated [S, B]` of its last row; `next_obs
        [S, B, *obs]`, what the last row led to; of demonstrations also `demonstration [S, B]`, which is true.
    """
    of_first = (f.name for f in storage.fields if f.name != "valid")
    of_last = ("terminated", "truncated", "next_obs")
    if n_step == 1:
        batch = {"row": row, **storage.read(row, *of_first, "next_obs"), "steps": torch.ones_like(row)}
        batch["reward"] = batch["reward"].unsqueeze(-1)
    else:
        batch = {"row": row, **storage.read(row, *(name for name in of_first if name not in ("reward", *of_last)))}
        batch["steps"], batch["reward"] = _walk(storage, row, n_step, own_steps)
        batch |= storage.read(row + (batch["steps"] - 1) * storage.num_envs, *of_last)
    if storage.demonstrated:
        batch["demonstration"] = torch.ones_like(row, dtype=torch.bool)
    return batch


def _walk(storage: Storage, row: Tensor, n_step: int, own_steps: Tensor | None) -> tuple[Tensor, Tensor]:
    """The transitions in each window `[S, B]`, and their rewards `[S, B, n_step]`."""
    behind = row.unsqueeze(-1) + torch.arange(n_step, device=row.device) * storage.num_envs  # held or not
    values = storage.read(behind, "reward", "terminated", "truncated")
    ended = (values["terminated"] | values["truncated"]).long()
    # inside[k]: the row exists, and the episode went on through the k rows before it
    inside = (behind < storage.clock() * storage.num_envs) & (ended.cumsum(dim=-1) == ended)
    if own_steps is not None:
        inside &= behind < (row + own_steps * storage.num_envs).unsqueeze(-1)
    return inside.sum(dim=-1), values["reward"].masked_fill(~inside, 0.0)
