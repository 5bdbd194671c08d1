"""Samplers that keep rows in time order: whole rollouts, and windows of a fixed length for recurrent agents."""

from collections.abc import Iterator

import numpy as np
import torch

from rlab.errors import RlabError, UsageError
from rlab.experience.samplers import Batch, RandomSampler, Streams
from rlab.experience.storage import Storage


class RolloutSampler(RandomSampler):
    """The newest T rows of every lane, learned from once and in shuffled minibatches, each member in its own order.

    Args:
        storage: of T rows in each lane or more.
        streams: one per member, for the orders.
        steps: T, vector steps of a rollout.
        epochs: passes over each rollout.
        minibatches: parts of each pass, as equal as the number of rows allows; 1 keeps the time order.
    """

    draws_ahead = False

    def __init__(self, storage: Storage, streams: Streams, steps: int, epochs: int = 1, minibatches: int = 1) -> None:
        super().__init__(storage, streams)
        self.steps, self.epochs, self.minibatches = steps, epochs, minibatches

    @property
    def full(self) -> bool:
        """Whether the newest row completed a rollout."""
        return self.storage.rows_written > 0 and self.storage.rows_written % self.steps == 0

    def sample(self, batch_size: int = 0) -> Batch:
        """The newest rollout as `read_rollout` gives it; it is read whole, whatever the batch size."""
        return read_rollout(self.storage, self.steps)

    def batches(self, rows: Batch) -> Iterator[Batch]:
        """The batches of all epochs from a rollout's rows `[S, R, ...]`, on their device."""
        size = next(iter(rows.values())).shape[1]
        # Each member's rows behind those of the members before: one flat index gathers faster than two.
        first = np.arange(self.storage.members)[:, None] * size
        for _ in range(self.epochs):
            if self.minibatches == 1:  # an order would change nothing
                yield rows
                continue
            order = torch.from_numpy(np.stack([s.permutation(size) for s in self.streams]) + first)
            shuffled = {name: take_rows(value, order.to(value.device)) for name, value in rows.items()}
            parts = {name: value.tensor_split(self.minibatches, dim=1) for name, value in shuffled.items()}
            for i in range(self.minibatches):
                yield {name: part[i] for name, part in parts.items()}


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
    num_envs = storage.num_envs
    time = np.arange(storage.rows_written - steps, storage.rows_written + 1)
    inside = time[:-1]
    batch = storage.read_lanes(time, "obs")
    batch |= storage.read_lanes(inside, *(f.name for f in storage.fields if f.name != "obs"))
    batch["row"] = np.empty(batch["reward"].shape, np.int64)
    batch["row"][...] = inside * num_envs + np.arange(num_envs)[:, None]
    batch["final_obs"], batch["final_row"] = storage.hidden_successors(inside)
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def take_rows(value: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows `[S, B, ...]` of `value [S, R, ...]`; `index [S, B]` counts rows through all members."""
    return value.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)


class SequenceSampler(RandomSampler):
    """Windows of `length` rows of one lane in time order, for agents with memory. Their first rows are drawn uniformly,
    so that episodes may begin, end and be reset inside a window.

    Args:
        storage: what the rows are drawn from.
        streams: one per member.
        length: L, rows in a window.

    Raises:
        UsageError: a lane of the storage is shorter than a window.
    """

    draws_ahead = False  # a window holds many rows already

    def __init__(self, storage: Storage, streams: Streams, length: int) -> None:
        super().__init__(storage, streams)
        if length > storage.lane_rows:
            if storage.demonstrated:
                raise UsageError(
                    f"the demonstrations have {storage.lane_rows} rows, fewer than a sequence of {length}."
                )
            raise UsageError(
                f"the storage keeps {storage.lane_rows} rows of each of {storage.num_envs} envs, fewer than a sequence "
                f"of {length}; raise --replay-capacity."
            )
        self.length = length

    def sample(self, batch_size: int) -> Batch:
        """A batch as `read_sequences` gives it.

        Raises:
            RlabError: a lane holds fewer rows than a window.
        """
        return read_sequences(self.storage, self._draw(batch_size), self.length)

    def _draw(self, batch_size: int) -> np.ndarray:
        """The ids of first rows `[S, batch_size]` behind which a whole window is held."""
        storage = self.storage
        starts = storage.rows - self.length + 1  # in each lane
        if starts < 1:
            raise RlabError(
                f"the storage has {storage.rows} of the {self.length} rows of a sequence; raise --learning-starts."
            )
        if storage.own_rows is not None:  # the members' numbers of rows differ, and must not matter to each other
            ends = [np.maximum(own[-1] + 2 - self.length, 1) for own in storage.own_rows]  # behind the last start
            pairs = zip(ends, self.streams, strict=True)
            return np.stack([s.integers(end, size=batch_size) for end, s in pairs])
        first = (storage.rows_written - storage.rows) * storage.num_envs
        return first + np.stack([s.integers(starts * storage.num_envs, size=batch_size) for s in self.streams])


def read_sequences(storage: Storage, row: np.ndarray, length: int) -> Batch:
    """Windows of `length` rows that begin at the rows with the ids `row [S, B]`; they must be held.

    Returns:
        `row [S, B]`; all fields `[S, B, L, ...]`, among them `valid`, which is false for a reset row; `next_obs
        [S, B, L, *obs]`, what each row led to; `begins [S, B, L]`, true where an episode begins, or a reset row comes:
        the row before ended an episode or is a reset row, or there is none. Whether one begins at the oldest row held
        is not known, and counts as false. Of demonstrations also `demonstration [S, B]`, which is true.
    """
    num_envs = storage.num_envs
    rows = row[..., None] + np.arange(length) * num_envs  # [S, B, L]
    batch = storage.read(rows, *(f.name for f in storage.fields))
    oldest = (storage.rows_written - storage.rows) * num_envs
    before = storage.read(np.maximum(row - num_envs, oldest), "terminated", "truncated", "valid")
    after = {name: np.concatenate([before[name][..., None], batch[name][..., :-1]], axis=-1) for name in before}
    begins = after["terminated"] | after["truncated"] | ~after["valid"]
    begins[..., 0] &= row - num_envs >= oldest
    batch["begins"] = begins | (rows < num_envs)
    batch |= {"row": row, "next_obs": storage.successors(rows)}
    if storage.demonstrated:
        batch["demonstration"] = np.ones(row.shape, bool)
    return {name: torch.from_numpy(value) for name, value in batch.items()}
