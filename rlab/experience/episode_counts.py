"""Counts every episode's return and length, in tensors that are changed in place so that it can be part of a program.
The host asks for the finished episodes when it looks in."""

from typing import NamedTuple

import numpy as np
import torch

from rlab.draws import in_program
from rlab.experience.columns import Column
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field


class Episode(NamedTuple):  # a GPU finishes hundreds of thousands in a second
    """One finished episode: who played it in which env, its undiscounted return and its length in transitions.

    `steps_ago` says how many vector steps before the newest one it ended.
    """

    member: int
    env: int
    episode_return: float
    length: int
    steps_ago: int = 0


class EpisodeCounts:
    """The return and length of each episode so far, and those that ended in the newest vector steps.

    Args:
        members, num_envs: S and N.
        device: where they are counted.
        looked: vector steps between two calls of `finished`, at most.
    """

    def __init__(self, members: int, num_envs: int, device: torch.device, looked: int) -> None:
        self._device, self._looked = device, looked
        self._transitions = torch.zeros(members, dtype=torch.int64, device=device)  # without reset rows
        self._episodes = torch.zeros_like(self._transitions)
        self._returns = torch.zeros(members, num_envs, dtype=torch.float64, device=device)
        self._lengths = torch.zeros(members, num_envs, dtype=torch.int64, device=device)
        # What ended in the newest vector steps; the length is 0 where the episode goes on.
        lanes = (members, looked, num_envs)
        self._ended_returns = Column(lanes, Field("return", (), "float64"), device)
        self._ended_lengths = Column(lanes, Field("length", (), "int64"), device)
        self._counted = 0  # vector steps
        self._time = torch.zeros(1, dtype=torch.int64, device=device)  # the same, for programs
        self._unseen = 0  # of them since the last look
        self._maybe_ended = False  # whether anything may have ended in those

    @property
    def transitions(self) -> np.ndarray:
        """Per member `[S]`, without reset rows."""
        count: np.ndarray = self._transitions.cpu().numpy()
        return count

    @property
    def episodes(self) -> np.ndarray:
        """Finished ones per member `[S]`."""
        count: np.ndarray = self._episodes.cpu().numpy()
        return count

    def begin(self) -> None:
        """Fresh episodes begin in every env; those under way are forgotten."""
        self._returns.zero_()
        self._lengths.zero_()

    def count(self, step: Step) -> None:
        """What a vector step led to."""
        if step.all_valid:
            self._returns += step.reward
            self._lengths += 1
            self._transitions += step.reward.shape[1]
        else:
            self._returns += step.reward * step.valid
            self._lengths += step.valid
            self._transitions += step.valid.sum(dim=1)
        if step.cuts:  # what an env that failed had played is not an episode
            self._returns.masked_fill_(~step.valid, 0.0)
            self._lengths.masked_fill_(~step.valid, 0)
        slot = (self._time if in_program(self._device) else self._counted) % self._looked
        self._time += 1
        if step.none_ended:
            self._ended_lengths.clear(slot)
            return
        ended = step.valid & (step.terminated | step.truncated)
        self._ended_returns.put(slot, self._returns)
        self._ended_lengths.put(slot, self._lengths * ended)
        self._episodes += ended.sum(dim=1)
        self._returns.masked_fill_(ended, 0.0)
        self._lengths.masked_fill_(ended, 0)

    def took(self, steps: int, maybe_ended: bool) -> None:
        """The host's part of so many vector steps; `maybe_ended`: whether an episode may have ended in them."""
        self._counted += steps
        self._unseen += steps
        self._maybe_ended |= maybe_ended

    def finished(self) -> list[Episode]:
        """The episodes that ended since the last look, in the order of time."""
        unseen, maybe, self._unseen, self._maybe_ended = self._unseen, self._maybe_ended, 0, False
        if not maybe:
            return []
        slots = torch.arange(self._counted - unseen, self._counted, device=self._device) % self._looked
        returns, lengths = (
            column.lanes(slots).movedim(2, 0).cpu().numpy() for column in (self._ended_returns, self._ended_lengths)
        )
        step, member, env = np.nonzero(lengths != 0)  # a third of the time of numbers
        ended = (member, env, returns[step, member, env], lengths[step, member, env], unseen - 1 - step)
        return list(map(Episode, *(values.tolist() for values in ended)))

    def load_counts(self, transitions: np.ndarray, episodes: np.ndarray) -> None:
        """Go on counting from these."""
        self._transitions.copy_(torch.from_numpy(transitions))
        self._episodes.copy_(torch.from_numpy(episodes))
