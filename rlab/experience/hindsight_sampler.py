"""Hindsight experience replay (Andrychowicz et al. 2017): replay read as if another goal had been desired."""

from typing import Any

import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.experience.goals import Goals
from rlab.experience.samplers import Batch, Sampler
from rlab.experience.sequence_samplers import take_rows
from rlab.experience.storage import Storage
from rlab.experience.successors import read_successors

# What goals are drawn from, section 4.5: those achieved from the row on, the one achieved last, any of the episode.
STRATEGIES = ("future", "final", "episode")


class HindsightSampler:
    """Windows that another sampler draws, k of every k + 1 with a goal that was achieved in the same episode.

    In a batch every (k + 1)th row keeps its goal, from a place on that is drawn for each batch: a sampler may give
    its rows in some order. In the others the desired goal of `obs` and `next_obs` is replaced, and every reward of the
    window computed anew, before the n-step sum. Where the env says whether a goal ends the episode, a window stops at
    the first step that achieves its new one, and `terminated` is that; else `terminated` is what it was. Where the
    episode really ended and does not for the new goal, the row counts as truncated.

    An episode under way ends, for its rows, at the newest row. Nothing is stored twice: goals are read from replay.

    Args:
        sampler: gives windows, as `read_windows` does, of `storage`.
        storage: it follows episodes from now on.
        goals: what the env says of them.
        draws: which goals, one stream per member.
        strategy: one of `STRATEGIES`.
        per_row: k, the rows with a new goal for each row that keeps its own.

    Raises:
        UsageError: the machine has no memory for the spans of episodes.
    """

    def __init__(
        self, sampler: Sampler, storage: Storage, goals: Goals, draws: Draws, strategy: str, per_row: int
    ) -> None:
        if storage.spans is None:
            storage.follow_episodes()
        assert storage.spans is not None
        self.spans = storage.spans
        self.sampler, self.storage, self.goals, self.draws = sampler, storage, goals, draws
        self.draws_ahead = sampler.draws_ahead
        self.strategy, self.per_row = strategy, per_row

    def sample(self, batch_size: int) -> Batch:
        """A batch of the other sampler, relabelled.

        Raises:
            UsageError: the other sampler gives something else than windows.
        """
        batch = self.sampler.sample(batch_size)
        if "steps" not in batch:
            raise UsageError(
                "--hindsight takes windows of transitions and cannot relabel sequences: take a network without memory."
            )
        count = batch_size - -(-batch_size // (self.per_row + 1))
        if not count:
            return batch
        number = torch.arange(count, device=self.storage.device)
        places = number + number // self.per_row + 1  # every one but the multiples of k + 1
        places = (places + self.draws.integers(batch_size, 1)) % batch_size  # [S, K]
        places = places + torch.arange(len(places), device=places.device).unsqueeze(1) * batch_size  # of all members
        old = {name: take_rows(value, places) for name, value in batch.items()}
        new = self._relabelled(old, self._goal(old["row"]))
        flat = places.flatten()
        return batch | {
            name: batch[name].flatten(0, 1).index_copy(0, flat, value.flatten(0, 1)).view(batch[name].shape)
            for name, value in new.items()
        }

    def _goal(self, row: Tensor) -> Tensor:
        """A goal `[S, K, g]` for each of the rows `[S, K]`: what some row of its episode led to."""
        storage, env = self.storage, row % self.storage.num_envs
        first, last = self.spans.of(row)
        time = last
        if self.strategy != "final":
            first = row // storage.num_envs if self.strategy == "future" else first
            time = first + self.draws.integers(last - first + 1, row.shape[1])
        led_to = storage.read(time * storage.num_envs + env, "next_obs")["next_obs"]
        return led_to[..., self.goals.places.achieved]

    def _relabelled(self, old: Batch, goal: Tensor) -> Batch:
        """What changes in windows `[S, K, ...]` with the desired goals `[S, K, g]`."""
        reward, steps = old["reward"], old["steps"]
        successors = self._successors(old)  # [S, K, n, F]
        achieved = successors[..., self.goals.places.achieved]
        desired = goal.unsqueeze(2).expand(achieved.shape)
        inside = torch.arange(reward.shape[-1], device=reward.device) < steps.unsqueeze(-1)  # [S, K, n]
        new: Batch = {}
        if self.goals.terminated is not None:
            ends = self.goals.terminated(achieved, desired) & inside
            inside = inside & (ends.long().cumsum(dim=-1) == ends)  # no step before has ended the episode
            ended = ends.any(dim=-1)
            new["steps"], new["terminated"] = inside.sum(dim=-1), ended
            new["truncated"] = (old["terminated"] | old["truncated"]) & ~ended
        last = (new.get("steps", steps) - 1).view(*steps.shape, 1, 1).expand(*steps.shape, 1, successors.shape[-1])
        new["obs"] = self._with_goal(old["obs"], goal)
        new["next_obs"] = self._with_goal(successors.gather(2, last)[:, :, 0], goal)
        if "successors" in old:
            new["successors"] = self._with_goal(successors, desired)
        new["reward"] = self.goals.reward(achieved, desired).to(reward.dtype).masked_fill(~inside, 0.0)
        return new

    def _successors(self, old: Batch) -> Tensor:
        """What each step of the windows led to, `[S, K, n, F]`; meaningless behind a window's end."""
        if old["reward"].shape[-1] == 1:
            return old["next_obs"].unsqueeze(2)
        if "successors" in old:
            return old["successors"]
        return read_successors(self.storage, old["row"], old["reward"].shape[-1])

    def _with_goal(self, obs: Tensor, goal: Tensor) -> Tensor:
        desired = self.goals.places.desired
        return torch.cat([obs[..., : desired.start], goal, obs[..., desired.stop :]], dim=-1)

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """The other sampler hears it."""
        self.sampler.feedback(row, value)

    def check(self) -> None:
        """As the other sampler."""
        self.sampler.check()

    def state(self) -> dict[str, Any]:
        """That of the other sampler, and where the random numbers of goals stand."""
        return {"windows": self.sampler.state(), "goals": self.draws.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.sampler.load_state(state["windows"])
        self.draws.load_state(state["goals"])
