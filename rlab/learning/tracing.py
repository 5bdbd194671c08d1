"""A Python function of tensors, run once without computing anything, as a graph of torch operators.

`make_fx` runs the function on fake tensors and writes down every operator, those of autograd and of torch.optim among
them. Tensors that the function closes over (weights, moments, storage, counters) become inputs of the graph through
the storages that they share, so that a run reads and changes them in place. What a graph cannot repeat, such as a
number read on the host, is an error while tracing, never a number that stays as it was.
"""

import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from rlab.learning.python_state import PythonState
from rlab.places import place_of

# Tags of operators, and what to do instead; the tags are torch's own, on every operator that is such a one.
_REFUSED = {
    torch.Tag.data_dependent_output: "reads a tensor on the host, as int() and `if` do too; keep it in tensors",
    torch.Tag.dynamic_output_shape: "gives a shape that depends on data; use a mask of fixed shape",
    torch.Tag.nondeterministic_seeded: "draws from torch's own generator; draw from rlab.draws.Draws",
}
_READS = {"tolist", "numpy", "__array__", "__dlpack__"}  # host reads that no operator sees
_aten = torch.ops.aten


class NotTraceable(Exception):  # noqa: N818, what it says of the function
    """A function cannot become a program, for this reason. Nothing was computed; it can still be called as it is."""


@dataclass(frozen=True)
class Traced:
    """A graph, and what to hand to it before the function's own arguments."""

    graph: fx.GraphModule  # takes `state`, then the arguments; returns a tuple of tensors
    state: tuple[Tensor, ...]  # the closed-over tensors, one for each storage; the graph changes some in place
    watched: tuple[Tensor, ...]  # as the function holds them; when one of them is gone, the graph is out of date


@contextmanager
def compiling() -> Iterator[None]:
    """A block in which `torch.compiler.is_compiling()` is true: torch.optim counts its steps in tensors."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def compiling_now() -> bool:
    """Whether a function is being traced."""
    return bool(torch.compiler.is_compiling())


def trace(fn: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor], reached_from: Callable[..., Any]) -> Traced:
    """The graph of `fn(*arguments)`, of the shapes, strides and dtypes that the arguments have.

    Args:
        reached_from: the function whose Python state is guarded: what it can reach must come out as it went in.

    Raises:
        NotTraceable: with the reason. Python state is as it was before.
    """
    state, calls = PythonState(reached_from), _Calls()
    operators = _Operators(calls)

    def guarded(*arguments: Tensor) -> Sequence[Tensor]:
        with calls, operators:
            return operators.fakes(fn(*arguments))

    try:
        with compiling(), _quiet(), torch.inference_mode(False), torch.enable_grad():
            traced = make_fx(guarded, _DECOMPOSED, tracing_mode="fake", _allow_non_fake_inputs=True)
            graph = traced(*arguments)
    except Exception as error:
        state.restore()
        reason = str(error) if isinstance(error, NotTraceable) else _reason(error)
        raise NotTraceable(reason + _where(error)) from error
    if differences := list(state.differences(lambda value: isinstance(value, FakeTensor))):
        state.restore()
        more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise NotTraceable(f"{differences[0]}{more}")
    watched = tuple(tensor for tensor in operators.forget() if state.knows(tensor))
    return Traced(graph, _lift(graph, arguments), watched)


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """On a GPU the compiler adds the bias in the kernel behind the product; cuBLAS would copy it beforehand, in one of
    its own."""
    if bias.device.type != "cuda" or beta != 1 or alpha != 1:
        return NotImplemented
    return torch.bmm(a, b) + bias


_DECOMPOSED = {_aten.baddbmm.default: _baddbmm}


@contextmanager
def _quiet() -> Iterator[None]:
    """A block in which torch does not print the stack of an error that is raised all the same."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


class _Calls(TorchFunctionMode):
    """Looks at calls of torch from Python: it refuses NumPy arrays, and reads that are no operators."""

    inside = False  # such a call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _READS:
            raise NotTraceable(f"Tensor.{name} {_REFUSED[torch.Tag.data_dependent_output]}")
        if any(_of_numpy(each) for each in (*args, *kwargs.values())):
            raise NotTraceable(
                f"{name} takes numbers of NumPy, which would stay as they are; make the tensor beforehand"
            )
        outer, self.inside = self.inside, True
        try:
            return func(*args, **kwargs)
        finally:
            self.inside = outer


class _Operators(TorchDispatchMode):
    """Looks at operators: it refuses those that a graph cannot repeat, and has the others work on fake tensors alone.

    Without it an operator that only takes tensors that are closed over may really be computed: `steps += 1` would count
    the tracing as a step.
    """

    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self._calls = calls
        self._fakes: dict[int, tuple[Tensor, Tensor]] = {}  # by the id of a real tensor: it and what stands for it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tag, why in _REFUSED.items():
            if tag in func.tags and not _without_dropout(func, args, kwargs) and not _by_numbers(func, args):
                name = "item" if func is _aten._local_scalar_dense.default else func.overloadpacket.__name__
                raise NotTraceable(f"{name} {why}")
        if func is not _aten.lift_fresh.default:
            return func(*self.fakes(args), **{name: self._fake(value) for name, value in kwargs.items()})
        if not self._calls.inside:  # torch.from_numpy
            raise NotTraceable("a tensor is made of numbers of NumPy, which would stay as they are; make it beforehand")
        return func(*args, **kwargs)

    def fakes(self, values: Sequence[Any]) -> list[Any]:
        return [self._fake(value) for value in values]

    def forget(self) -> list[Tensor]:
        """The tensors that were closed over. The trace, which lives on as garbage for a while, lets go of them."""
        found = [real for real, _ in self._fakes.values()]
        self._fakes.clear()
        return found

    def _fake(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return self.fakes(value)
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        if id(value) not in self._fakes:
            with _disable_current_modes():
                alias = value.detach()
            self._fakes[id(value)] = value, _aten.alias.default(alias)
        return self._fakes[id(value)][1]


def _of_numpy(value: Any) -> bool:
    """Whether it is an array of NumPy, or a list of numbers of NumPy."""
    if isinstance(value, list | tuple):
        return any(map(_of_numpy, value)) or any(isinstance(each, np.generic) for each in value)
    return isinstance(value, np.ndarray)


def _by_numbers(func: Any, args: Any) -> bool:
    """Whether it indexes by numbers alone; by a mask its result would have a shape that depends on data."""
    indexes = func.overloadpacket in (_aten.index, _aten.index_put, _aten.index_put_)
    return indexes and not any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _without_dropout(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator that can drop some of its inputs, attention, does not."""
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}.get("dropout_p", 1.0) == 0.0 or (
        "dropout_p" in names[len(args) :] and "dropout_p" not in kwargs  # its default is 0
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".removesuffix(": ")


def _where(error: Exception) -> str:
    place = place_of(error)
    return f" ({place})" if place else ""


def _lift(module: fx.GraphModule, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Make a graph's closed-over tensors its inputs, and return them; take out what it does not need."""
    graph = module.graph
    for node in reversed(graph.nodes):
        if getattr(node.target, "namespace", "") == "profiler":  # torch.optim names its steps
            graph.erase_node(node)
        elif node.target is _aten.alias.default and node.args[0].op == "get_attr":  # `_Operators` made it
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _fold_constants(module)
    held = {node: getattr(module, node.target) for node in graph.nodes if node.op == "get_attr"}
    storages: dict[tuple[Any, ...], dict[fx.Node, Tensor]] = {}
    for node, tensor in held.items():
        storages.setdefault(_storage_of(tensor) or (node,), {})[node] = tensor
    sources = _sources(graph)
    _check_sharing(sources, storages, arguments)
    _clone_shared_outputs(graph, sources)
    state = [_base(list(nodes.values())) for nodes in storages.values()]
    with graph.inserting_before(next(iter(graph.nodes))):
        placeholders = [graph.placeholder(f"state{number}") for number in range(len(state))]
    for placeholder, base, nodes in zip(placeholders, state, storages.values(), strict=True):
        for node, tensor in nodes.items():
            node.replace_all_uses_with(_view(graph, node, placeholder, base, tensor))
            graph.erase_node(node)
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        delattr(module, name)
    module.recompile()
    return tuple(state)


def _fold_constants(module: fx.GraphModule) -> None:
    """Single numbers that became tensors while tracing (`torch.tensor(0.5)`) become operators that make them, on their
    device: a copy from the host could not be captured."""
    graph = module.graph
    for node in [node for node in graph.nodes if node.target is _aten.lift_fresh_copy.default]:
        tensor = getattr(module, node.args[0].target)
        for user in [*(user for user in node.users if user.target is _aten._to_copy.default), node]:
            made = tensor.to(device=user.kwargs.get("device"), dtype=user.kwargs.get("dtype"))
            if user.users:
                user.replace_all_uses_with(_constant(module, user, made))
            graph.erase_node(user)
    for node in [node for node in graph.nodes if node.op == "get_attr" and not node.users]:
        graph.erase_node(node)


def _constant(module: fx.GraphModule, place: fx.Node, tensor: Tensor) -> fx.Node:
    """A node in this place that gives a new tensor with these numbers in every run."""
    graph = module.graph
    with graph.inserting_before(place):
        if tensor.numel() == 1:
            options: dict[str, Any] = {"dtype": tensor.dtype, "device": tensor.device}
            return graph.call_function(_aten.full.default, (list(tensor.shape), tensor.item()), options)
        module.register_buffer(f"constant_{place.name}", tensor)
        return graph.call_function(_aten.clone.default, (graph.get_attr(f"constant_{place.name}"),))


def _storage_of(tensor: Tensor) -> tuple[Any, ...] | None:
    """Two tensors share memory where these are equal; None where it has none."""
    storage = tensor.untyped_storage()
    return (tensor.device, storage.data_ptr(), storage.nbytes()) if storage.nbytes() else None


def _base(tensors: Sequence[Tensor]) -> Tensor:
    """What stands for a storage: one of the tensors where that is the whole, or is all that is used of it; a row
    otherwise. Changing a part of a row costs a copy of it."""
    nbytes = tensors[0].untyped_storage().nbytes()
    if len({_geometry(tensor) for tensor in tensors}) == 1:
        return tensors[0].detach()
    for tensor in tensors:
        if tensor.is_contiguous() and tensor.numel() * tensor.element_size() == nbytes:
            return tensor.detach()
    return torch.empty(0, dtype=tensors[0].dtype, device=tensors[0].device).set_(tensors[0].untyped_storage())


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def _view(graph: fx.Graph, place: fx.Node, base_node: fx.Node, base: Tensor, tensor: Tensor) -> fx.Node:
    """A node in this place that gives the tensor, out of what stands for its storage."""
    dtype, *geometry = _geometry(tensor)
    if _geometry(base) == (dtype, *geometry):
        return base_node
    with graph.inserting_before(place):
        if base.dtype != dtype:
            base_node = graph.call_function(_aten.view.dtype, (base_node, dtype))
        elif base.is_contiguous() and tensor.is_contiguous() and base.numel() == tensor.numel():
            # torch 2.11 loses what is written to such a view where it is made by `as_strided`
            return graph.call_function(_aten.view.default, (base_node, list(tensor.shape)))
        return graph.call_function(_aten.as_strided.default, (base_node, *geometry))


def _check_sharing(
    sources: Mapping[fx.Node, set[fx.Node]],
    storages: Mapping[tuple[Any, ...], Mapping[fx.Node, Tensor]],
    arguments: Sequence[Tensor],
) -> None:
    """Raise NotTraceable where memory that is written to is known under two names: the compiler would take them for
    two."""
    written = {source for node in sources for each in _written(node) for source in sources[each]}
    if any(len({t.dtype for t in tensors.values()}) > 1 and written & tensors.keys() for tensors in storages.values()):
        raise NotTraceable("it changes a storage that tensors of two dtypes share; give each a storage of its own")
    placeholders = (node for node in sources if node.op == "placeholder")
    memory = {node: _storage_of(tensor) for node, tensor in zip(placeholders, arguments, strict=True)}
    memory |= {node: _storage_of(tensor) for tensors in storages.values() for node, tensor in tensors.items()}
    for node in written:
        for other, place in memory.items():
            if other is not node and _overlap(memory[node], place) and not _one_state(node, other, memory):
                raise NotTraceable("it changes memory that it also has under another name; hand it a copy of one")


def _one_state(node: fx.Node, other: fx.Node, memory: Mapping[fx.Node, tuple[Any, ...] | None]) -> bool:
    """Whether both are closed over and views of one storage."""
    return node.op == other.op == "get_attr" and memory[node] == memory[other]


def _overlap(one: tuple[Any, ...] | None, other: tuple[Any, ...] | None) -> bool:
    if one is None or other is None or one[0] != other[0]:
        return False
    return bool(one[1] < other[1] + other[2] and other[1] < one[1] + one[2])


def _clone_shared_outputs(graph: fx.Graph, sources: Mapping[fx.Node, set[fx.Node]]) -> None:
    """A result that is a view of an argument or of the state becomes a copy: the next run would change it."""
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        copied = [graph.call_function(_aten.clone.default, (n,)) if sources[n] else n for n in output.args[0]]
    output.args = (tuple(copied),)


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """The arguments that an operator changes in place."""
    for argument, value in _schema(node):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _nodes(value)


def _sources(graph: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    """For every node the arguments and closed-over tensors that it is a view of, or is."""
    found: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        views: list[fx.Node] = []
        if node.target is operator.getitem:
            views = _nodes(node.args[0])
        else:
            views = [view for argument, value in _schema(node) if argument.alias_info for view in _nodes(value)]
        found[node] = (
            {node} if node.op in ("placeholder", "get_attr") else set().union(*(found[view] for view in views))
        )
    return found


def _schema(node: fx.Node) -> list[tuple[Any, Any]]:
    """Each argument of an operator's schema with its value, where it has one."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    arguments = node.target._schema.arguments
    by_name = [(argument, node.kwargs[argument.name]) for argument in arguments if argument.name in node.kwargs]
    return [*zip(arguments, node.args, strict=False), *by_name]


def _nodes(value: Any) -> list[fx.Node]:
    return [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, fx.Node)]
