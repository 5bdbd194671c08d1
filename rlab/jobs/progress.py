"""How far a job is, for people: a bar in a terminal or a notebook, else one plain line every few seconds. On standard
error, except in a notebook, where that is a red box. No other module of `rlab.jobs` writes to a terminal."""

import html
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rlab.door import clean

PLAIN_EVERY = 5.0  # seconds between lines where there is no terminal
REDRAW_EVERY = 0.5  # seconds between two drawings of a notebook's bar


@dataclass(frozen=True)
class Bar:
    """How far something is, as a notebook shows it: no widgets are needed, and a front end without HTML shows text."""

    done: float  # share in [0, 1]
    words: str

    def __repr__(self) -> str:
        return f"{self.done:4.0%}  {self.words}"

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.done:.4f}" max="1" style="width: 20em"></progress>'
        return f"{bar} {self.done:.0%} &nbsp;{html.escape(self.words)}"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and shell is not None and shell.get_ipython() is not None


def terminal() -> Console:
    """Where bars are drawn and lines written beside them."""
    # rich would show every line as a block of HTML in a notebook, and its bar needs widgets there.
    return Console(file=sys.stdout if in_notebook() else sys.stderr, force_jupyter=False)


def show(bar: Bar) -> Callable[[Bar], None]:
    """Show a bar in the cell that runs; what comes back draws another one in its place."""
    handle: Any = importlib.import_module("IPython.display").display(bar, display_id=True)
    return lambda newer: handle.update(newer)


class ProgressListener:
    """Shows env steps, steps per second, return and time left. Use it as a context manager.

    Args:
        sets: of settings in which members differ, by name, each with as many members: returns of the best are shown.
    """

    def __init__(self, total: int, unit: str = "env_steps", sets: Sequence[str] = ()) -> None:
        self._sets = tuple(sets)
        self._total, self._unit, self._words = total, unit, unit.replace("_", " ")
        self._notebook = in_notebook()
        self._console = terminal()
        self._redraw: Callable[[Bar], None] | None = None  # in a notebook: how its bar is drawn again
        self._bar = Progress(
            TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {self._words}"),
            BarColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s  {task.fields[shown]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, rate=0.0, shown="-")
        self._shown, self._written_at = "-", time.monotonic()
        self._drawn = Bar(0.0, f"{total:,} {self._words}")
        self._began: tuple[float, int] | None = None  # when the first row came, and its env steps

    def __enter__(self) -> "ProgressListener":
        if self._notebook:
            self._redraw = show(self._drawn)
        elif self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._redraw is not None:
            self._redraw(self._drawn)
        elif self._console.is_terminal:
            self._bar.stop()

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        """Show the newest training returns, where there are envs, else the loss; and the speed."""
        shown = self._newest(metrics)
        self._shown = shown or self._shown
        rate = float(metrics[f"time/{self._unit}_per_second"])
        now = time.monotonic()
        began, first = self._began = self._began or (now, env_steps)
        if self._console.is_terminal and not self._notebook:
            self._bar.update(self._task, completed=env_steps, rate=rate, shown=self._shown)
            return
        far = f"{env_steps:,}/{self._total:,} {self._words}  {rate:,.0f}/s  {self._shown}"
        if env_steps > first:
            far += f"  {max(0, self._total - env_steps) * (now - began) / (env_steps - first):.0f} s left"
        self._drawn = Bar(min(env_steps / self._total, 1.0), far)
        if self._redraw is not None and now - self._written_at >= REDRAW_EVERY:
            self._written_at = now
            self._redraw(self._drawn)
        elif self._redraw is None and now - self._written_at >= PLAIN_EVERY and env_steps > first:
            self._written_at = now
            print(far, file=sys.stderr, flush=True)

    def _newest(self, metrics: Any) -> str | None:
        """What is worth showing of a row of metrics; None where it says nothing."""
        if "train/episode_return" in metrics:
            name, returns = self._best_set(metrics["train/episode_return"])
            return f"return {np.nanmean(returns):.1f} (training{name})" if np.isfinite(returns).any() else None
        losses = (f"{tag} {np.nanmean(value):.3g}" for tag, value in metrics.items() if tag.startswith("loss/"))
        return next(losses, None)

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Greedy episodes say more than training ones: one line for each evaluation, above the bar."""
        name, means = self._best_set(returns.mean(axis=1))
        means = means[~np.isnan(means)]  # without those that were dropped
        worst = f", worst seed {means.min():.1f}" if len(means) > 1 else ""
        self._console.print(
            f"{env_steps:>9,} {self._words}: greedy return {means.mean():.1f}{worst}{name}", highlight=False
        )

    def _best_set(self, values: np.ndarray) -> tuple[str, np.ndarray]:
        """The values `[S]` of the set of settings with the largest mean, and its name; all of them where there is one
        set."""
        if len(self._sets) < 2:
            return "", values
        each = values.reshape(len(self._sets), -1)
        known = ~np.isnan(each)
        means = np.where(known, each, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        best = int(np.where(known.any(axis=1), means, -np.inf).argmax())
        return f", best of {len(self._sets)} sets: {self._sets[best]}", each[best]

    def on_save(self, env_steps: int) -> None:
        """Saving is quick; nothing to show."""


def announce(text: str) -> None:
    """What is about to happen, before a bar begins."""
    print(clean(text))


def announcer(progress: bool) -> Callable[[str], None]:
    """Announces lines; without `progress` it says nothing."""
    return announce if progress else lambda line: None


def line_writer(progress: bool) -> Callable[[str], None]:
    """Writes a line for each step of a job that has no bar; without `progress` it writes nothing."""
    if not progress:
        return lambda line: None
    return lambda line: print(clean(line), file=sys.stdout if in_notebook() else sys.stderr, flush=True)
