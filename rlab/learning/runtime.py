"""Threads and denormal numbers, set on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rlab.errors import UsageError, unknown

DEVICES = ("auto", "cpu", "cuda")


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Run a block with this many torch threads and denormal numbers flushed to zero; then put both back.

    Adam's second moments of dead units decay into denormals, which halve the speed of a CPU. The flag is per thread, so
    a process of ours sets it before its first torch operation; a call from Python can only set it for its own thread.
    """
    before_threads, before_flush = torch.get_num_threads(), _flushes_denormals()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before_threads)
        torch.set_flush_denormal(before_flush)


def choose_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: the name is unknown, or `cuda` is asked for and there is none.
    """
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this torch sees no CUDA device; use --device cpu or a CUDA build.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _flushes_denormals() -> bool:
    return bool((torch.tensor([1e-38]) * torch.tensor([1e-3])).item() == 0.0)
