"""Demonstrations with a seed axis: recorded episodes as a storage that is full from the start."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from rlab.errors import RlabError, UsageError
from rlab.experience.dataset import Dataset, Episode, action_field
from rlab.experience.fields import Field
from rlab.experience.samplers import read_windows
from rlab.experience.storage import Storage
from rlab.experience.storage_chunks import Chunk
from rlab.randomness import stream


def choose_episodes(dataset: Dataset, seeds: Sequence[int], episodes: int | None) -> list[np.ndarray]:
    """Which episodes each member learns from: all, or `episodes` of its own, drawn without replacement, in order.

    Raises:
        UsageError: the dataset has fewer episodes.
    """
    known = len(dataset.episodes)
    if episodes is None:
        return [np.arange(known) for _ in seeds]
    if not 1 <= episodes <= known:
        has = f"the dataset {dataset.name} has {known} episodes"
        raise UsageError(f"{has}; choose 1 to {known} of them, not {episodes}.")
    return [np.sort(stream(seed, "dataset episodes").choice(known, episodes, replace=False)) for seed in seeds]


def demonstrations_of(
    dataset: Dataset, seeds: Sequence[int], episodes: int | None = None, device: torch.device | str = "cpu"
) -> "Demonstrations":
    """The demonstrations of each member, with the episodes that `choose_episodes` gives it."""
    return Demonstrations(dataset, choose_episodes(dataset, seeds, episodes), device)


class Demonstrations(Storage):
    """Whole recorded episodes, one after another, in one lane per member.

    An episode of T transitions takes T + 1 rows: its last observation is in a row that is not valid, so that a
    successor is always the next row. Rows behind a member's last episode are not valid either. An episode that was
    cut by the recording counts as truncated.

    Args:
        dataset: the recorded episodes.
        chosen: for each member the indices of its episodes.
        device: where the rows are.

    Raises:
        UsageError: they do not fit into memory.
    """

    demonstrated: ClassVar[bool] = True

    def __init__(self, dataset: Dataset, chosen: Sequence[np.ndarray], device: torch.device | str = "cpu") -> None:
        self.dataset, self.chosen = dataset, tuple(chosen)
        rows = [int((dataset.lengths[indices] + 1).sum()) for indices in chosen]
        obs = Field("obs", dataset.obs_space.shape, dataset.obs_space.dtype)
        fields = (obs, action_field(dataset.action_space))
        super().__init__(len(rows), 1, max(rows), fields, device, obs_space=dataset.obs_space)
        self.own_rows: list[np.ndarray] = []  # the ids of each member's valid rows
        for member, indices in enumerate(chosen):
            lane, first = {f.name: np.zeros((rows[member], *f.shape), f.dtype) for f in self.kept_fields}, 0
            for index in indices:
                first = self._write(lane, first, dataset.episodes[index])
            for name, column in self.columns.items():
                column.bits[member, : rows[member], 0] = column.bits_of(torch.from_numpy(lane[name]))
            self.own_rows.append(np.flatnonzero(lane["valid"]))
        self.last_rows = torch.tensor([[int(own[-1])] for own in self.own_rows], device=self.device)
        self.wrote(max(rows))
        self.time.fill_(self.rows_written)
        self.list_valid_rows()

    @property
    def transitions(self) -> np.ndarray:
        """Per member `[S]`."""
        return np.array([len(own) for own in self.own_rows])

    def observations(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows, for running statistics: `obs [S, R, *obs]` and `valid [S, R]`, false where nothing was done."""
        read = self.read_lanes(0, self.rows, "obs", "valid")
        return read["obs"][:, 0], read["valid"][:, 0]

    def rows_in_order(self, limit: int | None = None) -> dict[str, torch.Tensor]:
        """Every transition of each member in order, as windows of one (see `read_windows`), with `valid [S, R]`.

        R is the largest number of a member, at most `limit`; where one has fewer, the rest repeats its last one and is
        not valid.
        """
        counts = self.transitions
        order = np.arange(min(counts.max(), limit or counts.max()))  # [R]
        row = np.stack([rows[np.minimum(order, len(rows) - 1)] for rows in self.own_rows])  # [S, R]
        valid = torch.from_numpy(order < counts[:, None]).to(self.device)
        return {**read_windows(self, torch.from_numpy(row).to(self.device)), "valid": valid}

    def split(self, fraction: float, seeds: Sequence[int]) -> tuple["Demonstrations", "Demonstrations | None"]:
        """Each member's episodes in two parts of whole episodes: those to learn from, and a share that is held out.

        Each part has at least one episode; with a fraction of 0 nothing is held out.

        Args:
            seeds: the training seed of each member, from which its split is drawn.

        Raises:
            UsageError: the fraction is not in [0, 1), or a member has a single episode.
        """
        if not 0.0 <= fraction < 1.0:
            raise UsageError(f"the held-out share of episodes must be in [0, 1), not {fraction}.")
        if fraction == 0.0:
            return self, None
        held_out, kept = [], []
        for seed, indices in zip(seeds, self.chosen, strict=True):
            if len(indices) < 2:
                raise UsageError(
                    f"the dataset {self.dataset.name} has one episode for a member, so that none can be held out; "
                    "record more, or hold out a share of 0."
                )
            count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
            order = stream(seed, "validation").permutation(len(indices))
            held_out.append(indices[np.sort(order[:count])])
            kept.append(indices[np.sort(order[count:])])
        return Demonstrations(self.dataset, kept, self.device), Demonstrations(self.dataset, held_out, self.device)

    def _write(self, lane: dict[str, np.ndarray], first: int, episode: Episode) -> int:
        """Put an episode into rows `first ..` of a member's lane; returns the row behind it."""
        last = first + episode.length
        for name, values in self.obs_memory.of_episode(episode.obs).items():
            lane[name][first : last + 1] = values
        lane["action"][first:last] = episode.action
        lane["reward"][first:last] = episode.reward
        lane["valid"][first:last] = True
        lane["terminated"][last - 1] = episode.terminated
        lane["truncated"][last - 1] = not episode.terminated
        return last + 1

    @cached_property
    def _fingerprint(self) -> str:
        """SHA-256 of all rows."""
        digest = hashlib.sha256()
        for name in sorted(self.columns):
            digest.update(self.kept(0, self.rows, name).data)
        return digest.hexdigest()

    def chunks(self) -> Iterator[Chunk]:
        """Nothing: a checkpoint does not contain the dataset, which is read again."""
        return iter(())

    def state(self) -> dict[str, Any]:
        """The dataset's name and a checksum of the rows, to recognise the data that is read again."""
        return {"dataset": self.dataset.name, "sha256": self._fingerprint}

    def load(self, state: dict[str, Any], chunks: Iterable[dict[str, np.ndarray]]) -> None:
        """Check that these are the demonstrations that the state was taken of.

        Raises:
            RlabError: they are not.
        """
        if state["sha256"] != self._fingerprint:
            raise RlabError(
                f"the dataset {self.dataset.name} is not the one that this run began with, {state['dataset']}; "
                "a run can only be resumed with the same episodes."
            )
