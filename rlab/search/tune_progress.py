"""How far a search is, for people: a line for each trial that has ended and, in a terminal, a bar below them."""

import time
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from rlab.door import clean
from rlab.jobs.progress import Bar, in_notebook, line_writer, show, terminal


class TuneProgress:
    """Shows one stage of a search. Use it as a context manager.

    Args:
        what: is tried: `trial`, `finalist`.
        total: how many there are in all.
        ended: how many have ended before.
        at_once: how many this process carries out at once.
        shown: False: nothing is shown.
    """

    def __init__(self, what: str, total: int, ended: int, at_once: int, shown: bool) -> None:
        self._what, self._total, self._ended, self._at_once = what, total, ended, at_once
        self._notebook, self._console = in_notebook(), terminal()
        self._write = line_writer(shown)
        self._bar = shown and self._console.is_terminal and not self._notebook
        self._redraw: Any = show(Bar(self._share(), self._words())) if shown and self._notebook else None
        self._seconds: list[float] = []  # that each took which ended here
        self._best = ""
        self._drawn = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), console=self._console
        )
        self._task = self._drawn.add_task(f"{what}s", total=total, completed=ended, words="")
        self._said_at = time.monotonic()

    def __enter__(self) -> "TuneProgress":
        if self._bar:
            self._drawn.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._drawn.stop()

    def ended(self, line: str, seconds: float, ended: int, best: str) -> None:
        """One more has ended, as the line says; `ended` counts those of other processes, too."""
        self._ended, self._best = ended, best
        self._seconds.append(seconds)
        self.say(f"{line}{'' if self._bar else f'   ({self._words()})'}")
        self._draw()

    def say(self, line: str) -> None:
        """A line of its own."""
        self._said_at = time.monotonic()
        if self._bar:
            self._drawn.console.print(clean(line), highlight=False, markup=False)
        else:
            self._write(line)

    def under_way(self, label: str, share: float, value: float) -> None:
        """How far one of them is, in a bar, which others take turns in."""
        if self._bar:
            self._drawn.update(self._task, words=f"{self._words()}   {label}: {value:.4g} at {share:.0%}")

    def _draw(self) -> None:
        if self._bar:
            self._drawn.update(self._task, completed=self._ended, words=self._words())
        elif self._redraw is not None:
            self._redraw(Bar(self._share(), self._words()))

    def _share(self) -> float:
        return min(self._ended / self._total, 1.0)

    def _words(self) -> str:
        left = [f"about {_minutes(self._left())} left"] if self._seconds and self._ended < self._total else []
        best = [f"best {self._best}"] if self._best else []
        return ", ".join([f"{self._ended} of {self._total} {self._what}s done", *best, *left])

    def _left(self) -> float:
        """Seconds, if the rest take as long as those so far; those of other processes are not known."""
        mean = sum(self._seconds) / len(self._seconds)
        return mean * (self._total - self._ended) / self._at_once


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
