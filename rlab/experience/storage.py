"""Storage: what happened, row by row, in time order. It knows nothing of sampling (see `samplers`).

Each env of each member has a lane. Row t of a lane holds the observation that was acted on, the action, and what came
of it. The successor is the lane's next row; where the env resets at once it hides the last observation of an episode,
and those few are kept in a side table.

A row has an id, `time * N + env`, which is the same for every member and is never used again. Samplers choose rows by
their ids and read them with `read` and `successors`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from rlab.errors import UsageError
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field, storage_nbytes, stored_fields
from rlab.experience.final_observations import NONE, FinalObservations
from rlab.experience.storage_chunks import Chunk, chunks_of, load_chunks


class Storage:
    """The newest `capacity` transitions of each of S members, summed over that member's N envs.

    Args:
        members, num_envs: S and N.
        capacity: transitions per member; a lane keeps `capacity // N` of them.
        fields: what `Agent.fields()` gives, `obs` and `action` first.

    Raises:
        UsageError: the capacity is below one row per env, or needs more memory than the machine has free, or a field
            has a name that is taken.
    """

    demonstrated: ClassVar[bool] = False  # whether every row is a demonstration, which every batch of them then says
    # The ids of each member's valid rows, where these never change and members have different numbers of them.
    own_rows: Sequence[np.ndarray] | None = None

    def __init__(self, members: int, num_envs: int, capacity: int, fields: Sequence[Field]) -> None:
        self.fields = stored_fields(fields)
        self.nbytes = storage_nbytes(members, num_envs, capacity, fields)
        self.members, self.num_envs, self.lane_rows = members, num_envs, capacity // num_envs
        # One slot more than there are rows: the newest row's successor waits in the slot that is written next.
        self._slots = self.lane_rows + 1
        lanes = (members, num_envs, self._slots)
        self.data = {f.name: np.zeros((*lanes, *f.shape), f.dtype) for f in self.fields}
        # The same memory without lanes: one flat index gathers twice as fast as three.
        self._flat = {f.name: self.data[f.name].reshape(-1, *f.shape) for f in self.fields}
        self.finals = FinalObservations(lanes, self.fields[0])
        self._member_start = np.arange(members)[:, None] * (num_envs * self._slots)  # in the flat memory, [S, 1]
        self.rows_written = 0  # rows of time, the same for every lane
        self._may_be_fresh = False  # whether the next row may begin episodes that the newest one knows nothing of

    @property
    def rows(self) -> int:
        """Rows of time that each lane holds now; their times are `rows_written - rows .. rows_written - 1`."""
        return min(self.rows_written, self.lane_rows)

    @property
    def transitions(self) -> np.ndarray:
        """Valid rows held, per member `[S]`: reset rows are not counted."""
        held = self.data["valid"][:, :, self.slots_of(np.arange(self.rows_written - self.rows, self.rows_written))]
        held_count: np.ndarray = held.sum(axis=(1, 2))
        return held_count

    def add(self, obs: np.ndarray, action: np.ndarray, step: Step, **extras: np.ndarray) -> None:
        """Append one row to every lane: `obs [S, N, *obs]` was acted on with `action [S, N, ...]` and led to `step`.

        `extras` has the value `[S, N, ...]` of every further field.

        Raises:
            UsageError: the value of a field is missing, or there is one without a field.
        """
        if self._may_be_fresh:
            waiting = self.data["obs"][:, :, self.rows_written % self._slots]
            self.cut_episodes((waiting != obs).reshape(self.members, self.num_envs, -1).any(axis=-1))
        slot = self.rows_written % self._slots
        following = (slot + 1) % self._slots
        row = {"obs": obs, "action": action, "reward": step.reward, "terminated": step.terminated}
        row |= {"truncated": step.truncated, "valid": step.valid, **extras}
        if row.keys() != self.data.keys():
            lacking = ", ".join(sorted(self.data.keys() ^ row.keys()))
            raise UsageError(f"the extras of `Acted` and the agent's fields differ: {lacking} is in one of them alone.")
        for name, value in row.items():
            self.data[name][:, :, slot] = value
        self.data["obs"][:, :, following] = step.obs
        self.finals.release(following)
        if not step.none_ended and not np.may_share_memory(step.next_obs, step.obs):
            self.finals.keep(slot, step.valid & (step.terminated | step.truncated), step.next_obs)
        self.rows_written += 1

    def read(self, row: np.ndarray, *names: str) -> dict[str, np.ndarray]:
        """The values `[S, ..., *shape]` of these fields in the rows with the ids `row [S, ...]`.

        The rows must be held; `obs` may also be read one row behind the newest, where its successor waits.
        """
        at = self._at(row)
        return {name: self._flat[name].take(at, axis=0) for name in names}

    def read_windows(self, row: np.ndarray, length: int, *names: str) -> dict[str, np.ndarray]:
        """As `read`, `[S, ..., length, *shape]`: of each row and those that follow it in its lane, held or not."""
        lane, time = self._lane_and_time(row)
        at = lane[..., None] + (time[..., None] + np.arange(length)) % self._slots
        return {name: self._flat[name].take(at, axis=0) for name in names}

    def successors(self, row: np.ndarray) -> np.ndarray:
        """The observations `[S, ..., *obs]` that the rows with the ids `row [S, ...]` led to."""
        lane, time = self._lane_and_time(row)
        successors: np.ndarray = self._flat["obs"].take(lane + (time + 1) % self._slots, axis=0)
        self.finals.put_into(successors, lane + time % self._slots)
        return successors

    def read_lanes(self, time: np.ndarray, *names: str) -> dict[str, np.ndarray]:
        """The values `[S, N, T, *shape]` of these fields in all lanes at the times `[T]`; which rows, as for `read`."""
        slots = self.slots_of(time)
        return {name: self.data[name][:, :, slots] for name in names}

    def hidden_successors(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The successors `[S, K, *obs]` of those rows of all lanes at the times `[T]` that are not the lane's next row,
        and the rows `n * T + t` that they follow `[S, K]`; K as in `FinalObservations.listed`."""
        return self.finals.listed(self.finals.place[:, :, self.slots_of(time)])

    def _at(self, row: np.ndarray) -> np.ndarray:
        """The flat index of rows `[S, ...]`."""
        lane, time = self._lane_and_time(row)
        at: np.ndarray = lane + time % self._slots
        return at

    def _lane_and_time(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the lanes of rows `[S, ...]` start in the flat memory, and the times of the rows."""
        time, env = np.divmod(row.reshape(self.members, -1), self.num_envs)
        lane = env * self._slots + self._member_start
        return lane.reshape(row.shape), time.reshape(row.shape)

    def slots_of(self, time: np.ndarray) -> np.ndarray:
        """Where the rows of these times are in `data`, along its third axis."""
        slots: np.ndarray = time % self._slots
        return slots

    def expect_fresh_episodes(self) -> None:
        """What is added next may be the same episodes or fresh ones: where the observation acted on is not the one that
        waits, the newest row's episode is cut there, as by a time limit."""
        self._may_be_fresh = self.rows_written > 0

    def cut_episodes(self, where: np.ndarray | bool = True) -> None:
        """The envs are reset: where this is true, `[S, N]`, the newest row is truncated, as by a time limit, and its
        successor moves to the side table."""
        self._may_be_fresh = False
        if not self.rows_written:
            return
        newest, waiting = (self.rows_written - 1) % self._slots, self.rows_written % self._slots
        successor = self.data["obs"][:, :, waiting]
        cut = where & self.data["valid"][:, :, newest] & (self.finals.place[:, :, newest] == NONE)
        self.finals.keep(newest, cut, successor)
        self.data["truncated"][:, :, newest] |= cut & ~self.data["terminated"][:, :, newest]

    def chunks(self) -> Iterator[Chunk]:
        """The chunks that hold the present rows, oldest first."""
        return chunks_of(self)

    def state(self) -> dict[str, Any]:
        """What the chunks leave out: the clock of the lanes and the observation that waits behind the newest row."""
        waiting = self.data["obs"][:, :, self.rows_written % self._slots]
        return {"rows_written": self.rows_written, "waiting_obs": waiting.copy()}

    def load(self, state: dict[str, Any], chunks: Iterable[dict[str, np.ndarray]]) -> None:
        """Fill empty storage from `state()` and the chunks of a checkpoint.

        What is added next may be fresh episodes, see `expect_fresh_episodes`.

        Raises:
            RlabError: the chunks have other fields or shapes, or rows are missing.
        """
        self.rows_written = int(state["rows_written"])
        load_chunks(self, chunks)
        self.expect_fresh_episodes()
        self.data["obs"][:, :, self.rows_written % self._slots] = state["waiting_obs"]
