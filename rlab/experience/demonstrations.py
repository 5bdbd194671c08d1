"""Demonstrations with a seed axis: recorded episodes as a replay that is full from the start, and an online replay in
which a share of every batch comes from them."""

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch

from rlab.errors import RlabError, UsageError
from rlab.experience.dataset import Dataset, Episode, action_field
from rlab.experience.lanes import Chunk, Field
from rlab.experience.replay import Replay
from rlab.randomness import stream

SHARES = 1_000_000  # a share of a batch is a fraction with at most this denominator


def choose_episodes(dataset: Dataset, seeds: Sequence[int], episodes: int | None) -> list[np.ndarray]:
    """Which episodes each member learns from: all, or so many of its own, drawn without replacement, in order.

    Raises:
        UsageError: there are not so many.
    """
    known = len(dataset.episodes)
    if episodes is None:
        return [np.arange(known) for _ in seeds]
    if not 1 <= episodes <= known:
        raise UsageError(f"the dataset {dataset.name} has {known} episodes; {episodes} of them cannot be taken.")
    return [np.sort(stream(seed, "dataset episodes").choice(known, episodes, replace=False)) for seed in seeds]


def filled_replay(dataset: Dataset, seeds: Sequence[int], episodes: int | None = None) -> "Demonstrations":
    """The demonstrations of each member, as `choose_episodes` deals them out."""
    return Demonstrations(dataset, choose_episodes(dataset, seeds, episodes))


class Demonstrations(Replay):
    """A replay of one lane per member that holds whole episodes, one after another.

    An episode of T transitions takes T + 1 rows: its last observation stands in a row that is no transition, so that a
    successor is always the next row. Rows behind a member's last episode are no transitions either. An episode that was
    cut by the recording counts as truncated.

    Args:
        dataset: what there is.
        chosen: for each member the indices of its episodes.

    Raises:
        UsageError: they do not fit into memory.
    """

    def __init__(self, dataset: Dataset, chosen: Sequence[np.ndarray]) -> None:
        self.dataset, self.chosen = dataset, tuple(chosen)
        rows = [int((dataset.lengths[indices] + 1).sum()) for indices in chosen]
        obs = Field("obs", dataset.obs_space.shape, dataset.obs_space.dtype)
        super().__init__(len(rows), 1, max(rows), obs, action_field(dataset.action_space))
        for member, indices in enumerate(chosen):
            first = 0
            for index in indices:
                first = self._write(member, first, dataset.episodes[index])
        self.rows_written = max(rows)
        self._valid_rows = [np.flatnonzero(member) for member in self._data["valid"][:, 0]]

    def _write(self, member: int, first: int, episode: Episode) -> int:
        """Put an episode into rows `first ..` of a member's lane; the row behind it."""
        last = first + episode.length
        lane = {name: data[member, 0] for name, data in self._data.items()}
        lane["obs"][first : last + 1] = episode.obs
        lane["action"][first:last] = episode.action
        lane["reward"][first:last] = episode.reward
        lane["valid"][first:last] = True
        lane["terminated"][last - 1] = episode.terminated
        lane["truncated"][last - 1] = not episode.terminated
        return last + 1

    def sample(
        self, streams: Sequence[np.random.Generator], batch_size: int, n_step: int = 1
    ) -> dict[str, torch.Tensor]:
        """Windows as from any replay, and `demonstration [S, B]`, which is true."""
        batch = super().sample(streams, batch_size, n_step)
        return {**batch, "demonstration": torch.ones(self.members, batch_size, dtype=torch.bool)}

    def _draw(self, streams: Sequence[np.random.Generator], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        # Among a member's own transitions: how many rows the others have must not matter to it.
        pairs = zip(self._valid_rows, streams, strict=True)
        time = np.stack([rows[s.integers(len(rows), size=batch_size)] for rows, s in pairs])
        return np.broadcast_to(self._lane_start, time.shape), time

    def observations(self) -> tuple[np.ndarray, np.ndarray]:
        """All that was acted on, for running statistics: `obs [S, R, *obs]`, and which rows count, `valid [S, R]`."""
        return self._data["obs"][:, 0, : self.rows], self._data["valid"][:, 0, : self.rows]

    def rows_in_order(self, limit: int | None = None) -> dict[str, torch.Tensor]:
        """Every transition of each member in order, as `sample` gives windows of one, with `valid [S, R]`.

        R is the largest number of a member, at most `limit`; where one has fewer, the rest repeats its last one and is
        not valid.
        """
        counts = np.array([len(rows) for rows in self._valid_rows])
        order = np.arange(min(counts.max(), limit or counts.max()))  # [R]
        time = np.stack([rows[np.minimum(order, len(rows) - 1)] for rows in self._valid_rows])  # [S, R]
        lane = np.broadcast_to(self._lane_start, time.shape)
        names = ("obs", "action", "terminated", "truncated")
        batch = {name: self._flat[name].take(lane + time, axis=0) for name in names}
        batch["reward"] = self._flat["reward"].take(lane + time)[..., None]
        batch["steps"] = np.ones_like(time)
        batch["next_obs"] = self._successors(lane, time)
        batch["valid"] = order < counts[:, None]
        batch["demonstration"] = np.ones_like(batch["valid"])
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def split(self, fraction: float, seeds: Sequence[int]) -> tuple["Demonstrations", "Demonstrations | None"]:
        """Each member's episodes in two parts: what to learn from, and a share to be held out, whole episodes each.

        Each part has one episode at least; with a fraction of 0 nothing is held out.

        Args:
            seeds: the training seed of each member; every one deals its own episodes.

        Raises:
            UsageError: the fraction is not in [0, 1), or a member has one episode only.
        """
        if not 0.0 <= fraction < 1.0:
            raise UsageError(f"a share of {fraction} of the episodes cannot be held out; it must be in [0, 1).")
        if fraction == 0.0:
            return self, None
        held_out, kept = [], []
        for seed, indices in zip(seeds, self.chosen, strict=True):
            if len(indices) < 2:
                raise UsageError(
                    f"the dataset {self.dataset.name} gives one episode to each member, and none is left to hold out; "
                    "record more, or hold out a share of 0."
                )
            count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
            order = stream(seed, "validation").permutation(len(indices))
            held_out.append(indices[np.sort(order[:count])])
            kept.append(indices[np.sort(order[count:])])
        return Demonstrations(self.dataset, kept), Demonstrations(self.dataset, held_out)

    @cached_property
    def _fingerprint(self) -> str:
        """SHA-256 of all rows."""
        digest = hashlib.sha256()
        for name in sorted(self._data):
            digest.update(np.ascontiguousarray(self._data[name][:, :, : self.rows]).data)
        return digest.hexdigest()

    def chunks(self) -> Iterator[Chunk]:
        """None: a checkpoint does not hold the data, which is read again."""
        return iter(())

    def state(self) -> dict[str, Any]:
        """What tells whether the data that is read again is the same."""
        return {"dataset": self.dataset.name, "sha256": self._fingerprint}

    def load(self, state: dict[str, Any], chunks: Iterator[dict[str, np.ndarray]]) -> None:
        """Check that these are the demonstrations that the state was taken of.

        Raises:
            RlabError: they are others.
        """
        if state["sha256"] != self._fingerprint:
            raise RlabError(
                f"the dataset {self.dataset.name} is not the one that this run began with, {state['dataset']}; "
                "a run goes on only with the same episodes."
            )


class DemonstrationReplay(Replay):
    """An online replay with a share of every batch from demonstrations (Hester et al. 2018; Ball et al. 2023).

    Row i of a batch is a demonstration where `floor((i + 1) * share) > floor(i * share)`, so that a batch that is cut
    into smaller ones gives each of them its share.

    Args:
        members, num_envs, capacity, obs, action: as for `Replay`; they count the online rows.
        demonstrations: of the same members, with the same fields.
        share: of every batch, in [0, 1].
        seeds: the training seed of each member; demonstrations are drawn from streams of their own.

    Raises:
        UsageError: the share is no share, or as `Replay`.
        ValueError: the demonstrations have other members or fields.
    """

    def __init__(
        self,
        members: int,
        num_envs: int,
        capacity: int,
        obs: Field,
        action: Field,
        demonstrations: Replay,
        share: float,
        seeds: Sequence[int],
    ) -> None:
        super().__init__(members, num_envs, capacity, obs, action)
        if not 0.0 <= share <= 1.0:
            raise UsageError(f"the share of demonstrations in a batch must be in [0, 1], not {share}.")
        if (demonstrations.members, demonstrations.fields) != (members, self.fields) or len(seeds) != members:
            raise ValueError(f"demonstrations of {demonstrations.members} members do not fit a replay of {members}")
        self.demonstrations = demonstrations
        self._share = Fraction(share).limit_denominator(SHARES)  # 0.29 * 100 is less than 29 in floats
        self._own_streams = [stream(seed, "demonstrations") for seed in seeds]

    def sample(
        self, streams: Sequence[np.random.Generator], batch_size: int, n_step: int = 1
    ) -> dict[str, torch.Tensor]:
        """Windows as from `Replay`, and `demonstration [S, B]`, true where one is demonstrated.

        Args:
            streams: of the online rows.
        """
        demonstrated = self._demonstrated(batch_size)
        count = int(demonstrated.sum())
        if count == batch_size:
            return self.demonstrations.sample(self._own_streams, batch_size, n_step)
        batch = super().sample(streams, batch_size - count, n_step)
        batch["demonstration"] = torch.zeros(self.members, batch_size - count, dtype=torch.bool)
        if not count:
            return batch
        shown = self.demonstrations.sample(self._own_streams, count, n_step)
        place = torch.from_numpy(np.argsort(np.argsort(demonstrated, kind="stable"), kind="stable"))
        return {name: torch.cat([batch[name], shown[name]], dim=1)[:, place] for name in batch}

    def _demonstrated(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch are demonstrations, bool `[B]`."""
        passed = np.arange(batch_size + 1) * self._share.numerator // self._share.denominator
        demonstrated: np.ndarray = np.diff(passed) > 0
        return demonstrated

    def state(self) -> dict[str, Any]:
        """As of any replay, with the streams of the demonstrations and what tells these from others."""
        streams = [s.bit_generator.state for s in self._own_streams]
        return {**super().state(), "demonstrations": {**self.demonstrations.state(), "streams": streams}}

    def load(self, state: dict[str, Any], chunks: Iterator[dict[str, np.ndarray]]) -> None:
        """As any replay; the demonstrations must be the same as when it was saved.

        Raises:
            RlabError: they are others, or the chunks do not fit.
        """
        shown = state["demonstrations"]
        self.demonstrations.load(shown, iter(()))
        super().load(state, chunks)
        for s, saved in zip(self._own_streams, shown["streams"], strict=True):
            s.bit_generator.state = saved
