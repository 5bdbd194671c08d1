"""How far a run is: a bar in a terminal, else one plain line every few seconds. Always on standard error."""

import sys
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY = 5.0  # seconds between lines where there is no terminal


class ProgressListener:
    """Shows env steps, steps per second, return and time left. Use it as a context manager."""

    def __init__(self, total_env_steps: int) -> None:
        self._total = total_env_steps
        self._console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} env steps"),
            BarColumn(),
            TextColumn("{task.fields[rate]:,.0f} steps/s  return {task.fields[shown]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total_env_steps, rate=0.0, shown="-")
        self._shown, self._said_at = "-", time.monotonic()
        self._began: tuple[float, int] | None = None  # when the first row came, and its env steps

    def __enter__(self) -> "ProgressListener":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def on_metrics(self, env_steps: int, metrics: Any) -> None:
        """Show the newest training returns and the speed."""
        returns = metrics["train/episode_return"]
        if np.isfinite(returns).any():
            self._shown = f"{np.nanmean(returns):.1f} (training)"
        rate = float(metrics["time/env_steps_per_second"])
        now = time.monotonic()
        began, first = self._began = self._began or (now, env_steps)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=env_steps, rate=rate, shown=self._shown)
        elif now - self._said_at >= PLAIN_EVERY and env_steps > first:
            self._said_at = now
            left = (self._total - env_steps) * (now - began) / (env_steps - first)
            print(
                f"{env_steps:,}/{self._total:,} env steps  {rate:,.0f} steps/s  "
                f"return {self._shown}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def on_evaluation(self, env_steps: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Greedy episodes say more than training ones: one line for each evaluation, above the bar."""
        means = returns.mean(axis=1)
        worst = f", worst seed {means.min():.1f}" if len(means) > 1 else ""
        self._console.print(f"{env_steps:>9,} env steps: greedy return {means.mean():.1f}{worst}", highlight=False)

    def on_save(self, env_steps: int) -> None:
        """Saving is quick; nothing to show."""
