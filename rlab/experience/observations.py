"""How storage keeps observations: each once, also where envs show stacks of their newest frames.

A place is a number that counts through the memory of all lanes, as `Column.take` has it; a slot is an int, or a tensor
`[1]` in a program. Bits are values as they lie in memory.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.experience.columns import Column
from rlab.experience.env_contract import Step
from rlab.experience.fields import Field
from rlab.experience.final_observations import NONE, FinalObservations
from rlab.networks.spaces import Box, Space

AGE = Field("frame_age", (), "uint8")  # how many frames of its episode lie before a row's, as far as that matters


class WholeObservations:
    """The observations of all rows, each kept whole, and the hidden final ones."""

    def __init__(self, columns: dict[str, Column], finals: FinalObservations) -> None:
        self.column, self.finals = columns["obs"], finals

    def write(self, slot: int | Tensor, following: int | Tensor, obs: Tensor, step: Step) -> None:
        """`obs [S, N, *obs]` was acted on in the row at `slot`; what to act on next waits in the slot behind it."""
        self.column.put(slot, self.kept(obs))
        self.column.put(following, self.kept(step.obs))
        self.finals.release(slot)
        if not (step.none_ended or step.next_obs is step.obs):
            hidden = step.valid & (step.terminated | step.truncated)
            self.finals.keep(slot, hidden, self.column.bits_of(self.kept(step.next_obs)))

    def kept(self, obs: Tensor) -> Tensor:
        """What is kept of observations `[S, N, *obs]`."""
        return obs

    def begin(self, slot: int) -> None:
        """Fresh episodes begin in this slot."""

    def of_episode(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        """What the columns keep of the observations `[T + 1, *obs]` of a whole episode.

        Raises:
            UsageError: they are not as the env shows them.
        """
        return {"obs": obs}

    def take(self, at: Tensor) -> Tensor:
        """The observations `[K, *obs]`, as bits, of the rows at the places `at [K]`."""
        return self.column.take(at)

    def successors(self, at: Tensor, following: Tensor) -> Tensor:
        """What the rows at the places `at [K]` led to, `[K, *obs]` as bits; `following [K]` are the places behind."""
        return self.finals.put_into(self.column.take(following), at)

    def lanes(self, slots: Tensor) -> Tensor:
        """The observations `[S, N, T, *obs]` in the slots `[T]`."""
        return self.column.lanes(slots)

    def hidden(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden successors of the rows in the slots `[T]`, and which rows they follow: see
        `Lanes.hidden_successors`."""
        obs, row = self.finals.listed(self.finals.place.lanes(slots).flatten(1))
        return self.column.values(obs), row


class StackedFrames(WholeObservations):
    """Stacks of the newest frames of an episode, of which the newest frame alone is kept.

    The older ones are read from the lane's rows before it, as far back as the episode goes; zeros stand for the rest.
    """

    def __init__(self, columns: dict[str, Column], finals: FinalObservations, space: Box) -> None:
        super().__init__(columns, finals)
        self.age, self.axis, self.more_rows = columns[AGE.name], space.frame_axis, space.frames - 1
        self._members, slots, self._num_envs = self.age.bits.shape
        self._ring = slots * self._num_envs  # places of a member
        # How many rows before its own each frame of a stack lies, the oldest first, [frames].
        self._back = torch.arange(self.more_rows, -1, -1, device=self.age.bits.device)

    def write(self, slot: int | Tensor, following: int | Tensor, obs: Tensor, step: Step) -> None:
        super().write(slot, following, obs, step)
        age = (self.age.at(slot) + 1).clamp(max=self.more_rows)
        reset_at_once = not (step.none_ended or step.next_obs is step.obs)
        if reset_at_once or not step.all_valid:
            begins = ~step.valid  # behind a reset row
            age = age.masked_fill(begins | step.terminated | step.truncated if reset_at_once else begins, 0)
        self.age.put(following, age)

    def kept(self, obs: Tensor) -> Tensor:
        length = obs.shape[2 + self.axis] // len(self._back)  # of one frame along its axis
        return obs.narrow(2 + self.axis, self.more_rows * length, length)

    def begin(self, slot: int) -> None:
        self.age.clear(slot)

    def of_episode(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        older, newest = np.split(obs, [obs.shape[1 + self.axis] // len(self._back) * self.more_rows], 1 + self.axis)
        before = np.split(obs, [newest.shape[1 + self.axis]], 1 + self.axis)[1]  # but for the oldest frame
        if older[0].any() or (older[1:] != before[:-1]).any():
            raise UsageError(
                "an episode's observations are not stacks of its newest frames, with zeros before its beginning, as "
                "--wrapper FrameStack makes them; was it recorded with another wrapper?"
            )
        return {"obs": newest, AGE.name: np.minimum(np.arange(len(obs)), self.more_rows).astype(AGE.dtype)}

    def take(self, at: Tensor) -> Tensor:
        return self._joined(self._frames(at, self.age.take(at)))

    def successors(self, at: Tensor, following: Tensor) -> Tensor:
        hidden = self.finals.place.take(at) != NONE
        age = torch.where(hidden, self.age.take(at) + 1, self.age.take(following))
        frames = self._frames(following, age)
        newest = self.finals.put_into(frames[:, -1], at)  # on the host in place
        return self._joined(frames if self.finals.on_host else self._with_newest(frames, newest))

    def lanes(self, slots: Tensor) -> Tensor:
        at = self._places(slots)
        return self.column.values(self.take(at.flatten())).unflatten(0, at.shape)

    def hidden(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        newest, row = super().hidden(slots)  # [S, K, *frame]
        places = self._places(slots).flatten(1)
        at = places.gather(1, row.clamp(max=places.shape[1] - 1)).flatten()
        # A row that is none has no older frames either, as if an episode began there.
        age = (self.age.take(at) + 1).masked_fill((row == places.shape[1]).flatten(), 0)
        frames = self._with_newest(self._frames(self._behind(at), age), self.column.bits_of(newest).flatten(0, 1))
        return self.column.values(self._joined(frames)).unflatten(0, row.shape), row

    def _places(self, slots: Tensor) -> Tensor:
        """The places `[S, N, T]` of the rows of all lanes in the slots `[T]`."""
        member = torch.arange(self._members, device=slots.device).view(-1, 1, 1) * self._ring
        return member + torch.arange(self._num_envs, device=slots.device).view(1, -1, 1) + slots * self._num_envs

    def _behind(self, at: Tensor) -> Tensor:
        """The places of the rows behind those at `at`, in the same lanes."""
        return at - at % self._ring + (at % self._ring + self._num_envs) % self._ring

    def _frames(self, at: Tensor, age: Tensor) -> Tensor:
        """The frames `[K, frames, *frame]`, as bits, of stacks whose newest one is at the place `at [K]`; zeros before
        the beginning of an episode, `age [K]` rows back."""
        within = at.unsqueeze(1) % self._ring
        places = (at.unsqueeze(1) - within) + (within - self._back * self._num_envs) % self._ring  # [K, frames]
        frames = self.column.take(places.flatten())
        absent = (self._back > age.unsqueeze(1)).flatten()
        if self.finals.on_host:  # write to those alone that are absent
            which = absent.nonzero().squeeze(1)
            frames = frames.index_fill_(0, which, 0) if len(which) else frames
        else:
            frames = frames.masked_fill(absent.view(-1, *(1 for _ in frames.shape[1:])), 0)
        return frames.unflatten(0, places.shape)

    @staticmethod
    def _with_newest(frames: Tensor, newest: Tensor) -> Tensor:
        """Stacks `[K, frames, *frame]` with another newest frame `[K, *frame]`."""
        return torch.cat((frames[:, :-1], newest.unsqueeze(1)), dim=1)

    def _joined(self, frames: Tensor) -> Tensor:
        """Frames `[K, frames, *frame]` one behind the other along their axis, `[K, *obs]`."""
        return frames.movedim(1, 1 + self.axis).flatten(1 + self.axis, 2 + self.axis)


def stacked(space: Space | None) -> Box | None:
    """The space, if its observations are stacks of frames."""
    return space if isinstance(space, Box) and space.frames > 1 else None


def kept_fields(fields: Sequence[Field], space: Space | None) -> tuple[Field, ...]:
    """What of these fields of a row, `obs` first, is kept: of a stack one frame, and the row's age."""
    stack = stacked(space)
    if stack is None:
        return tuple(fields)
    shape = list(fields[0].shape)
    shape[stack.frame_axis] //= stack.frames
    return replace(fields[0], shape=tuple(shape)), *fields[1:], AGE
