"""Programs: Python functions of tensors as compiled code that keeps its state in the function's own tensors."""

import functools
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from rlab import draws
from rlab.learning.compiler import choose_cache_folder, compiled
from rlab.learning.tracing import NotTraceable, compiling_now, trace
from rlab.learning.trees import flatten, rebuilder
from rlab.places import one_line

MOST_LETTERS = 200  # of why something was not compiled
MOST_VERSIONS = 8  # structures of arguments; more are a number that should be a tensor


class Program:
    """A function of tensors that is traced and compiled when it is first called, once for each structure of arguments.

    It does what the function does: results are equal up to the rounding of floating-point numbers, and tensors that
    the function closes over are read and changed in place. Its results are new tensors, never views of an argument or
    of such a tensor. What the function does beside tensors it does while it is traced and never again, so that all
    that changes from call to call must be an argument or a tensor; `trace` says what is found out. While the function
    is traced, `torch.compiler.is_compiling()` is true; a program that is called then is a part of the one that is
    traced.

    A program goes on with the tensors that it found when it was traced. Where the function has let go of one of them
    since (an optimizer that loaded its state), it is traced again; where a tensor was replaced and the old one is
    still in use elsewhere, call `forget`.

    Args:
        fn: takes and returns tensors, constants, and dicts, lists, tuples and dataclasses of them.
        name: what messages call it.

    Raises, when it is called:
        NotTraceable: why the function cannot be a program. Nothing was computed then, and `fn` can be called instead.
    """

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        self.fn, self.name = fn, name
        self._versions: dict[Hashable, _Version] = {}

    def forget(self) -> None:
        """Trace the function again when it is called next: tensors that it closes over were replaced by others."""
        self._versions.clear()

    def __call__(self, *arguments: Any) -> Any:
        if compiling_now():
            return self.fn(*arguments)
        tensors: list[Tensor] = []
        try:
            structure = flatten(arguments, tensors)
        except TypeError as error:
            raise NotTraceable(f"{self.name}: an argument of type {error}") from None
        version = self._versions.get(structure)
        if version is None or version.outdated:
            version = self._versions[structure] = self._version(structure, arguments, tensors)
        with torch.no_grad():
            results = version.run(*version.state, *tensors)
        draws.programs_ran()
        return version.build(iter(results))

    def _version(self, structure: Hashable, arguments: Any, tensors: list[Tensor]) -> "_Version":
        if structure not in self._versions and len(self._versions) == MOST_VERSIONS:
            raise NotTraceable(
                f"{self.name}: its arguments have more than {MOST_VERSIONS} structures; "
                "hand it a number that changes as a tensor of shape []"
            )
        try:
            return _version(self.fn, arguments, tensors)
        except NotTraceable as error:
            raise NotTraceable(f"{self.name}: {error}") from error


@dataclass
class _Version:
    """The program for one structure of arguments."""

    run: Callable[..., Sequence[Tensor]]  # takes `state`, then the arguments
    state: tuple[Tensor, ...]
    build: Callable[[Iterator[Tensor]], Any]  # the results, from their tensors
    outdated: bool = False  # the function has let go of a tensor
    watches: list[Any] = field(default_factory=list)

    def watch(self, tensors: Sequence[Tensor]) -> None:
        own = weakref.ref(self)
        self.watches = [weakref.ref(tensor, functools.partial(_outdate, own)) for tensor in tensors]


def _outdate(version: "weakref.ref[_Version]", _: Any) -> None:
    if (found := version()) is not None:
        found.outdated = True


def _version(fn: Callable[..., Any], arguments: Any, tensors: list[Tensor]) -> _Version:
    build_arguments = rebuilder(arguments)
    builds = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        results = fn(*build_arguments(iter(tensors)))
        found: list[Tensor] = []
        flatten(results, found)
        builds.append(rebuilder(results))
        return found

    choose_cache_folder()
    traced = trace(flat, tensors, reached_from=fn)
    try:
        run = compiled(traced.graph, [*traced.state, *tensors])
    except Exception as error:
        reason = shorten(one_line(error), MOST_LETTERS)  # a C++ compiler's is megabytes long
        raise NotTraceable(f"it was traced, and not compiled: {reason}") from error
    version = _Version(run, traced.state, builds[-1])
    version.watch(traced.watched)
    return version
