"""Torch's compiler, inductor: what it needs, what it costs, and where its results are kept.

All that is private to torch and not about tracing is here: `torch._inductor.compile` is called by itself, since a graph
that went through `torch.compile` takes 40 microseconds more in every call, and a fake mode with a `ShapeEnv` around
it lets it find what an earlier process compiled.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch import Tensor, fx

CACHE = "TORCHINDUCTOR_CACHE_DIR"
# Checks that the generated code makes of its own arguments, 10 microseconds in a call. What is handed to it has the
# shapes that it was made for.
_UNCHECKED = ("size_asserts", "alignment_asserts", "scalar_asserts")


def why_not_compile(device: torch.device) -> str | None:
    """What is missing to compile for a device; None where nothing is."""
    if device.type == "cuda":
        return _why_not_triton(device)
    if device.type != "cpu":
        return f"torch compiles nothing for {device.type}"
    named = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as inductor has it
    if shutil.which(named) is None:
        return f"no C++ compiler: {named} was not found; install it, or name another in CXX"
    return _why_no_headers()


def _why_not_triton(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "Triton needs a GPU of compute capability 7.0 or higher"
    if os.environ.get("CC") is None and not any(map(shutil.which, ("gcc", "clang", "cc"))):
        return "no C compiler, which Triton needs: gcc was not found; install it, or name another in CC"
    return _why_no_headers()


def _why_no_headers() -> str | None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if header.exists():
        return None
    return f"{header} was not found; install the headers of Python (python3-dev)"


def cache_folder() -> Path:
    """Where compiled code is kept for later processes: the user's cache folder, unless torch was told of another.

    Processors of different kinds have folders of their own, since a home may be shared between machines: torch takes
    what it finds for its own, and code for other vector instructions does not run.
    """
    told = os.environ.get(CACHE)
    if told and not Path(told).name.startswith("torchinductor_"):  # as torch calls the folder that it chooses itself
        return Path(told)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "rlab" / "compiled" / torch.backends.cpu.get_cpu_capability().lower()


def choose_cache_folder() -> None:
    """Tell torch of the folder, by an environment variable. To be called before the first trace, which imports parts of
    torch that set it too."""
    folder = cache_folder()
    with suppress(OSError):  # a home that cannot be written to: torch takes the folder for temporary files
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[CACHE] = str(folder)


def compiled(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """A graph as machine code. It takes tensors of the shapes, strides and dtypes of `arguments`, and checks none."""
    if any(argument.is_cuda for argument in arguments):
        # One kernel for several small pieces of work: half the launches of a cycle. Some work cannot share one and is
        # an error, such as a sort of few numbers in torch 2.11.
        with suppress(Exception):
            return _compiled(graph, arguments, combo_kernels=True)
    return _compiled(graph, arguments)


def _compiled(graph: fx.GraphModule, arguments: Sequence[Tensor], **options: bool) -> Callable[..., Sequence[Tensor]]:
    """`options` are of inductor."""
    import torch._inductor.config
    from torch._dynamo.utils import get_metrics_context
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    options |= {name: False for name in _UNCHECKED if hasattr(torch._inductor.config, name)}
    fakes = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    with ExitStack() as surroundings:
        for each in (torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings()):
            surroundings.enter_context(each)
        warnings.simplefilter("ignore")  # what torch has to say of its own code, and of other ways to compute
        surroundings.enter_context(tracing(TracingContext(fakes)))
        surroundings.enter_context(get_metrics_context())  # torch 2.6 counts what it finds in its cache there
        run: Callable[..., Sequence[Tensor]] = torch._inductor.compile(
            graph, [argument.detach() for argument in arguments], options
        )
    return run
