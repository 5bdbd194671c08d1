"""What a storage is made of: the memory of its lanes, its clock, reading whole lanes, and what a checkpoint keeps."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from rlab.draws import in_program
from rlab.experience.columns import Column
from rlab.experience.episode_spans import EpisodeSpans
from rlab.experience.fields import Field, storage_nbytes, stored_fields
from rlab.experience.final_observations import NONE, FinalObservations
from rlab.experience.observations import AGE, StackedFrames, WholeObservations, kept_fields, stacked
from rlab.experience.storage_chunks import Chunk, chunks_of, load_chunks, rows_of_chunk
from rlab.experience.valid_rows import ValidRows
from rlab.networks.spaces import Space


class Follower(Protocol):
    """Keeps something for every row of a storage, such as a priority."""

    def replace(self, dropped: Tensor, valid: Tensor, first_id: int | Tensor) -> None:
        """The rows `valid [S, N]` of one time were written, with the ids `first_id ..`; the oldest, `dropped [S, N]`,
        are no longer held. May be part of a program."""
        ...


class Lanes:
    """The lanes of S x N envs in memory that is never replaced. `Storage` says what is written, and reads rows by their
    ids.

    Args:
        members, num_envs: S and N.
        capacity: transitions per member; a lane keeps `capacity // N` of them.
        fields: what `Agent.fields()` gives, `obs` and `action` first.
        device: where the rows are.
        has_reset_rows: whether rows may be added that are not transitions.
        growing: as of `FinalObservations`.
        obs_space: where observations are stacks of frames (`Box.frames`), the space that says so: each frame is kept
            once.

    Raises:
        UsageError: the capacity is below one row per env, or needs more memory than the device has free, or a field has
            a name that is taken.
    """

    demonstrated: ClassVar[bool] = False  # whether every row is a demonstration, which every batch of them then says
    last_rows: Tensor | None = None  # [S, 1], the id of each member's last valid row, where members have different ones

    def __init__(
        self,
        members: int,
        num_envs: int,
        capacity: int,
        fields: Sequence[Field],
        device: torch.device | str = "cpu",
        has_reset_rows: bool = True,
        growing: bool = True,
        obs_space: Space | None = None,
    ) -> None:
        self.fields, self.device = stored_fields(fields), torch.device(device)
        self.names = {f.name for f in self.fields}
        stack, kept = stacked(obs_space), kept_fields(fields, obs_space)
        # One slot more than there are rows: the newest row's successor waits in the slot that is written next. Stacks
        # of the oldest row go back further.
        more = stack.frames if stack else 1
        self.nbytes = storage_nbytes(members, num_envs, capacity, kept, self.device, has_reset_rows, growing, more)
        self.members, self.num_envs, self.lane_rows = members, num_envs, capacity // num_envs
        self.slots = self.lane_rows + more
        self.kept_fields = stored_fields(kept)
        self.chunk_rows = rows_of_chunk(members, num_envs, self.kept_fields)
        lanes = (members, self.slots, num_envs)
        # Where each member's ring of places begins among those of all.
        self.first_places = torch.arange(members, device=self.device) * (self.slots * num_envs)
        self.columns = {f.name: Column(lanes, f, self.device) for f in self.kept_fields}
        self.finals = FinalObservations(lanes, kept[0], self.device, growing)
        whole = WholeObservations(self.columns, self.finals)
        self.obs_memory = StackedFrames(self.columns, self.finals, stack) if stack else whole
        self.valid_rows = ValidRows(members, num_envs, self.slots * num_envs, self.device) if has_reset_rows else None
        self.spans: EpisodeSpans | None = None  # of storage that follows episodes
        self.followers: list[Follower] = [] if self.valid_rows is None else [self.valid_rows]
        self.rows_written = 0  # rows of time, the same for every lane
        self.time = torch.zeros(1, dtype=torch.int64, device=self.device)  # the same, for programs

    @property
    def rows(self) -> int:
        """Rows of time that each lane holds now; their times are `rows_written - rows .. rows_written - 1`."""
        return min(self.rows_written, self.lane_rows)

    def clock(self) -> int | Tensor:
        """`rows_written`, in a program as a tensor `[1]`."""
        return self.time if in_program(self.device) else self.rows_written

    def held(self) -> int | Tensor:
        """`rows`, in a program as a tensor `[1]`."""
        return self.time.clamp(max=self.lane_rows) if in_program(self.device) else self.rows

    @property
    def _waits(self) -> Sequence[str]:
        """The columns in which something waits behind the newest row."""
        return [name for name in ("obs", AGE.name) if name in self.columns]

    def wrote(self, rows: int) -> None:
        """So many rows of time were written: move the host's clock."""
        self.rows_written += rows

    def read_lanes(self, first: int | Tensor, steps: int, *names: str) -> dict[str, Tensor]:
        """The values `[S, N, steps, *shape]` of these fields in all lanes at the times `first ..`.

        The rows must be held; `obs` may also be read one row behind the newest, where its successor waits.
        """
        slots = self._slots_of(first, steps)
        return {name: (self.obs_memory if name == "obs" else self.columns[name]).lanes(slots) for name in names}

    def hidden_successors(self, first: int | Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The successors `[S, K, *obs]` of those rows of all lanes at the times `first .. first + steps - 1` that are
        not the lane's next row, and the rows `n * steps + t` that they follow `[S, K]`; as `FinalObservations.listed`.
        """
        return self.obs_memory.hidden(self._slots_of(first, steps))

    @property
    def kept_rows(self) -> int:
        """Rows of time whose `kept_fields` each lane has now: those that it holds, and what their stacks go back to."""
        return min(self.rows_written, self.slots - 1)

    def kept(self, first: int, steps: int, name: str) -> np.ndarray:
        """A field `[S, N, steps, *shape]` as it is kept, at the times `first ..`; see `kept_fields`."""
        return self.columns[name].lanes(self._slots_of(first, steps)).contiguous().cpu().numpy()

    def put_rows(self, name: str, first: int, values: np.ndarray) -> None:
        """Overwrite a field with `values [S, N, T, *shape]`, as `kept` gives them, at the times `first ..`."""
        there = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        self.columns[name].put_lanes(self._slots_of(first, values.shape[2]), there)

    def _slots_of(self, first: int | Tensor, steps: int) -> Tensor:
        return (first + torch.arange(steps, device=self.device)) % self.slots

    def cut_episodes(self) -> None:
        """The envs are reset: the newest row is truncated, as by a time limit, where its episode goes on. Its successor
        moves to the side table."""
        self.obs_memory.begin(self.rows_written % self.slots)
        if not self.rows_written:
            return
        newest = (self.rows_written - 1) % self.slots
        ended = {name: self.columns[name].at(newest) for name in ("terminated", "truncated", "valid")}
        cut = ended["valid"] & (self.finals.place.at(newest) == NONE)
        self.finals.keep(newest, cut, self.columns["obs"].at(self.rows_written % self.slots))
        self.columns["truncated"].put(newest, ended["truncated"] | (cut & ~ended["terminated"]))

    def cut_newest(self, lanes: Tensor) -> None:
        """In these lanes `[S, N]` the env failed in the step that is written next: the newest row is truncated there,
        as by a time limit, unless it ended its episode. Its successor is the observation that waits behind it."""
        if not self.rows_written:
            return
        newest = (self.rows_written - 1) % self.slots
        ended = {name: self.columns[name].at(newest) for name in ("terminated", "truncated", "valid")}
        cut = lanes & ended["valid"] & ~ended["terminated"]
        self.columns["truncated"].put(newest, ended["truncated"] | cut)

    def chunks(self) -> Iterator[Chunk]:
        """The chunks that hold the present rows, oldest first."""
        return chunks_of(self)

    def state(self) -> dict[str, Any]:
        """What the chunks leave out: the clock of the lanes and the observation that waits behind the newest row."""
        waiting = {f"waiting_{name}": self.kept(self.rows_written, 1, name)[:, :, 0] for name in self._waits}
        return {"rows_written": self.rows_written, "chunk_rows": self.chunk_rows, **waiting}

    def load(self, state: dict[str, Any], chunks: Iterable[dict[str, np.ndarray]]) -> None:
        """Fill empty storage from `state()` and the chunks of a checkpoint. What is written next are rows of the same
        episodes, unless `cut_episodes` is called.

        Raises:
            RlabError: the chunks have other fields or shapes, or rows are missing.
        """
        self.rows_written, self.chunk_rows = int(state["rows_written"]), int(state["chunk_rows"])
        self.time.fill_(self.rows_written)
        load_chunks(self, chunks)
        self.list_valid_rows()
        if self.spans is not None:
            self.spans.begin()
        for name in self._waits:
            self.put_rows(name, self.rows_written, np.asarray(state[f"waiting_{name}"])[:, :, None])

    def follow_episodes(self) -> None:
        """From now on `spans` knows which rows belong to one episode, those that are held already among them.

        Raises:
            UsageError: the machine has no memory for it.
        """
        self.spans = EpisodeSpans(self)
        self.followers.append(self.spans)

    def list_valid_rows(self) -> None:
        """List the valid ones of the rows that are held, in storage that lists none yet."""
        if self.valid_rows is not None and self.rows:
            first = self.rows_written - self.rows
            valid = self.read_lanes(first, self.rows, "valid")["valid"]
            self.valid_rows.begin(valid.transpose(1, 2).flatten(1), first * self.num_envs)
