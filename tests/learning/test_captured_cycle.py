"""A cycle that is captured in a CUDA graph runs once in every call, as it does where it is called."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rlab.draws import Draws
from rlab.learning.capture import WARM_UP, CapturedCycle
from rlab.learning.compiler import why_not_compile
from rlab.learning.program import Program
from rlab.learning.tracing import NotTraceable, compiling_now

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")


class Cycle:
    """Counts its cycles in a tensor, and on the host how often Python ran it."""

    def __init__(self, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.noise = Draws([0], "a cycle", device)
        self.calls = 0
        self.fails = False

    def __call__(self) -> dict[str, Tensor]:
        if self.fails:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        if not compiling_now():
            self.calls += 1
        self.count.add_(1)
        return {"count": self.count * 1, "noise": self.noise.uniform(2)}


class FakeGraph:
    """What `torch.cuda.CUDAGraph` is to a cycle: it keeps what was captured, and runs it when it is replayed."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for CUDA on a machine without; the list says what was asked of it, in order."""
    asked: list[str] = []

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.name = "side" if device is not None else "usual"

        def wait_stream(self, other: "Stream") -> None:
            asked.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def entered(what: str) -> Iterator[None]:
        asked.append(what)
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: entered(f"on the {stream.name} stream"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(
        torch.cuda, "graph", lambda graph, stream, capture_error_mode: entered(f"captures on the {stream.name} stream")
    )
    return asked


def test_on_the_cpu_a_call_is_a_cycle() -> None:
    cycle = Cycle(CPU)
    captured = CapturedCycle(cycle, CPU)
    assert [int(captured()["count"]) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert cycle.calls == 5


def test_warm_up_runs_on_a_side_stream_and_then_one_capture_is_replayed(fake_cuda: list[str]) -> None:
    cycle = Cycle(CPU)
    captured = CapturedCycle(cycle, torch.device("cuda"))
    for _ in range(WARM_UP):
        captured()
    one = ["side waits for usual", "on the side stream", "usual waits for side"]
    assert fake_cuda == one * WARM_UP
    captured()
    assert fake_cuda[-1] == "captures on the side stream"
    for _ in range(4):
        captured()
    assert len(fake_cuda) == 3 * WARM_UP + 1
    assert cycle.calls == WARM_UP + 1
    graph = captured._graph
    assert isinstance(graph, FakeGraph)
    assert graph.replays == 5  # a call is a cycle: the one that captures replays too
    captured.forget()
    captured()
    assert cycle.calls == WARM_UP + 2


@pytest.mark.usefixtures("fake_cuda")
def test_a_cycle_that_cannot_be_captured_says_why() -> None:
    cycle = Cycle(CPU)
    captured = CapturedCycle(cycle, torch.device("cuda"))
    for _ in range(WARM_UP):
        captured()
    cycle.fails = True
    with pytest.raises(NotTraceable, match="cannot be captured in a CUDA graph: RuntimeError: operation not permitted"):
        captured()


@needs_cuda
@pytest.mark.parametrize("compiles", [False, True])
def test_a_captured_cycle_counts_and_draws_as_on_the_cpu(compiles: bool) -> None:
    device = torch.device("cuda")
    if compiles and (missing := why_not_compile(device)):
        pytest.skip(missing)
    cycle, plain = Cycle(device), Cycle(CPU)
    captured = CapturedCycle(Program(cycle, "cycle") if compiles else cycle, device)
    for _ in range(WARM_UP + 5):
        found, wanted = captured(), plain()
        assert found["count"].item() == wanted["count"].item()
        assert torch.equal(found["noise"].cpu(), wanted["noise"])


@needs_cuda
def test_a_cycle_that_reads_on_the_host_is_refused_and_goes_on_by_itself() -> None:
    count = torch.zeros((), device="cuda")
    captured = CapturedCycle(lambda: count.add_(1).item(), torch.device("cuda"))
    for _ in range(WARM_UP):
        captured()
    with pytest.raises(NotTraceable, match="cannot be captured"):
        captured()
    assert count.add_(1).item() == WARM_UP + 1


@needs_cuda
def test_the_memory_of_a_captured_cycle_stays_as_it_is() -> None:
    captured = CapturedCycle(Cycle(torch.device("cuda")), torch.device("cuda"))
    for _ in range(WARM_UP + 1):
        captured()
    before = torch.cuda.memory_allocated()
    for _ in range(10_000):
        captured()
    assert torch.cuda.memory_allocated() == before
