"""`--deterministic`: torch computes the same bytes from the same numbers every time, or refuses."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from rlab.errors import RlabError, UsageError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS promises it; torch's notes on reproducibility


@contextmanager
def deterministic_torch() -> Iterator[None]:
    """A block in which torch takes deterministic algorithms alone, and float32 is never rounded to TF32; afterwards all
    settings are as they were.

    Raises:
        UsageError: cuBLAS has begun in this process without the setting that makes it deterministic.
        RlabError: an operation has no deterministic algorithm here; the message names it.
    """
    with ExitStack() as undo:
        _set_workspace(undo)
        _set(undo, torch.backends.cudnn, deterministic=True, benchmark=False, allow_tf32=False)
        _set(undo, torch.backends.cuda.matmul, allow_tf32=False)
        # A net for memory that is read before it is written, which rlab does not do; it costs a pass over all memory.
        _set(undo, torch.utils.deterministic, fill_uninitialized_memory=False)
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        undo.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
        torch.use_deterministic_algorithms(True)
        try:
            yield
        except RuntimeError as error:
            if "deterministic" not in str(error).lower():
                raise
            raise RlabError(
                f"--deterministic: {str(error).partition(',')[0].strip()} (torch {torch.__version__}). Use --device "
                "cpu, or leave --deterministic out."
            ) from error


def _set(undo: ExitStack, where: object, **values: bool) -> None:
    for name, value in values.items():
        undo.callback(setattr, where, name, getattr(where, name))
        setattr(where, name, value)


def _set_workspace(undo: ExitStack) -> None:
    found = os.environ.get(WORKSPACE)
    if found in WORKSPACES:
        return
    if found is not None or (torch.cuda.is_available() and torch.cuda.is_initialized()):
        state = f"it is {found}" if found is not None else "the GPU is in use already"
        raise UsageError(
            f"--deterministic: cuBLAS needs the environment variable {WORKSPACE}={WORKSPACES[0]} before torch first "
            f"uses a GPU, and {state}; set it before the program starts."
        )
    os.environ[WORKSPACE] = WORKSPACES[0]
    undo.callback(os.environ.pop, WORKSPACE, None)
