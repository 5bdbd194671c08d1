"""One cycle of training as a CUDA graph: the host launches it with one call."""

from collections.abc import Callable
from typing import Any

import torch

from rlab import draws
from rlab.learning.tracing import NotTraceable
from rlab.places import one_line

WARM_UP = 3  # cycles before the capture, in which kernels are compiled and libraries make their workspaces


class CapturedCycle:
    """A function of no arguments, of which every call runs exactly one cycle: captured on a GPU, called elsewhere.

    On a GPU the first three calls run it on a side stream, the fourth captures it and replays the capture, as all later
    calls do. The function calls programs or plain torch, and keeps what it reads and changes in tensors that stay where
    they are; what else it does on the host happens in the first four calls alone. What it returns is overwritten by the
    next replay.

    Args:
        cycle: allocates no state, reads nothing on the host, and draws random numbers from `rlab.draws`.

    Raises, when it is called:
        NotTraceable: it cannot be captured. The cycle was not run by this call, and can be called as it is.
    """

    def __init__(self, cycle: Callable[[], Any], device: torch.device) -> None:
        self._cycle, self._device = cycle, device
        self.forget()

    def forget(self) -> None:
        """Warm up and capture again in the next calls: tensors were replaced by others."""
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: Any = None
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def __call__(self) -> Any:
        if self._stream is None:
            return self._cycle()
        if self._calls < WARM_UP:
            self._calls += 1
            return self._on_the_side(self._stream)
        if self._graph is None:
            self._graph = self._captured(self._stream)
        self._graph.replay()
        draws.programs_ran()
        return self._results

    def _on_the_side(self, stream: torch.cuda.Stream) -> Any:
        """A cycle on the stream that the capture takes, which must not be the usual one."""
        usual = torch.cuda.current_stream(self._device)
        stream.wait_stream(usual)
        with torch.cuda.stream(stream):
            results = self._cycle()
        usual.wait_stream(stream)
        return results

    def _captured(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """The graph of a cycle, which a capture writes down and does not run."""
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads, such as those that write logs, may go on calling CUDA
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._results = self._cycle()
        except RuntimeError as error:
            raise NotTraceable(f"the cycle cannot be captured in a CUDA graph: {one_line(error)}") from error
        return graph
