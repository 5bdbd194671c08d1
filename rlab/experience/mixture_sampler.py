"""Batches that two samplers give together: rows from the env and demonstrations."""

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from rlab.errors import RlabError, UsageError
from rlab.experience.samplers import Batch, Sampler

SHARES = 1_000_000  # a share of a batch is a fraction with at most this denominator


class MixtureSampler:
    """Batches with a share of demonstrations (Hester et al. 2018; Ball et al. 2023).

    Row i of a batch is a demonstration where `floor((i + 1) * share) > floor(i * share)`, so that a batch that is cut
    up gives its share to each part. `demonstration [S, B]` says which; `row` is its id in the storage it came from.

    Args:
        online, demonstrations: samplers of the same kind; each has streams of its own.
        share: of every batch that is demonstrated, in [0, 1].

    Raises:
        UsageError: the share is not in [0, 1].
    """

    def __init__(self, online: Sampler, demonstrations: Sampler, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise UsageError(f"the share of demonstrations in a batch must be in [0, 1], not {share}.")
        self.online, self.demonstrations = online, demonstrations
        self.draws_ahead = online.draws_ahead and demonstrations.draws_ahead
        self._share = Fraction(share).limit_denominator(SHARES)  # 0.29 * 100 is less than 29 in floats

    def sample(self, batch_size: int) -> Batch:
        """A batch of both, the demonstrations spread evenly over it.

        Raises:
            RlabError: the two samplers give batches with different fields, or one of them cannot draw.
        """
        count = self._shown(batch_size)
        if count == batch_size:
            return self.demonstrations.sample(batch_size)
        batch = self.online.sample(batch_size - count)
        batch["demonstration"] = torch.zeros_like(batch["row"], dtype=torch.bool)
        if not count:
            return batch
        shown = self.demonstrations.sample(count)
        if shown.keys() != batch.keys():
            raise RlabError(f"batches with {', '.join(batch)} cannot be mixed with {', '.join(shown)}.")
        place = self._in_order(batch_size, batch["row"].device).argsort()
        return {name: torch.cat([batch[name], shown[name]], dim=1).index_select(1, place) for name in batch}

    def check(self) -> None:
        """As both samplers, where something is drawn from them."""
        if self._share < 1:
            self.online.check()
        if self._share > 0:
            self.demonstrations.check()

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """Hand each value to the sampler that its row came from."""
        first = row.shape[1] - self._shown(row.shape[1])
        order = self._in_order(row.shape[1], row.device)
        for part, chosen in ((self.online, order[:first]), (self.demonstrations, order[first:])):
            if len(chosen):
                part.feedback(row[:, chosen], value[:, chosen])

    def _shown(self, rows: int) -> int:
        """How many of the first rows of a batch are demonstrations."""
        return rows * self._share.numerator // self._share.denominator

    def _in_order(self, batch_size: int, device: torch.device) -> Tensor:
        """The rows `[B]` of a batch: those from the env, then the demonstrations."""
        passed = torch.arange(batch_size + 1, device=device) * self._share.numerator // self._share.denominator
        return passed.diff().argsort(stable=True)

    def state(self) -> dict[str, Any]:
        return {"online": self.online.state(), "demonstrations": self.demonstrations.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.online.load_state(state["online"])
        self.demonstrations.load_state(state["demonstrations"])
