"""The loop of agents that learn from rollouts."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from rlab.experience.sequence_samplers import RolloutSampler
from rlab.learning.contract import Batch, CarriesEpisodes, FollowsRollouts
from rlab.learning.loop import EnvLoop
from rlab.types import Clock


class RolloutLoop(EnvLoop):
    """Learns from every rollout when it is full, in the minibatches of the sampler.

    What is left when the budget ends, less than a rollout, is not learned from.
    """

    stream_use = "minibatches"
    sampler: RolloutSampler

    def _cut_episodes(self) -> None:
        super()._cut_episodes()
        if isinstance(self.agent, CarriesEpisodes) and (self.sampler.full or not self.storage.rows_written):
            self.agent.cut_episodes()  # within a rollout the cut rows say so

    def _due(self, time: Clock) -> int:
        # Storage counts on where a run is resumed, as the clock does.
        full = time.env_steps // time.per_step % self.sampler.steps == 0
        return self.sampler.epochs * self.sampler.minibatches if full else 0

    def _batches_due(self, before: int) -> Iterator[tuple[Batch, Tensor]]:
        if not self.sampler.full:
            return
        rollout = self._run("sample", self._rollout)
        rows = self._run("prepare", self.agent.prepare, rollout)
        for batch in self.sampler.batches(rows, partial(self._run, "shuffle")):
            yield batch, rollout["row"]
        if isinstance(self.agent, FollowsRollouts):
            self._run("follow", self.agent.rollout_learned, rollout)

    def _rollout(self) -> Batch:
        """The rollout; rows of members that were dropped do not count."""
        rollout = self.sampler.sample()
        return {**rollout, "valid": self.members.rows(rollout["valid"])}
