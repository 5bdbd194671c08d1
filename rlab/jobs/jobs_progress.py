"""How far many jobs are, in one display: a bar for each that is under way and one for all of them; without a terminal,
one plain line every few seconds."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rlab.door import clean
from rlab.engines.job import Event, Job
from rlab.jobs.progress import PLAIN_EVERY, Bar, in_notebook, line_writer, show, terminal
from rlab.runs.listing import clock_unit

SHOWN = 4  # jobs that a plain line names
MOST_BARS = 16  # of jobs, so that they fit into a terminal


@dataclass
class _Shown:
    """A job under way, as it is shown."""

    label: str
    unit: str
    budget: int
    task: TaskID | None  # its bar
    time: int = 0
    first: tuple[float, int] | None = None  # the wall clock and the job's when its first row came
    rate: float = 0.0
    words: str = "begins"

    @property
    def share(self) -> float:
        return min(self.time / self.budget, 1.0)

    def __str__(self) -> str:
        return f"{self.label} {self.share:.0%}, {self.words}"


class JobsProgress:
    """Hears the events of an engine. Use it as a context manager.

    Args:
        total: how many jobs there will be; None: nobody knows.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total, self._ended, self._done = total, 0, 0
        self._under_way: dict[Job, _Shown] = {}
        self._said: set[str] = set()  # several say the same
        self._notebook, self._console = in_notebook(), terminal()
        self._write = line_writer(True)
        self._redraw: Any = None
        self._written_at = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[words]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._whole: TaskID | None = None

    def __enter__(self) -> "JobsProgress":
        if self._notebook:
            self._redraw = show(Bar(0.0, self._line()))
        elif self._console.is_terminal:
            self._bars.start()
            self._whole = self._bars.add_task("all", total=self._total, words="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._redraw is not None:
            self._redraw(Bar(self._share(), self._line()))
        elif self._console.is_terminal:
            self._bars.stop()

    def on_event(self, event: Event) -> None:
        """Show what happened to a job."""
        job = event.job
        if event.kind == "begun" and job not in self._under_way:
            unit = clock_unit(job.folder)
            budget = int(job.folder.config["run"][unit])
            has_bar = self._whole is not None and len(self._bars.task_ids) <= MOST_BARS
            task = self._bars.add_task(clean(job.label), total=1.0, words="begins") if has_bar else None
            self._under_way[job] = _Shown(job.label, unit, budget, task)
        shown = self._under_way.get(job)
        if event.kind == "again":
            self.say(f"{job.label}: runs again: {event.text}")
        elif event.kind == "said" and event.text not in self._said:
            self._said.add(event.text or "")
            self.say(f"{job.label}: {event.text}")
        elif event.kind == "ended":
            self._ended += 1
            self._done += event.status == "done"
            if (gone := self._under_way.pop(job, None)) is not None and gone.task is not None:
                self._bars.remove_task(gone.task)
        elif shown is not None and event.row:
            _follow(shown, event)
        self._draw(shown)

    def say(self, line: str) -> None:
        """A line of its own, above the bars."""
        if self._console.is_terminal:
            self._console.print(clean(line), highlight=False, markup=False)
        else:
            self._write(line)

    def _draw(self, shown: _Shown | None) -> None:
        now = time.monotonic()
        if self._whole is not None:
            self._bars.update(self._whole, completed=self._share() * (self._total or 0), words=self._head())
            if shown is not None and shown.task is not None and shown.task in self._bars.task_ids:
                words = f"{shown.rate:,.0f}/s  {shown.words}" if shown.rate else shown.words
                self._bars.update(shown.task, completed=shown.share, words=words)
        elif now - self._written_at >= PLAIN_EVERY:
            self._written_at = now
            if self._redraw is not None:
                self._redraw(Bar(self._share(), self._line()))
            else:
                self._write(self._line())

    def _share(self) -> float:
        """Of all jobs, how much is done; 0 where nobody knows how many there will be."""
        under_way = sum(each.share for each in self._under_way.values())
        return (self._ended + under_way) / self._total if self._total else 0.0

    def _head(self) -> str:
        of = f" of {self._total}" if self._total else ""
        return f"{self._done}{of} done, {len(self._under_way)} under way"

    def _line(self) -> str:
        named = [str(each) for each in list(self._under_way.values())[:SHOWN]]
        more = len(self._under_way) - len(named)
        rest = [f"{more} more"] if more > 0 else []
        return "; ".join([self._head(), *named, *rest])


def _follow(shown: _Shown, event: Event) -> None:
    """Take what a row says of how far a job is and how well it does."""
    row, now = event.row, time.monotonic()
    shown.time = max(shown.time, int(row[shown.unit]))
    if event.kind == "evaluation":
        shown.words = f"greedy return {_mean(row['returns']):.1f}" + (" (final)" if row.get("final") else "")
        return
    began, first = shown.first = shown.first or (now, shown.time)
    shown.rate = (shown.time - first) / (now - began) if now > began else 0.0
    if "train/episode_return" in row and shown.words.startswith(("begins", "return")):
        shown.words = f"return {_mean(row['train/episode_return']):.1f} (training)"


def _mean(values: Any) -> float:
    """The mean of numbers in nested lists, without those that are None."""
    found = np.array(values, np.float64)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
