"""Labelled examples: arrays of inputs and targets, and the sampler that goes through them epoch after epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.errors import UsageError
from rlab.randomness import stream


class Examples:
    """Rows of `input` and `target`, shared by all members or each member's own.

    Args:
        seeds: one training seed per member; a seed may come twice, as in cross-validation.
        inputs: `[R, ...]`, or `[S, R, ...]` with `per_member`.
        targets: as many rows; class labels as integers, or numbers.
        per_member: whether the arrays lead with the seed axis.
        rows: for each member the numbers of its rows among the R; None: all of them. The arrays are not copied.

    Raises:
        UsageError: the arrays are empty, do not match each other or the seeds, or contain a number that is not finite.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        inputs: np.ndarray,
        targets: np.ndarray,
        *,
        per_member: bool = False,
        rows: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.seeds, self.per_member = tuple(seeds), per_member
        self._inputs, self._targets = np.asarray(inputs), np.asarray(targets)
        _check(self._inputs, self._targets, len(self.seeds), per_member)
        size = self._inputs.shape[1 if per_member else 0]
        self._whole = rows is None
        # The row numbers of each member, by which `read` finds them.
        self.member_rows = [np.arange(size)] * len(self.seeds) if rows is None else [np.asarray(r) for r in rows]
        _check_rows(self.member_rows, self.seeds, size)
        if per_member:  # the members' rows behind each other: one flat index serves both kinds
            self._flat_inputs, self._flat_targets = (a.reshape(-1, *a.shape[2:]) for a in (self._inputs, self._targets))
            self._first = np.arange(len(self.seeds)) * size
        else:
            self._flat_inputs, self._flat_targets = self._inputs, self._targets
            self._first = np.zeros(len(self.seeds), np.int64)

    @property
    def sizes(self) -> np.ndarray:
        """How many rows each member has, `[S]`."""
        return np.array([len(rows) for rows in self.member_rows])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self._flat_inputs.shape[1:]

    def read(self, row: np.ndarray) -> dict[str, Tensor]:
        """`input` and `target [S, B, ...]` of the rows with the numbers `row [S, B]`."""
        return self._gather(row + self._first[:, None])

    def member_targets(self, member: int) -> np.ndarray:
        """All targets of one member, `[rows, ...]`, in the order of its rows."""
        taken: np.ndarray = self._flat_targets[self._first[member] + self.member_rows[member]]
        return taken

    def rows(self, limit: int | None = None) -> dict[str, Tensor]:
        """Everything: `input` and `target [S, R, ...]` in the order of the rows, and `weight [S, R]`, which is 0 behind
        the last row of a member that has fewer than another. Arrays shared by all members are not copied.

        Args:
            limit: that many rows of each member at most.
        """
        if self._whole:
            inputs, targets = torch.from_numpy(self._inputs), torch.from_numpy(self._targets)
            if not self.per_member:
                inputs, targets = (a.unsqueeze(0).expand(len(self.seeds), *a.shape) for a in (inputs, targets))
            inputs, targets = inputs[:, :limit], targets[:, :limit]
            return {"input": inputs, "target": targets, "weight": torch.ones(inputs.shape[:2])}
        most = int(self.sizes.max()) if limit is None else min(int(self.sizes.max()), limit)
        rows = [numbers[:most] for numbers in self.member_rows]
        index = np.stack([np.pad(r, (0, most - len(r)), mode="edge") for r in rows]) + self._first[:, None]
        weight = np.arange(most) < self.sizes[:, None]
        return {**self._gather(index), "weight": torch.from_numpy(weight.astype(np.float32))}

    def split(self, fraction: float, seeds: Sequence[int] | None = None) -> tuple["Examples", "Examples"]:
        """Training rows and held-out rows, drawn for every member from a stream of its own.

        With integer labels `[R]` every class has its share in both, to within a row.

        Args:
            fraction: of each member's rows that are held out, rounded, at least one.
            seeds: of the streams, one per member; None: the training seeds.

        Raises:
            UsageError: the fraction is not in (0, 1), or a member has a single row.
        """
        if not 0.0 < fraction < 1.0:
            raise UsageError(f"validation_fraction {fraction} must be above 0 and below 1.")
        if self.sizes.min() < 2:
            raise UsageError("a single example cannot be split into training and validation rows.")
        kept, held_out = [], []
        for i, seed in enumerate(self.seeds if seeds is None else seeds):
            order = stratified_order(self.member_targets(i), stream(seed, "validation"))
            size = len(order)
            number = min(max(round(size * fraction), 1), size - 1)
            # Row k is held out where the share's count passes a whole number: every stretch of a class gives its own.
            count = np.arange(size + 1) * number // size
            out = count[1:] > count[:-1]
            kept.append(np.sort(self.member_rows[i][order[~out]]))
            held_out.append(np.sort(self.member_rows[i][order[out]]))
        return self.subset(kept), self.subset(held_out)

    def subset(self, rows: Sequence[np.ndarray]) -> "Examples":
        """The same arrays, of which member i has the rows `rows[i]`."""
        return Examples(self.seeds, self._inputs, self._targets, per_member=self.per_member, rows=rows)

    def _gather(self, index: np.ndarray) -> dict[str, Tensor]:
        arrays = {"input": self._flat_inputs.take(index, axis=0), "target": self._flat_targets.take(index, axis=0)}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class EpochSampler:
    """The rows of every member in an order of its own: each row once in every epoch, then the next epoch.

    A batch may hold the end of one epoch and the beginning of the next.

    Args:
        examples: what the rows are drawn from.
        use: the name of the random numbers, which every member has of its own.
        device: where batches go.
    """

    draws_ahead = True

    def __init__(self, examples: Examples, use: str, device: torch.device | str = "cpu") -> None:
        self.examples, self._device = examples, device
        # One for each member: those with few rows begin another epoch, which is another draw, before the others.
        self._draws = [Draws([seed], use, "cpu") for seed in examples.seeds]
        self._orders: list[np.ndarray] = [np.empty(0, np.int64)] * len(self._draws)
        self._taken = [0] * len(self._draws)  # rows of the present order that have been drawn

    def sample(self, batch_size: int) -> dict[str, Tensor]:
        """The next rows: `input` and `target [S, batch_size, ...]`, and their numbers `row [S, batch_size]`."""
        row = np.stack([self._next(member, batch_size) for member in range(len(self._draws))])
        batch = {**self.examples.read(row), "row": torch.from_numpy(row)}
        return {name: value.to(self._device) for name, value in batch.items()}

    def _next(self, member: int, count: int) -> np.ndarray:
        """The next `count` row numbers of one member."""
        parts = []
        while count:
            if self._taken[member] == len(self._orders[member]):
                self._begin_epoch(member)
            part = self._orders[member][self._taken[member] : self._taken[member] + count]
            self._taken[member] += len(part)
            count -= len(part)
            parts.append(part)
        return np.concatenate(parts)

    def _begin_epoch(self, member: int) -> None:
        rows = self.examples.member_rows[member]
        self._orders[member], self._taken[member] = rows[self._draws[member].permutation(len(rows))[0].numpy()], 0

    def feedback(self, row: Tensor, value: Tensor) -> None:
        """Nothing changes: every row comes once in every epoch."""

    def check(self) -> None:
        """Every member has a row, as `Examples` says."""

    def state(self) -> dict[str, Any]:
        """Where every member is: the epochs that it has begun, and the rows drawn in the present one."""
        return {"epochs": [draws.state()["draw"] for draws in self._draws], "taken": list(self._taken)}

    def load_state(self, state: dict[str, Any]) -> None:
        for member, (draws, epochs) in enumerate(zip(self._draws, state["epochs"], strict=True)):
            draws.load_state({"draw": max(epochs - 1, 0)})
            self._orders[member] = np.empty(0, np.int64)
            if epochs:
                self._begin_epoch(member)
        self._taken = list(state["taken"])


def stratified_order(targets: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """All row numbers in random order, one class behind the other where `targets [R]` are integer labels.

    Every k-th of them is a share of each class. The classes are in random order too: otherwise the same small classes,
    with fewer than k rows, would always be the ones chosen from.
    """
    order = generator.permutation(len(targets))
    if targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer):
        _, first, label = np.unique(targets[order], return_index=True, return_inverse=True)
        order = order[np.argsort(first[label], kind="stable")]
    return order


def _check(inputs: np.ndarray, targets: np.ndarray, members: int, per_member: bool) -> None:
    lead = 2 if per_member else 1
    if inputs.ndim < lead or targets.ndim < lead or inputs.shape[:lead] != targets.shape[:lead]:
        raise UsageError(
            f"inputs {list(inputs.shape)} and targets {list(targets.shape)} must have the same number of rows, "
            f"{'[S, R, ...]' if per_member else '[R, ...]'}."
        )
    if not inputs.shape[lead - 1]:
        raise UsageError("the examples are empty; give one row or more.")
    if per_member and len(inputs) != members:
        raise UsageError(f"inputs of {len(inputs)} members do not match {members} seeds.")
    for name, array in (("inputs", inputs), ("targets", targets)):
        if array.dtype.kind not in "biuf":
            raise UsageError(f"{name} of dtype {array.dtype} are not supported; give numbers.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(f"{name} contain NaN or infinite numbers; drop or fill those rows.")


def _check_rows(rows: Sequence[np.ndarray], seeds: Sequence[int], size: int) -> None:
    if len(rows) != len(seeds):
        raise UsageError(f"rows of {len(rows)} members do not match {len(seeds)} seeds.")
    for seed, numbers in zip(seeds, rows, strict=True):
        if not len(numbers) or numbers.min() < 0 or numbers.max() >= size:
            raise UsageError(f"the member with seed {seed} must have one row or more, numbered 0 to {size - 1}.")
