"""Samplers that keep rows in time order: whole rollouts, and windows of a fixed length for recurrent agents."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import RlabError, UsageError
from rlab.experience.samplers import Batch, RandomSampler
from rlab.experience.storage import Storage


def call(function: Callable[..., Batch], *args: Any) -> Batch:
    """Call it as it is."""
    return function(*args)


class RolloutSampler(RandomSampler):
    """The newest T rows of every lane, learned from once and in shuffled minibatches, each member in its own order.

    Args:
        storage: of T rows in each lane or more.
        draws: one stream per member, for the orders.
        steps: T, vector steps of a rollout.
        epochs: passes over each rollout.
        minibatches: parts of each pass, as equal as the number of rows allows; 1 keeps the time order.
    """

    draws_ahead = False

    def __init__(self, storage: Storage, draws: Draws, steps: int, epochs: int = 1, minibatches: int = 1) -> None:
        super().__init__(storage, draws)
        self.steps, self.epochs, self.minibatches = steps, epochs, minibatches

    @property
    def full(self) -> bool:
        """Whether the newest row completed a rollout."""
        return self.storage.rows_written > 0 and self.storage.rows_written % self.steps == 0

    def sample(self, batch_size: int = 0) -> Batch:
        """The newest rollout as `read_rollout` gives it; it is read whole, whatever the batch size."""
        return read_rollout(self.storage, self.steps)

    def batches(self, rows: Batch, run: Callable[..., Batch] = call) -> Iterator[Batch]:
        """The batches of all epochs from a rollout's rows `[S, R, ...]`, on their device.

        Args:
            run: calls a function with arguments, maybe as a program.
        """
        for _ in range(self.epochs):
            if self.minibatches == 1:  # an order would change nothing
                yield rows
                continue
            shuffled = run(self._shuffled, rows)
            parts = {name: value.tensor_split(self.minibatches, dim=1) for name, value in shuffled.items()}
            for i in range(self.minibatches):
                yield {name: part[i] for name, part in parts.items()}

    def _shuffled(self, rows: Batch) -> Batch:
        """The rows of each member in an order of its own."""
        size = next(iter(rows.values())).shape[1]
        # Each member's rows behind those of the members before: one flat index gathers faster than two.
        first = torch.arange(self.storage.members, device=self.storage.device).unsqueeze(1) * size
        order = self.draws.permutation(size) + first
        return {name: take_rows(value, order) for name, value in rows.items()}


def read_rollout(storage: Storage, steps: int) -> Batch:
    """The newest T rows of every lane.

    Returns:
        `obs [S, N, T + 1, ...]`, the last one being what the newest action led to or what was acted on next; `row`, and
        all other fields, `[S, N, T, ...]`; `final_obs [S, K, ...]` with `final_row [S, K]`: the successors that the env
        hid by resetting at once, and the rows `n * T + t` that they follow. Every other row's successor is the next row
        of `obs`. K is the largest number of a member; where one has fewer, `final_row` is `N * T`, which is not a row.

    Raises:
        RlabError: there are no T rows yet.
    """
    if storage.rows < steps:
        raise RlabError(f"the storage has {storage.rows} of the {steps} rows of a rollout; collect before reading.")
    num_envs, first = storage.num_envs, storage.clock() - steps
    batch = storage.read_lanes(first, steps + 1, "obs")
    batch |= storage.read_lanes(first, steps, *(f.name for f in storage.fields if f.name != "obs"))
    time = first + torch.arange(steps, device=storage.device)
    env = torch.arange(num_envs, device=storage.device).unsqueeze(1)
    batch["row"] = (time * num_envs + env).expand(batch["reward"].shape)
    batch["final_obs"], batch["final_row"] = storage.hidden_successors(first, steps)
    return batch


def take_rows(value: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows `[S, B, ...]` of `value [S, R, ...]`; `index [S, B]` counts rows through all members."""
    return value.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)


def check_length(storage: Storage, length: int) -> None:
    """Raise UsageError where a lane of the storage is shorter than a window."""
    if length <= storage.lane_rows:
        return
    if storage.demonstrated:
        raise UsageError(f"the demonstrations have {storage.lane_rows} rows, fewer than a sequence of {length}.")
    raise UsageError(
        f"the storage keeps {storage.lane_rows} rows of each of {storage.num_envs} envs, fewer than a sequence "
        f"of {length}; raise --replay-capacity."
    )


def check_held(storage: Storage, length: int) -> None:
    """Raise RlabError where a lane holds fewer rows than a window."""
    if storage.rows < length:
        raise RlabError(f"the storage has {storage.rows} of the {length} rows of a sequence; raise --learning-starts.")


class SequenceSampler(RandomSampler):
    """Windows of `length` rows of one lane in time order, for agents with memory. Their first rows are drawn uniformly,
    so that episodes may begin, end and be reset inside a window.

    Args:
        storage: what the rows are drawn from.
        draws: one stream per member.
        length: L, rows in a window.

    Raises:
        UsageError: a lane of the storage is shorter than a window.
    """

    draws_ahead = False  # a window holds many rows already

    def __init__(self, storage: Storage, draws: Draws, length: int) -> None:
        super().__init__(storage, draws)
        check_length(storage, length)
        self.length = length

    def check(self) -> None:
        """Raise RlabError where a lane holds fewer rows than a window."""
        check_held(self.storage, self.length)

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_sequences` gives it."""
        return read_sequences(self.storage, self._draw(batch_size), self.length)

    def _draw(self, batch_size: int) -> Tensor:
        """The ids of first rows `[S, batch_size]` behind which a whole window is held."""
        storage, held = self.storage, self.storage.held()
        if storage.last_rows is not None:  # the members' numbers of rows differ, and must not matter to each other
            starts = (storage.last_rows + 2 - self.length).clamp(min=1)  # behind the last start, [S, 1]
            return self.draws.integers(starts, batch_size)
        in_lanes = (held - self.length + 1) * storage.num_envs  # in all lanes of a member
        return (storage.clock() - held) * storage.num_envs + self.draws.integers(in_lanes, batch_size)


def read_sequences(storage: Storage, row: Tensor, length: int) -> Batch:
    """Windows of `length` rows that begin at the rows with the ids `row [S, B]`; they must be held.

    Returns:
        `row [S, B]`; all fields `[S, B, L, ...]`, among them `valid`, which is false for a reset row; `next_obs
        [S, B, L, *obs]`, what each row led to; `begins [S, B, L]`, true where an episode begins, or a reset row comes:
        the row before ended an episode or is a reset row, or there is none. Whether one begins at the oldest row held
        is not known, and counts as false. Of demonstrations also `demonstration [S, B]`, which is true.
    """
    num_envs = storage.num_envs
    rows = row.unsqueeze(-1) + torch.arange(length, device=row.device) * num_envs  # [S, B, L]
    batch = storage.read(rows, *(f.name for f in storage.fields), "next_obs")
    # The row before; where that is not held, the row itself stands in.
    known = row - num_envs >= (storage.clock() - storage.held()) * num_envs
    earlier = torch.where(known, row - num_envs, row)
    before = storage.read(earlier, "terminated", "truncated", "valid")
    over, over_before = (r["terminated"] | r["truncated"] | ~r["valid"] for r in (batch, before))
    begins = torch.cat([(over_before & known).unsqueeze(-1), over[..., :-1]], dim=-1)
    batch["begins"] = begins | (rows < num_envs)
    batch["row"] = row
    if storage.demonstrated:
        batch["demonstration"] = torch.ones_like(row, dtype=torch.bool)
    return batch
