"""The storage behind replay and rollouts: lanes of rows in time order, a side table of hidden final observations, and
checkpoints.

Row t of a lane holds the observation that was acted on, the action, and what came of it. A successor is simply the
lane's next row; envs that reset at once hide the last observation of an episode, and those few live in the side table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from rlab.errors import RlabError, UsageError
from rlab.experience.contract import Step

CHUNK_ROWS = 4096  # rows of time in one chunk of a checkpoint
NO_FINAL = -1


@dataclass(frozen=True)
class Field:
    """One thing to remember per transition: its name, the shape of one value and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one value."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Chunk:
    """A fixed stretch of time of every lane, the unit of a checkpoint. A complete chunk never changes again."""

    index: int
    complete: bool
    lanes: "Lanes"

    def arrays(self) -> dict[str, np.ndarray]:
        """The content, as `Lanes.read_chunk` gives it."""
        return self.lanes.read_chunk(self.index)


FIXED_FIELDS = (
    Field("reward", (), "float32"),
    Field("terminated", (), "bool"),
    Field("truncated", (), "bool"),
    Field("valid", (), "bool"),
)


class Lanes:
    """The newest `capacity` transitions of each of S members, summed over that member's N envs.

    Args:
        members, num_envs: S and N.
        capacity: transitions per member; a lane keeps `capacity // N` of them.
        obs, action: the fields that the env's spaces ask for, under these names.
        extra: further fields, such as action masks or demonstration flags.

    Raises:
        UsageError: the capacity holds no row per env, or needs more memory than the machine has free.
        ValueError: a field has a name that is taken.
    """

    def __init__(
        self, members: int, num_envs: int, capacity: int, obs: Field, action: Field, extra: Sequence[Field] = ()
    ) -> None:
        self.fields = (obs, action, *FIXED_FIELDS, *extra)
        _check_names([f.name for f in self.fields])
        self.nbytes = lanes_nbytes(members, num_envs, capacity, self.fields)
        self.members, self.num_envs, self.lane_rows = members, num_envs, capacity // num_envs
        # One slot more than there are rows: the newest row's successor waits in the slot that is written next.
        self._slots = self.lane_rows + 1
        lanes = (members, num_envs, self._slots)
        self._data = {f.name: np.zeros((*lanes, *f.shape), f.dtype) for f in self.fields}
        self._final_slot = np.full(lanes, NO_FINAL, np.int32)
        # The same memory without lanes: one flat index gathers twice as fast as three.
        self._flat = {f.name: self._data[f.name].reshape(-1, *f.shape) for f in self.fields}
        self._lane_start = np.arange(members * num_envs).reshape(members, num_envs) * self._slots
        self._finals = np.zeros((64, *obs.shape), obs.dtype)
        self._free = list(range(64))
        self.rows_written = 0  # rows of time, the same for every lane
        self._may_be_fresh = False  # whether the next row may begin episodes that the newest one knows nothing of

    @property
    def rows(self) -> int:
        """Rows of time that each lane holds now."""
        return min(self.rows_written, self.lane_rows)

    @property
    def transitions(self) -> np.ndarray:
        """Valid transitions held, per member `[S]`: reset rows are not counted."""
        held = self._data["valid"][:, :, self._slots_of(np.arange(self.rows_written - self.rows, self.rows_written))]
        held_count: np.ndarray = held.sum(axis=(1, 2))
        return held_count

    def add(self, obs: np.ndarray, action: np.ndarray, step: Step, **extra: np.ndarray) -> None:
        """Append one row to every lane: `obs [S, N, *obs]` was acted on with `action [S, N, ...]` and led to `step`.

        `extra` has the value `[S, N, ...]` of every further field.
        """
        if self._may_be_fresh:
            self._cut_episodes(obs)
        slot = self.rows_written % self._slots
        following = (slot + 1) % self._slots
        row = {
            "obs": obs,
            "action": action,
            "reward": step.reward,
            "terminated": step.terminated,
            "truncated": step.truncated,
            "valid": step.valid,
            **extra,
        }
        if len(row) != len(self.fields):
            raise ValueError(f"a row needs {', '.join(f.name for f in self.fields)}, not {', '.join(row)}")
        for name, value in row.items():
            self._data[name][:, :, slot] = value
        self._data["obs"][:, :, following] = step.obs
        if len(self._free) < len(self._finals):
            self._release_finals(following)
        if not step.none_ended and not np.may_share_memory(step.next_obs, step.obs):
            self._keep_finals(slot, step.valid & (step.terminated | step.truncated), step.next_obs)
        self.rows_written += 1

    def _slots_of(self, time: np.ndarray) -> np.ndarray:
        slots: np.ndarray = time % self._slots
        return slots

    def _release_finals(self, slot: int) -> None:
        lane = self._final_slot[:, :, slot]
        used = lane[lane != NO_FINAL]
        if used.size:
            self._free.extend(used.tolist())
            lane[...] = NO_FINAL

    def _keep_finals(self, slot: int, ended: np.ndarray, next_obs: np.ndarray) -> None:
        for member, env in np.argwhere(ended):
            self._keep_final(member, env, slot, next_obs[member, env])

    def _keep_final(self, member: int, env: int, slot: int, obs: np.ndarray) -> None:
        if not self._free:
            size = len(self._finals)
            _check_memory(f"storage for {2 * size} final observations", 2 * self._finals.nbytes)
            self._finals = np.concatenate([self._finals, np.zeros_like(self._finals)])
            self._free = list(range(size, 2 * size))
        place = self._free.pop()
        self._finals[place] = obs
        self._final_slot[member, env, slot] = place

    def _cut_episodes(self, obs: np.ndarray) -> None:
        """After `expect_fresh_episodes` the observations `[S, N, *obs]` may be no successors of the newest row, whose
        own ones move to the side table. To the episode it is a time limit: cut, not ended."""
        self._may_be_fresh = False
        newest, waiting = (self.rows_written - 1) % self._slots, self.rows_written % self._slots
        successor = self._data["obs"][:, :, waiting]
        differs = (successor != obs).reshape(self.members, self.num_envs, -1).any(axis=-1)
        cut = differs & self._data["valid"][:, :, newest] & (self._final_slot[:, :, newest] == NO_FINAL)
        self._keep_finals(newest, cut, successor)
        self._data["truncated"][:, :, newest] |= cut & ~self._data["terminated"][:, :, newest]

    def expect_fresh_episodes(self) -> None:
        """What is added next may be the same episodes or fresh ones: where the observation acted on is not the one that
        waits, the newest row's episode is cut there, as by a time limit."""
        self._may_be_fresh = self.rows_written > 0

    def chunks(self) -> Iterator[Chunk]:
        """The stretches of time that hold the rows kept now, oldest first."""
        for index in range((self.rows_written - self.rows) // CHUNK_ROWS, -(-self.rows_written // CHUNK_ROWS)):
            # The newest row may still change, when a resumed run cuts its episode.
            yield Chunk(index, (index + 1) * CHUNK_ROWS < self.rows_written, self)

    def read_chunk(self, index: int) -> dict[str, np.ndarray]:
        """All fields of one chunk `[S, N, rows, ...]`; `first_row` is the time of its first row.

        `final_obs [k, *obs]` holds the hidden final observations, `final_at [k, 3]` their member, env and row.
        """
        first = max(index * CHUNK_ROWS, self.rows_written - self.rows)
        time = np.arange(first, min((index + 1) * CHUNK_ROWS, self.rows_written))
        slots = self._slots_of(time)
        arrays = {name: data[:, :, slots] for name, data in self._data.items()}
        final = self._final_slot[:, :, slots]
        arrays["final_at"] = np.argwhere(final != NO_FINAL)
        arrays["final_obs"] = self._finals[final[final != NO_FINAL]]
        arrays["first_row"] = np.array(first)
        return arrays

    def state(self) -> dict[str, Any]:
        """What the chunks leave out: the clock of the lanes and the observation that waits behind the newest row."""
        waiting = self._data["obs"][:, :, self.rows_written % self._slots]
        return {"rows_written": self.rows_written, "waiting_obs": waiting.copy()}

    def load(self, state: dict[str, Any], chunks: Iterator[dict[str, np.ndarray]]) -> None:
        """Fill empty lanes from `state()` and the chunks of a checkpoint.

        What is added next may be fresh episodes, see `expect_fresh_episodes`.

        Raises:
            RlabError: the chunks are not of such lanes: other fields or shapes, or rows are missing.
        """
        rows_written, loaded = int(state["rows_written"]), 0
        for arrays in chunks:
            self._check_chunk(arrays)
            first = int(arrays["first_row"])
            skip = max(0, rows_written - self.lane_rows - first)  # rows that have been overwritten since
            time = np.arange(first + skip, first + arrays["valid"].shape[2])
            slots = self._slots_of(time)
            for name, data in self._data.items():
                data[:, :, slots] = arrays[name][:, :, skip:]
            for (member, env, row), obs in zip(arrays["final_at"], arrays["final_obs"], strict=True):
                if row >= skip:
                    self._keep_final(member, env, (first + row) % self._slots, obs)
            loaded += len(time)
        if loaded != (expected := min(rows_written, self.lane_rows)):
            raise RlabError(f"the checkpoint has {loaded} of the {expected} rows it should have.")
        self.rows_written = rows_written
        self.expect_fresh_episodes()
        self._data["obs"][:, :, rows_written % self._slots] = state["waiting_obs"]

    def _check_chunk(self, arrays: dict[str, np.ndarray]) -> None:
        rows = arrays["valid"].shape[2:3] if "valid" in arrays else ()
        for f in self.fields:
            expected = (self.members, self.num_envs, *rows, *f.shape)
            found = arrays.get(f.name)
            if found is None or found.shape != expected or found.dtype != f.dtype:
                raise RlabError(f"the checkpoint's rows do not fit: no field {f.name!r} of {f.dtype} {expected}.")


def lanes_nbytes(members: int, num_envs: int, capacity: int, fields: Sequence[Field]) -> int:
    """Bytes of the lanes of all members, before anything is allocated.

    The side table of final observations comes on top, one row per episode still held.

    Args:
        fields: what the agent and the env ask for; the rewards, endings and validity of rows are counted in anyway.

    Raises:
        UsageError: the capacity holds no row per env, or needs more memory than the machine has free.
    """
    if capacity < num_envs:
        raise UsageError(f"replay_capacity {capacity} must be at least num_envs, {num_envs}: one row per env.")
    every_row = sum(f.nbytes for f in {*fields, *FIXED_FIELDS}) + np.dtype(np.int32).itemsize  # its place of a final
    nbytes = members * num_envs * (capacity // num_envs + 1) * every_row
    _check_memory(f"storage for {capacity} transitions per member", nbytes)
    return nbytes


def _check_names(names: Sequence[str]) -> None:
    # What the reads of replays, rollouts and chunks add.
    taken = {"steps", "next_obs", "final_obs", "final_row", "final_at", "first_row"}
    if list(names[:2]) != ["obs", "action"] or len(set(names)) < len(names) or taken & set(names):
        raise ValueError(f"fields must be obs, action and others of different names, not {', '.join(names)}")


def _check_memory(what: str, nbytes: int) -> None:
    free = _free_memory()
    if free is not None and nbytes > free:
        raise UsageError(
            f"{what} needs {nbytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "lower --seeds, or --replay-capacity or --rollout-steps."
        )


def _free_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
