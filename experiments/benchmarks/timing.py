"""What the benchmark scripts share: things timed in turn, medians, and a recorded result."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlab.api import hardware, versions

ROUNDS = 5  # of each thing, in turn, so that a noisy moment meets all of them


def in_turn(things: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each thing, `rounds` times, one after another in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, thing in things.items():
            began = time.perf_counter()
            thing()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times faster: the median over rounds of the paired ratios, with the least and the most."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def seconds_of_training(run: Path) -> float:
    """Sum over the stretches between two rows of `timing.jsonl`, each its env steps by its env steps per second.

    The clock starts behind the first reset; the last row is written after the last update and before evaluation.
    """
    seconds, before = 0.0, 0
    for line in (run / "timing.jsonl").read_text().splitlines()[1:]:
        row = json.loads(line)
        seconds += (row["env_steps"] - before) / row["time/env_steps_per_second"]
        before = row["env_steps"]
    return seconds


Moments = Sequence[tuple[int, float]]  # env steps of a seed, and the time at which they were done


def seconds_per_env_step(moments: Moments) -> float:
    """In the second half of a training, so that what comes before all is running is left out."""
    half = moments[len(moments) // 2 :]
    (first, before), (last, after) = half[0], half[-1]
    return (after - before) / (last - first)


def record(script: str, result: dict[str, Any], kind: str = "", out: Path | None = None) -> None:
    """Write `SCRIPT.result.json`, or `SCRIPT.KIND.result.json`, beside the script, or else the file `out`, with what it
    was measured on."""
    measured_on = {**hardware(), **versions()}
    path = out or Path(script).with_suffix(f".{kind}.result.json" if kind else ".result.json")
    path.write_text(json.dumps({"format": 1, "measured_on": measured_on, **result}, indent=2) + "\n")
