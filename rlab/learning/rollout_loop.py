"""The loop of agents that learn from rollouts."""

from collections.abc import Iterator

from torch import Tensor

from rlab.experience.sequence_samplers import RolloutSampler
from rlab.learning.contract import Batch
from rlab.learning.loop import EnvLoop


class RolloutLoop(EnvLoop):
    """Learns from every rollout when it is full, in the minibatches of the sampler.

    What is left when the budget ends, less than a rollout, is not learned from.
    """

    stream_use = "minibatches"
    sampler: RolloutSampler

    def _batches_due(self, before: int) -> Iterator[tuple[Batch, Tensor]]:
        if not self.sampler.full:
            return
        rollout = self.sampler.sample()
        rows = self.agent.prepare({name: value.to(self.agent.device) for name, value in rollout.items()})
        for batch in self.sampler.batches(rows):
            yield batch, rollout["row"]
