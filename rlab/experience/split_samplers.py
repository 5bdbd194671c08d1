"""Samplers whose minibatches are split over several processes: all of them draw the same rows, and each is given its
share."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.experience.samplers import Batch, Sampler
from rlab.experience.sequence_samplers import RolloutSampler, call
from rlab.ranks import Ranks


class SplitSampler:
    """A sampler of replay, of whose batches this process gets a share.

    Args:
        whole: draws from storage that is the same in every process.
        batch_size: rows of a whole batch of one member, which `ranks.count` divides.
    """

    def __init__(self, whole: Sampler, batch_size: int, ranks: Ranks) -> None:
        self._whole, self._batch_size, self._ranks = whole, batch_size, ranks
        self.draws_ahead = whole.draws_ahead

    def sample(self, batch_size: int) -> Batch:
        """This process's share of one batch or of several behind each other, as many rows as were asked for."""
        drawn, own = self._whole.sample(batch_size * self._ranks.count), self._ranks.own(self._batch_size)
        batches = {name: value.unflatten(1, (-1, self._batch_size)) for name, value in drawn.items()}
        return {name: value[:, :, own].flatten(1, 2) for name, value in batches.items()}

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """What the update said of this process's rows `[S, B / count]`; the sampler is told of those of all."""
        self._whole.feedback(self._of_all(row), self._of_all(value))

    def check(self) -> None:
        """As of the whole sampler."""
        self._whole.check()

    def state(self) -> dict[str, Any]:
        return self._whole.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._whole.load_state(state)

    def _of_all(self, values: Tensor) -> Tensor:
        """`[S, B / count]` of every process, in their order, as `[S, B]`."""
        parts = self._ranks.gathered(values.cpu().numpy())  # [count, S, B / count]
        return torch.from_numpy(np.concatenate(list(parts), axis=1)).to(values.device)


class SplitRollouts(RolloutSampler):
    """A `RolloutSampler` like another, of whose minibatches this process gets a share."""

    def __init__(self, whole: RolloutSampler, ranks: Ranks) -> None:
        super().__init__(whole.storage, whole.draws, whole.steps, whole.epochs, whole.minibatches)
        self._ranks = ranks

    def batches(self, rows: Batch, run: Callable[..., Batch] = call) -> Iterator[Batch]:
        """This process's rows of each batch; the order in which rows are shuffled is that of all processes."""
        for batch in super().batches(rows, run):
            own = self._ranks.own(next(iter(batch.values())).shape[1])
            yield {name: value[:, own] for name, value in batch.items()}
