"""How a loop calls the functions of a cycle: as they are, as compiled programs, or captured on a GPU."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from rlab.errors import UsageError
from rlab.learning.capture import CapturedCycle
from rlab.learning.contract import Now, Scheduled
from rlab.learning.program import NotTraceable, Program

Found = TypeVar("Found")
CAPTURED_STEPS = (32, 8, 1)  # vector steps of a captured cycle: launching many of them costs little beside them
MOST_CAPTURED = 16  # kinds of cycles; what comes beyond is launched piece by piece


class Captured(NamedTuple):
    """What became of a function that may have been captured."""

    ran: bool  # whether its Python ran; else what it did on the device was repeated
    result: Any  # in memory that the next repetition overwrites


class Programs:
    """Calls functions as they are.

    Args:
        device: where the tensors are.
    """

    compiles = False
    cycle_steps: Sequence[int] = (1,)  # how many vector steps a cycle may have, the most first

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def run(self, name: str, function: Callable[..., Found], *args: Any) -> Found:
        """Call a function; of one name it is always the same one, whose attributes keep their tensors."""
        return function(*args)

    def scalars(self, values: Sequence[Scheduled]) -> Sequence[Now]:
        """What follows the clock at successive times, as functions take it: numbers, and `[S, 1]` where members
        differ."""
        return [{name: self._number(value) for name, value in each.items()} for each in values]

    def _number(self, value: float | np.ndarray) -> float | torch.Tensor:
        if not isinstance(value, np.ndarray):
            return value
        if (value == value[0]).all():  # such as 0, how far targets follow in most steps
            return float(value[0])
        return torch.as_tensor(value, dtype=torch.float32, device=self._device).unsqueeze(1)

    def capture(self, key: Hashable, function: Callable[[], Any]) -> Captured:
        """Do what the function does: of one key always the same, with what is new in tensors that it finds in the same
        places."""
        return Captured(True, function())

    def forget(self) -> None:
        """What is no tensor has changed, such as which parameters learn: compile and capture everything again."""


AS_IT_IS = Programs(torch.device("cpu"))


class CompiledPrograms(Programs):
    """Calls functions as compiled programs, and captures cycles where they run on a GPU.

    A function that cannot be a program is called as it is.

    Args:
        device: where the tensors are.
        note: hears, in one line, which function is called as it is, and why.
    """

    compiles = True

    def __init__(self, device: torch.device, note: Callable[[str], None]) -> None:
        super().__init__(device)
        self._note = note
        self._captures = device.type == "cuda"
        self.cycle_steps = CAPTURED_STEPS if self._captures else (1,)
        self._programs: dict[str, Program] = {}
        self._as_it_is: set[str] = set()
        self._tables: dict[int, tuple[torch.Tensor, Sequence[Now]]] = {}  # by the number of times
        self._scheduled: Scheduled = {}  # the first numbers, whose sizes all others have
        self._cycles: dict[Hashable, CapturedCycle] = {}
        self._called: Callable[[], Any] | None = None  # what is being captured, or repeated

    def run(self, name: str, function: Callable[..., Found], *args: Any) -> Found:
        if name in self._as_it_is:
            return function(*args)
        if name not in self._programs:
            self._programs[name] = Program(function, name)
        try:
            found: Found = self._programs[name](*args)
        except NotTraceable as error:
            self._as_it_is.add(name)
            self._captures, self.cycle_steps = False, (1,)
            self._note(f"not compiled, which is slower: {error}")
            return function(*args)
        return found

    def scalars(self, values: Sequence[Scheduled]) -> Sequence[Now]:
        rows_of_numbers = [np.concatenate([np.atleast_1d(value) for value in each.values()]) for each in values]
        self._scheduled = self._scheduled or values[0]
        size = sum(map(np.size, self._scheduled.values()))
        for each, row in zip(values, rows_of_numbers, strict=True):
            if len(row) != size:
                raise _changed(self._scheduled, each)
        numbers = torch.from_numpy(np.stack(rows_of_numbers)).float()
        if len(values) not in self._tables:
            table = torch.empty_like(numbers, device=self._device)
            rows: Sequence[Now] = [_named(values[0], row) for row in table.unbind()]
            self._tables[len(values)] = table, rows
        table, rows = self._tables[len(values)]
        table.copy_(numbers, non_blocking=True)
        return rows

    def capture(self, key: Hashable, function: Callable[[], Any]) -> Captured:
        within = self._called is not None  # a part of what is being captured
        if not self._captures or within or (key not in self._cycles and len(self._cycles) == MOST_CAPTURED):
            return Captured(True, function())
        if key not in self._cycles:
            self._cycles[key] = CapturedCycle(self._call, self._device)
        self._called, self._ran = function, False
        try:
            result = self._cycles[key]()
            return Captured(self._ran, result)
        except NotTraceable as error:
            self._captures, self.cycle_steps = False, (1,)
            self._note(f"not captured, which is slower: {error}")
            return Captured(True, function())
        finally:
            self._called = None

    def forget(self) -> None:
        self._programs.clear()
        self._cycles.clear()

    def _call(self) -> Any:
        assert self._called is not None
        self._ran = True
        return self._called()


def _changed(first: Scheduled, later: Scheduled) -> UsageError:
    """What to say of an agent whose numbers have not the names and sizes that they began with."""
    before, now = ({name: np.shape(value) for name, value in each.items()} for each in (first, later))
    name = next(name for name in (*before, *now) if before.get(name) != now.get(name))
    was, became = (f"of shape {each[name]}" if name in each else "missing" for each in (before, now))
    return UsageError(
        f"what scheduled() of the agent gives as {name!r} was {was} at first and is {became} later; a compiled run "
        "needs the same names and shapes throughout: give a number, or always one for each member (per_member), or "
        "train with --compile off"
    )


def _named(values: Scheduled, row: torch.Tensor) -> Now:
    """The numbers of a row by name, each a view: `[]`, or `[S, 1]` where members differ."""
    parts = row.split([np.size(value) for value in values.values()])
    named = zip(values.items(), parts, strict=True)
    return {n: part.unsqueeze(1) if isinstance(value, np.ndarray) else part[0] for (n, value), part in named}
