"""What every step of a window of several led to, for what is paid step by step: novelty, and goals in hindsight."""

from typing import Any

import torch
from torch import Tensor

from rlab.experience.samplers import Batch, Sampler
from rlab.experience.storage import Storage


class SuccessorSampler:
    """Windows that another sampler draws from `storage`, with `successors [S, B, n, *obs]`: what each of their steps
    led to, meaningless behind a window's end."""

    def __init__(self, sampler: Sampler, storage: Storage) -> None:
        self.sampler, self.storage, self.draws_ahead = sampler, storage, sampler.draws_ahead

    def sample(self, batch_size: int) -> Batch:
        """A batch of the other sampler and its successors; sequences, which have them, as they are."""
        batch = self.sampler.sample(batch_size)
        if "steps" not in batch:
            return batch
        return {**batch, "successors": read_successors(self.storage, batch["row"], batch["reward"].shape[-1])}

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """The other sampler hears it."""
        self.sampler.feedback(row, value)

    def check(self) -> None:
        """As the other sampler."""
        self.sampler.check()

    def state(self) -> dict[str, Any]:
        """That of the other sampler."""
        return self.sampler.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.sampler.load_state(state)


def read_successors(storage: Storage, row: Tensor, n_step: int) -> Tensor:
    """What each step of the windows that begin at the rows with the ids `row [S, B]` led to, `[S, B, n_step, *obs]`."""
    rows = row.unsqueeze(-1) + torch.arange(n_step, device=row.device) * storage.num_envs
    return storage.read(rows, "next_obs")["next_obs"]
