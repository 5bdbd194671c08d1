"""Replay: one lane per env in time order, so that a successor is simply the lane's next row and is stored once.

Row t of a lane holds the observation that was acted on, the action, and what came of it. Envs that reset at once hide
the last observation of an episode; those few live in a side table. n-step returns, stacks and sequences are window
reads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any

import numpy as np
import torch

from rlab.errors import RlabError, UsageError
from rlab.experience.contract import Step

CHUNK_ROWS = 4096  # rows of time in one chunk of a checkpoint
_NO_FINAL = -1


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
    replay: "Replay"

    def arrays(self) -> dict[str, np.ndarray]:
        """The content, as `Replay.read_chunk` gives it."""
        return self.replay.read_chunk(self.index)


_FIXED_FIELDS = (
    Field("reward", (), "float32"),
    Field("terminated", (), "bool"),
    Field("truncated", (), "bool"),
    Field("valid", (), "bool"),
)


class Replay:
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
        if capacity < num_envs:
            raise UsageError(f"replay_capacity {capacity} must be at least num_envs, {num_envs}: one row per env.")
        self.members, self.num_envs, self.lane_rows = members, num_envs, capacity // num_envs
        self.fields = (obs, action, *_FIXED_FIELDS, *extra)
        _check_names([f.name for f in self.fields])
        _check_memory(f"a replay of {capacity} transitions per member", self.nbytes)
        # One slot more than there are rows: the newest row's successor waits in the slot that is written next.
        self._slots = self.lane_rows + 1
        lanes = (members, num_envs, self._slots)
        self._data = {f.name: np.zeros((*lanes, *f.shape), f.dtype) for f in self.fields}
        self._final_slot = np.full(lanes, _NO_FINAL, np.int32)
        # The same memory without lanes: one flat index gathers twice as fast as three.
        self._flat = {f.name: self._data[f.name].reshape(-1, *f.shape) for f in self.fields}
        self._lane_start = np.arange(members * num_envs).reshape(members, num_envs) * self._slots
        self._finals = np.zeros((64, *obs.shape), obs.dtype)
        self._free = list(range(64))
        self.rows_written = 0  # rows of time, the same for every lane
        self._loaded = False  # since the last `add`

    @property
    def nbytes(self) -> int:
        """Bytes of the lanes; the side table of final observations comes on top, one row per episode still held."""
        rows = self.members * self.num_envs * (self.lane_rows + 1)
        return rows * (sum(f.nbytes for f in self.fields) + np.dtype(np.int32).itemsize)

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
        if self._loaded:
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
        self._release_finals(following)
        ended = step.valid & (step.terminated | step.truncated)
        if ended.any() and not np.may_share_memory(step.next_obs, step.obs):
            self._keep_finals(slot, ended, step.next_obs)
        self.rows_written += 1

    def sample(
        self, streams: Sequence[np.random.Generator], batch_size: int, n_step: int = 1
    ) -> dict[str, torch.Tensor]:
        """Uniformly drawn windows of up to `n_step` transitions, each member from its own stream.

        A window stops at the end of an episode and at the newest row, so it may be shorter; `steps` says how long it
        is.

        Returns:
            `obs`, `action` and extra fields `[S, B, ...]` of the window's first row; `reward [S, B, n_step]`, zero
            behind the window; `steps [S, B]`; `terminated`, `truncated [S, B]` of its last row; `next_obs [S, B, ...]`,
            the observation that the last row led to.

        Raises:
            RlabError: a member holds no transition.
        """
        lane, time = self._draw(streams, batch_size)
        last, reward = self._windows(lane, time, n_step)
        first_row, last_row = lane + self._slots_of(time), lane + self._slots_of(last)
        skipped = ("reward", "terminated", "truncated", "valid")
        batch = {f.name: self._flat[f.name].take(first_row, axis=0) for f in self.fields if f.name not in skipped}
        batch["reward"] = reward
        batch["steps"] = last - time + 1
        batch["terminated"] = self._flat["terminated"].take(last_row)
        batch["truncated"] = self._flat["truncated"].take(last_row)
        batch["next_obs"] = self._successors(lane, last)
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def _draw(self, streams: Sequence[np.random.Generator], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each drawn row's lane starts, and its time, `[S, B]`; a reset row that was drawn is drawn again."""
        rows = self.rows
        if not rows:
            raise RlabError("the replay is empty; collect before sampling.")
        drawn = np.stack([s.integers(self.num_envs * rows, size=batch_size) for s in streams])
        for attempt in count(1):
            env, age = np.divmod(drawn, rows)
            time = self.rows_written - 1 - age
            lane = np.take_along_axis(self._lane_start, env, axis=1)
            wrong = ~self._flat["valid"].take(lane + self._slots_of(time))
            if not wrong.any():
                break
            if attempt % 100 == 0 and not self.transitions.all():  # or the draw would never end
                raise RlabError("the replay holds reset rows and no transition of a member; raise --replay-capacity.")
            for i in np.flatnonzero(wrong.any(axis=1)).tolist():
                drawn[i, wrong[i]] = streams[i].integers(self.num_envs * rows, size=int(wrong[i].sum()))
        return lane, time

    def _windows(self, lane: np.ndarray, time: np.ndarray, n_step: int) -> tuple[np.ndarray, np.ndarray]:
        """The time of each window's last row `[S, B]`, and the rewards in it `[S, B, n_step]`."""
        if n_step == 1:
            return time, self._flat["reward"].take(lane + self._slots_of(time))[..., None]
        times = time[..., None] + np.arange(n_step)  # [S, B, n]
        row = lane[..., None] + self._slots_of(times)
        ended = self._flat["terminated"].take(row) | self._flat["truncated"].take(row)
        # inside[k]: the row exists, and the episode went on through the k rows before it
        inside = times < self.rows_written
        inside[..., 1:] &= ~np.logical_or.accumulate(ended, axis=-1)[..., :-1]
        reward = self._flat["reward"].take(row)
        return time + inside.sum(axis=-1) - 1, np.where(inside, reward, np.float32(0.0))

    def _successors(self, lane: np.ndarray, time: np.ndarray) -> np.ndarray:
        successors: np.ndarray = self._flat["obs"].take(lane + self._slots_of(time + 1), axis=0)
        final = self._final_slot.take(lane + self._slots_of(time))
        hidden = final != _NO_FINAL
        if hidden.any():
            successors[hidden] = self._finals[final[hidden]]
        return successors

    def _slots_of(self, time: np.ndarray) -> np.ndarray:
        slots: np.ndarray = time % self._slots
        return slots

    def _release_finals(self, slot: int) -> None:
        lane = self._final_slot[:, :, slot]
        used = lane[lane != _NO_FINAL]
        if used.size:
            self._free.extend(used.tolist())
            lane[...] = _NO_FINAL

    def _keep_finals(self, slot: int, ended: np.ndarray, next_obs: np.ndarray) -> None:
        for member, env in np.argwhere(ended):
            self._keep_final(member, env, slot, next_obs[member, env])

    def _keep_final(self, member: int, env: int, slot: int, obs: np.ndarray) -> None:
        if not self._free:
            size = len(self._finals)
            _check_memory(f"a replay that keeps {2 * size} final observations", 2 * self._finals.nbytes)
            self._finals = np.concatenate([self._finals, np.zeros_like(self._finals)])
            self._free = list(range(size, 2 * size))
        place = self._free.pop()
        self._finals[place] = obs
        self._final_slot[member, env, slot] = place

    def _cut_episodes(self, obs: np.ndarray) -> None:
        """A run that was loaded may go on with fresh episodes: `obs [S, N, *obs]` is then no successor of the newest
        row, whose own one moves to the side table. To the episode it is a time limit: cut, not ended."""
        self._loaded = False
        newest, waiting = (self.rows_written - 1) % self._slots, self.rows_written % self._slots
        successor = self._data["obs"][:, :, waiting]
        differs = (successor != obs).reshape(self.members, self.num_envs, -1).any(axis=-1)
        cut = differs & self._data["valid"][:, :, newest] & (self._final_slot[:, :, newest] == _NO_FINAL)
        self._keep_finals(newest, cut, successor)
        self._data["truncated"][:, :, newest] |= cut & ~self._data["terminated"][:, :, newest]

    # -- checkpoints -------------------------------------------------------------------------------------------------

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
        arrays["final_at"] = np.argwhere(final != _NO_FINAL)
        arrays["final_obs"] = self._finals[final[final != _NO_FINAL]]
        arrays["first_row"] = np.array(first)
        return arrays

    def state(self) -> dict[str, Any]:
        """What the chunks leave out: the clock of the lanes and the observation that waits behind the newest row."""
        waiting = self._data["obs"][:, :, self.rows_written % self._slots]
        return {"rows_written": self.rows_written, "waiting_obs": waiting.copy()}

    def load(self, state: dict[str, Any], chunks: Iterator[dict[str, np.ndarray]]) -> None:
        """Fill an empty replay from `state()` and the chunks of a checkpoint.

        What is added next may be the same episodes or fresh ones: where the observation acted on is not the one that
        waits, the newest row's episode is cut there, as by a time limit.

        Raises:
            RlabError: the chunks are not this replay's: other fields or lanes, or rows are missing.
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
            raise RlabError(f"the saved replay has {loaded} of the {expected} rows it should have.")
        self.rows_written, self._loaded = rows_written, rows_written > 0
        self._data["obs"][:, :, rows_written % self._slots] = state["waiting_obs"]

    def _check_chunk(self, arrays: dict[str, np.ndarray]) -> None:
        rows = arrays["valid"].shape[2:3] if "valid" in arrays else ()
        for f in self.fields:
            expected = (self.members, self.num_envs, *rows, *f.shape)
            found = arrays.get(f.name)
            if found is None or found.shape != expected or found.dtype != f.dtype:
                raise RlabError(f"the saved replay does not fit: it has no field {f.name!r} of {f.dtype} {expected}.")


def _check_names(names: Sequence[str]) -> None:
    taken = {"steps", "next_obs"}  # what `sample` adds
    if list(names[:2]) != ["obs", "action"] or len(set(names)) < len(names) or taken & set(names):
        raise ValueError(f"fields must be obs, action and others of different names, not {', '.join(names)}")


def _check_memory(what: str, nbytes: int) -> None:
    free = _free_memory()
    if free is not None and nbytes > free:
        raise UsageError(
            f"{what} needs {nbytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "lower --replay-capacity or --seeds."
        )


def _free_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
