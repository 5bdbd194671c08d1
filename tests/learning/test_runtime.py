"""Threads, denormals and the device."""

import pytest
import torch

from rlab.errors import UsageError
from rlab.learning.runtime import choose_device, own_surroundings, torch_settings


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


def test_the_device_is_the_one_that_was_asked_for() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_cuda_without_a_gpu_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cuda: this torch sees no CUDA device"):
        choose_device("cuda")


def test_an_unknown_device_gets_one_line() -> None:
    with pytest.raises(UsageError, match="unknown device 'cdua'"):
        choose_device("cdua")
