"""Means over the episodes that training finished, and listeners to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlab.experience.episode_counts import Episode
from rlab.types import Clock


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """One episode of training that ended, by itself or by a time limit."""

    seed: int  # training seed of the member that played it
    env: int  # which of the member's envs, from 0
    episode_return: float  # undiscounted
    length: int  # transitions
    env_steps: int  # the run's clock when it ended


Hear = Callable[[Sequence[FinishedEpisode]], None]  # of one vector step, or of those of one captured cycle


class EpisodeBook:
    """Mean return and length per member since the last row of metrics; passes the episodes to `hearers`, who are in
    slots as a loop's `HostSide` is."""

    __slots__ = ("_counts", "_hearers", "_lengths", "_returns", "_seeds")

    def __init__(self, seeds: Sequence[int], hearers: Sequence[Hear] = ()) -> None:
        self._seeds, self._hearers = tuple(seeds), tuple(hearers)
        self._begin()

    def _begin(self) -> None:
        self._returns, self._lengths, self._counts = np.zeros((3, len(self._seeds)))

    def add(self, episodes: Sequence[Episode], clock: Clock) -> None:
        """These ended, `steps_ago` vector steps before this time."""
        members = [e.member for e in episodes]
        np.add.at(self._returns, members, [e.episode_return for e in episodes])
        np.add.at(self._lengths, members, [e.length for e in episodes])
        np.add.at(self._counts, members, 1)
        if self._hearers:
            seeds = self._seeds
            ended = [
                FinishedEpisode(seeds[e.member], e.env, e.episode_return, e.length, clock.after(-e.steps_ago).env_steps)
                for e in episodes
            ]
            for hear in self._hearers:
                hear(ended)

    def state(self) -> dict[str, Any]:
        """The sums and counts since the last row of metrics."""
        return {"returns": self._returns.copy(), "lengths": self._lengths.copy(), "counts": self._counts.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self._returns, self._lengths, self._counts = (
            np.array(state[name], np.float64) for name in ("returns", "lengths", "counts")
        )

    def take(self) -> dict[str, np.ndarray]:
        """The means `[S]`, NaN where a member finished none; starts over."""
        none = self._counts == 0
        count = np.where(none, np.nan, self._counts)
        means = {"train/episode_return": self._returns / count, "train/episode_length": self._lengths / count}
        self._begin()
        return means
