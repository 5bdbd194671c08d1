"""The Python side of a function's state: what a trace of it changed there, and putting that back.

A program changes tensors alone. What the function changed beside them, while it was traced, would be changed once and
never again.
"""

import copy
import dataclasses
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_LEFT_OVER = "is replaced by a tensor that exists only while it is traced; change it in place, with copy_"
_ONCE = "once and never again; keep what changes in a tensor"
_OPAQUE = (*_PLAIN, type, types.ModuleType, types.BuiltinFunctionType, Tensor)


class PythonState:
    """What a function can reach, as it is now: the attributes of the objects that it is bound to or closes over, and
    the dicts, lists, closures and generators of random numbers that these hold, and so on. Sets, `__slots__` and
    globals are not followed; the global generators of `random` and NumPy are."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._seen: dict[int, Any] = {}  # keeps what has been visited alive, so that no id is used twice
        self._before: list[tuple[str, Any, dict[Any, Any]]] = []  # name, container, its items
        self._grads: list[tuple[str, Tensor, Tensor | None]] = []
        self._random = random.getstate(), np.random.get_state()
        self._generators: list[tuple[str, np.random.Generator, np.random.Generator]] = []  # as it is, as it was
        pending: list[tuple[str, Any]] = [("", fn)]
        while pending:
            pending += self._visit(*pending.pop())

    def _visit(self, name: str, thing: Any) -> list[tuple[str, Any]]:
        """Remember a thing, and say what is to be visited behind it."""
        if id(thing) in self._seen or (isinstance(thing, _OPAQUE) and not isinstance(thing, Tensor)):
            return []
        self._seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            if thing.is_leaf and thing.requires_grad:
                self._grads.append((f"{name}.grad", thing, thing.grad))
            return []
        if isinstance(thing, np.random.Generator):
            self._generators.append((name, thing, copy.deepcopy(thing)))
            return []
        if isinstance(thing, functools.partial):
            return [(name, thing.func), (name, thing.args), (name, thing.keywords)]
        if isinstance(thing, types.MethodType):
            return [(type(thing.__self__).__name__, thing.__self__), (name, thing.__func__)]
        if isinstance(thing, types.FunctionType):
            return list(zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True))
        if isinstance(thing, tuple):
            return [(f"{name}[{i}]", value) for i, value in enumerate(thing)]
        if isinstance(thing, dict | list | deque | types.CellType):
            self._before.append((name, thing, items := _items(thing)))
            keys = [(name, key) for key in items if isinstance(key, Tensor)]  # an optimizer's parameters
            return keys + [(_path(name, key), value) for key, value in items.items()]
        return [(name, vars(thing))] if hasattr(thing, "__dict__") else []

    def knows(self, thing: Any) -> bool:
        """Whether the function can reach it."""
        return id(thing) in self._seen

    def differences(self, is_left_over: Callable[[Any], bool]) -> Iterator[str]:
        """What a trace changed that no program would change, each with its name.

        Something new is no difference where it is neither a tensor that is left over from the trace nor holds one: a
        cache that was filled.
        """
        for name, thing, before in self._before:
            now = _items(thing)
            for key, value in now.items():
                if key in before and value is before[key]:
                    continue
                if (inside := _find(value, is_left_over)) is not None:
                    yield f"{_path(name, key)}{inside} {_LEFT_OVER}"
                elif key not in before and isinstance(thing, list | deque):
                    yield f"{name} grows, {_ONCE}"
                elif key in before and not self._equal(before[key], value):
                    yield f"{_path(name, key)} changes from {_short(before[key])} to {_short(value)}, {_ONCE}"
            if len(now) < len(before):
                yield f"{name} loses an item, {_ONCE}"
        for name, tensor, grad in self._grads:
            if tensor.grad is not grad and is_left_over(tensor.grad):
                yield f"{name} {_LEFT_OVER}"
        for name, generator, was in self._generators:
            if copy.deepcopy(generator).random() != copy.deepcopy(was).random():
                yield f"{name} draws random numbers on the host; draw them from rlab.draws"
        if _state_of_globals(random.getstate(), np.random.get_state()) != _state_of_globals(*self._random):
            yield "random numbers are drawn from the global generators of the host; draw them from rlab.draws"

    def restore(self) -> None:
        """Put everything back as it was."""
        for _, thing, before in self._before:
            now = _items(thing)
            if now.keys() == before.keys() and all(now[key] is value for key, value in before.items()):
                continue
            if isinstance(thing, types.CellType):
                thing.cell_contents = before[""]
                continue
            thing.clear()
            if isinstance(thing, list | deque):
                thing.extend(before.values())
            else:
                thing.update(before)
        for _, tensor, grad in self._grads:
            if tensor.grad is not grad:
                tensor.grad = grad
        for _, generator, was in self._generators:
            generator.bit_generator.state = was.bit_generator.state
        random.setstate(self._random[0])
        np.random.set_state(self._random[1])

    def _equal(self, before: Any, now: Any) -> bool:
        """Whether plain data, and containers of it, are equal. Two other things count as equal where they are of one
        class and the second is new: what is in it cannot be compared."""
        if before is now or type(before) is not type(now) or isinstance(now, Tensor):
            return before is now
        if isinstance(now, dict):
            return before.keys() == now.keys() and all(self._equal(before[key], now[key]) for key in now)
        if isinstance(now, tuple | list | deque):
            return len(before) == len(now) and all(map(self._equal, before, now))
        if dataclasses.is_dataclass(now):
            return all(self._equal(getattr(before, f.name), getattr(now, f.name)) for f in dataclasses.fields(now))
        if isinstance(now, _PLAIN):
            return bool(before == now)
        return id(now) not in self._seen


def _items(thing: Any) -> dict[Any, Any]:
    """What a container that can be put back holds, by key."""
    if isinstance(thing, dict):
        return dict(thing)
    if isinstance(thing, list | deque):
        return dict(enumerate(thing))
    try:
        return {"": thing.cell_contents}
    except ValueError:  # an empty cell
        return {}


def _path(name: str, key: Any) -> str:
    """`agent.steps`, `agent.moments[0]`; a closure's only key is ""."""
    if isinstance(key, str):
        return f"{name}.{key}".rstrip(".")
    return f"{name}[{_short(key)}]"


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, _PLAIN) else type(value).__name__


def _find(value: Any, wanted: Callable[[Any], bool], seen: frozenset[int] = frozenset()) -> str | None:
    """The path to what is wanted inside a value: "" is the value itself, None is nowhere."""
    if wanted(value):
        return ""
    if isinstance(value, _OPAQUE) or id(value) in seen:
        return None
    if isinstance(value, dict | list | deque):
        inside = _items(value)
    else:
        inside = dict(enumerate(value)) if isinstance(value, tuple) else getattr(value, "__dict__", {})
    for key, each in inside.items():
        if (path := _find(each, wanted, seen | {id(value)})) is not None:
            return _path("", key) + path
    return None


def _state_of_globals(of_python: tuple[Any, ...], of_numpy: Any) -> tuple[Any, ...]:
    return of_python, of_numpy[1].tobytes(), of_numpy[2]
