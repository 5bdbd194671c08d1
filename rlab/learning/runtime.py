"""The surroundings that rlab computes in, set on purpose, and put back as the program around it had them."""

import contextlib
import ctypes
import functools
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from rlab.errors import UsageError
from rlab.learning.determinism import deterministic_torch
from rlab.machine import ranks_here
from rlab.networks.torch_defaults import usual_torch
from rlab.randomness import global_seeds

DEVICES = ("auto", "cpu", "cuda")  # and one GPU of several, such as cuda:1


@contextmanager
def own_surroundings(threads: int | None, seed: int = 0, deterministic: bool = False) -> Iterator[None]:
    """Run a block as in a fresh process, whatever the surrounding program has set; then restore everything.

    Inside, torch makes float32 numbers on the CPU that can be learned from, and computes with them (no autocast), NumPy
    reports errors as it usually does, and the global random generators of NumPy, `random` and torch start from `seed`:
    other people's envs, layers and agents draw from them. Afterwards they, torch's settings and the working folder are
    as they were before.

    Args:
        threads: of torch; None leaves them, and denormal numbers, as they are.
        seed: the first training seed of a run.
        deterministic: as of `deterministic_torch`, which raises what this does.
    """
    numpy_errors = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")  # as NumPy comes
    settings = nullcontext() if threads is None else torch_settings(threads)
    with ExitStack() as surroundings:
        for each in (_SHARED.settings(seed), usual_torch(), torch.inference_mode(False), torch.enable_grad(), settings):
            surroundings.enter_context(each)
        for device in ("cpu", "cuda"):
            surroundings.enter_context(torch.autocast(device, enabled=False))
        if deterministic:
            surroundings.enter_context(deterministic_torch())
        with numpy_errors:
            yield


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Run a block with this many torch threads and denormal numbers flushed to zero; then put both back.

    Adam's second moments of dead units decay into denormals, which halve the speed of a CPU. The flag is per thread, so
    a process of ours sets it before its first torch operation; a call from Python can only set it for its own thread.
    """
    _keep_freed_memory()
    before_threads, before_flush = torch.get_num_threads(), _flushes_denormals()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before_threads)
        torch.set_flush_denormal(before_flush)


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc, where that is the C library, keep the memory of large tensors that are freed for the next ones.

    It hands it back to the system after each, which clears it for the next one: a fifth of the time of an update of ten
    SACs, and two fifths of ten CrossQs. It is of the whole process, once, and cannot be put back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 512 * 2**20)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@contextmanager
def kept_settings() -> Iterator[None]:
    """A block that may change what is global in torch and NumPy: whether gradients are recorded, default dtype and
    device, threads, deterministic algorithms, what NumPy does about errors. All of it is put back afterwards."""
    before, errors = _settings(), np.geterr()
    try:
        yield
    finally:
        np.seterr(**errors)
        for name, value, now in zip(_SETTERS, before, _settings(), strict=True):
            if now != value:
                _SETTERS[name](value)


def _settings() -> tuple[Any, ...]:
    """Those of torch, in the order of `_SETTERS`."""
    default = torch.empty(0)
    deterministic = torch.are_deterministic_algorithms_enabled()
    return torch.is_grad_enabled(), default.dtype, default.device, torch.get_num_threads(), deterministic


_SETTERS: dict[str, Callable[[Any], object]] = {
    "gradients": torch.set_grad_enabled,
    "dtype": torch.set_default_dtype,
    # the CPU by None: a default device that is set costs time in every call of torch
    "device": lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    "threads": torch.set_num_threads,
    "deterministic": torch.use_deterministic_algorithms,
}


def choose_devices(name: str) -> tuple[torch.device, ...]:
    """The devices that `auto`, `cpu`, `cuda` or `cuda:1` leave to choose from, the CPU first.

    Raises:
        UsageError: the name is unknown, or torch finds no such GPU.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(
            f"unknown device {name!r}; known: {', '.join(DEVICES)}, or one GPU of several, such as cuda:1."
        )
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and not there:
        raise UsageError(f"--device {name}: this torch sees no CUDA device; use --device cpu or a CUDA build.")
    if number and int(number) >= there:
        raise UsageError(f"--device {name}: torch sees {there} CUDA devices, cuda:0 to cuda:{there - 1}.")
    own, of_machine = ranks_here()
    if kind == "cuda" and of_machine > there:
        raise UsageError(f"--device {name}: {of_machine} processes need a GPU each, and torch sees {there} here.")
    gpu = (torch.device("cuda", int(number or own)),) if there >= of_machine else ()
    return {"auto": (torch.device("cpu"), *gpu), "cpu": (torch.device("cpu"),), "cuda": gpu}[kind]


class _Shared:
    """What the threads of a process share: the first block that begins sets it, the last one that ends puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._undo = ExitStack()

    @contextmanager
    def settings(self, seed: int) -> Iterator[None]:
        with self._lock:
            if not self._blocks:
                self._undo = ExitStack()
                _keep_working_folder(self._undo)
                _keep_default_dtype(self._undo)
                _seed_generators(self._undo, seed)
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._undo.close()


_SHARED = _Shared()


def _keep_working_folder(undo: ExitStack) -> None:
    """Restore the working folder afterwards, which an env may change."""
    with contextlib.suppress(OSError):  # it was deleted: there is nothing to go back to
        undo.callback(_go_to, os.getcwd())


def _go_to(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _keep_default_dtype(undo: ExitStack) -> None:
    undo.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float32)


def _seed_generators(undo: ExitStack, seed: int) -> None:
    """Seed the global generators, and give the program its own back afterwards."""
    for_numpy, for_random, for_torch = global_seeds(seed, "global generators")
    theirs = np.random.get_bit_generator()  # type: ignore[attr-defined]
    undo.callback(np.random.set_state, np.random.get_state(legacy=False))  # after its generator is back in place
    undo.callback(np.random.set_bit_generator, theirs)  # type: ignore[attr-defined]
    np.random.set_bit_generator(np.random.MT19937(for_numpy))  # type: ignore[attr-defined]
    undo.callback(random.setstate, random.getstate())
    random.seed(for_random)
    undo.callback(torch.set_rng_state, torch.get_rng_state())
    torch.default_generator.manual_seed(for_torch)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        undo.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        torch.cuda.manual_seed_all(for_torch)


def _flushes_denormals() -> bool:
    small = torch.tensor([1e-38], dtype=torch.float32, device="cpu")
    return bool((small * torch.tensor([1e-3], dtype=torch.float32, device="cpu")).item() == 0.0)
