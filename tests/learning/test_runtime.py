"""Threads, denormals and the device."""

import ctypes
import sys

import pytest
import torch

from rlab.errors import UsageError
from rlab.learning.runtime import choose_devices, own_surroundings, torch_settings


def flushes() -> bool:
    return bool((torch.tensor([1e-38]) * torch.tensor([1e-3])).item() == 0.0)


def test_settings_hold_inside_the_block_and_are_put_back_after_it() -> None:
    threads, flushed = torch.get_num_threads(), flushes()
    with torch_settings(threads + 1):
        assert torch.get_num_threads() == threads + 1
        assert flushes()
    assert torch.get_num_threads() == threads
    assert flushes() == flushed


def test_settings_are_put_back_after_an_error_too() -> None:
    threads, flushed = torch.get_num_threads(), flushes()

    def fail() -> None:
        with torch_settings(threads + 1):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (torch.get_num_threads(), flushes()) == (threads, flushed)


def test_a_program_under_autocast_computes_with_float32_inside_the_block() -> None:
    ones = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with own_surroundings(threads=1):
            assert (ones @ ones).dtype is torch.float32
        assert (ones @ ones).dtype is torch.bfloat16  # as the program has it


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


CPU, FIRST, SECOND = (torch.device(name) for name in ("cpu", "cuda:0", "cuda:1"))


@pytest.mark.parametrize(
    ("name", "gpus", "devices"),
    [
        ("cpu", 2, (CPU,)),
        ("auto", 0, (CPU,)),
        ("auto", 2, (CPU, FIRST)),
        ("cuda", 1, (FIRST,)),
        ("cuda:1", 2, (SECOND,)),
    ],
)
def test_the_devices_are_those_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, devices: tuple[torch.device, ...]
) -> None:
    pretend(monkeypatch, gpus)
    assert choose_devices(name) == devices


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "--device cuda: this torch sees no CUDA device"),
        ("cuda:0", 0, "--device cuda:0: this torch sees no CUDA device"),
        ("cuda:2", 2, "--device cuda:2: torch sees 2 CUDA devices, cuda:0 to cuda:1."),
        ("cdua", 1, "unknown device 'cdua'; known: auto, cpu, cuda, or one GPU of several, such as cuda:1."),
        ("cuda:one", 1, "unknown device 'cuda:one'"),
        ("cpu:1", 1, "unknown device 'cpu:1'"),
    ],
)
def test_a_device_that_is_not_there_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, message: str
) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(UsageError) as caught:
        choose_devices(name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_memory_of_large_tensors_is_used_again_without_the_system_clearing_it() -> None:
    resource = pytest.importorskip("resource")
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("needs glibc")
    with torch_settings(1):
        size = 4_000_000  # floats, 16 MB: 3 907 pages
        torch.ones(size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(size)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 3 * 3_907  # 19 535 where every tensor is of fresh pages; the first may still be
