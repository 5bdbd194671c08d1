"""What random numbers cost: counter-based draws, `rlab.draws`, against tables of noise that NumPy draws ahead.

Each case is what a run of training draws at a time, for S members. The ways, in microseconds of one draw:

- table: each member's NumPy stream fills a table for `AHEAD` draws, which is moved to the device as a whole;
- eager: every draw is worked out when it is asked for; eager, ahead: `AHEAD` draws at once;
- program: `IN_PROGRAM` draws in one compiled function, by torch's own compiler, whose call is shared by them;
- graph: the same as one CUDA graph, where there is a GPU.

    python -m rlab.experiments.benchmarks.draws
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.experiments.benchmarks.timing import ROUNDS, in_turn, record
from rlab.randomness import streams

MEMBERS = (1, 10, 100)
AHEAD = 256
IN_PROGRAM = 8
DRAWS = 512  # in one round, a multiple of both
LARGEST_TABLE = 2**22  # numbers, so that the largest cases fit in memory


class Case(NamedTuple):
    """What is drawn at a time."""

    drawn: Callable[[Draws], Tensor]
    tabulated: Callable[[np.random.Generator, int], np.ndarray]  # some draws of one member
    numbers: int  # of a member in one draw


CASES = {
    "coins: uniform [S, 8]": Case(lambda d: d.uniform(8), lambda rng, k: rng.random((k, 8), np.float32), 8),
    "actions: Gumbel [S, 8, 2]": Case(
        lambda d: d.gumbel(8, 2), lambda rng, k: rng.gumbel(size=(k, 8, 2)).astype(np.float32), 16
    ),
    "actions: normal [S, 8, 6]": Case(
        lambda d: d.normal(8, 6), lambda rng, k: rng.standard_normal((k, 8, 6), np.float32), 48
    ),
    "replay: integers [S, 128]": Case(
        lambda d: d.integers(50_000, 128), lambda rng, k: rng.integers(50_000, size=(k, 128)), 128
    ),
    "minibatches: permutation [S, 1024]": Case(
        lambda d: d.permutation(1024), lambda rng, k: rng.permuted(np.tile(np.arange(1024), (k, 1)), axis=-1), 1024
    ),
}


class Table:
    """Numbers of every member, drawn ahead by NumPy and handed out in turn."""

    def __init__(self, case: Case, seeds: Sequence[int], device: str) -> None:
        self._case, self._streams, self._device = case, streams(seeds, "table"), device
        self._ahead = max(1, min(AHEAD, LARGEST_TABLE // (len(seeds) * case.numbers)))
        self._left: list[Tensor] = []

    def next(self) -> Tensor:
        if not self._left:
            table = np.stack([self._case.tabulated(rng, self._ahead) for rng in self._streams], axis=1)
            self._left = list(torch.from_numpy(table).to(self._device).unbind())
        return self._left.pop()


def captured(several: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """The calls as a graph, after a warm-up, since what compiles or allocates cannot be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        several()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        several()
    return graph


def ways(case: Case, seeds: Sequence[int], device: str, backend: str) -> dict[str, Callable[[], Any]]:
    """`IN_PROGRAM` draws in each way."""
    table = Table(case, seeds, device)

    def several(draws: Draws) -> Callable[[], list[Tensor]]:
        return lambda: [case.drawn(draws) for _ in range(IN_PROGRAM)]

    torch._dynamo.reset()  # it compiles one piece of code a few times, and no more
    program = torch.compile(several(Draws(seeds, "program", device)), backend=backend, fullgraph=True)
    found: dict[str, Callable[[], Any]] = {
        "table": lambda: [table.next() for _ in range(IN_PROGRAM)],
        "eager": several(Draws(seeds, "eager", device)),
        "eager, ahead": several(Draws(seeds, "ahead", device, ahead=AHEAD)),
        "program": program,
    }
    if device != "cpu":
        found["graph"] = captured(program).replay
    return found


def repeated(draw: Callable[[], Any], calls: int, device: str) -> Callable[[], None]:
    """Calls in a row, until the device has done them."""

    def repeat() -> None:
        for _ in range(calls):
            draw()
        if device != "cpu":
            torch.cuda.synchronize()

    return repeat


def measure(
    members: Sequence[int] = MEMBERS,
    draws: int = DRAWS,
    rounds: int = ROUNDS,
    device: str = "cpu",
    backend: str = "inductor",
    cases: dict[str, Case] = CASES,
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Microseconds of one draw in each round, by case, number of members and way."""
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, case in cases.items():
        rows[name] = {}
        for number in members:
            calls = draws // IN_PROGRAM
            found = ways(case, range(number), device, backend)
            things = {way: repeated(draw, calls, device) for way, draw in found.items()}
            in_turn(things, rounds=1)  # first calls and first tables
            rows[name][f"S = {number}"] = {
                way: [1e6 * seconds / (calls * IN_PROGRAM) for seconds in each]
                for way, each in in_turn(things, rounds).items()
            }
    return rows


def medians(rows: dict[str, dict[str, dict[str, list[float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """The median over rounds of each."""
    return {
        name: {size: {way: statistics.median(v) for way, v in by_way.items()} for size, by_way in by_size.items()}
        for name, by_size in rows.items()
    }


def main() -> None:
    """Time in turn, print, record."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        rows = measure(device=device)
        result[device] = {"microseconds of one draw": rows, "medians": medians(rows)}
        for name, by_size in result[device]["medians"].items():
            for size, by_way in by_size.items():
                print(f"{device}  {name:36}{size:8}", *(f"{way} {us:.1f}" for way, us in by_way.items()), sep="  ")
    record(__file__, result)


if __name__ == "__main__":
    main()
