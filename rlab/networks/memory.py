"""The state that a recurrent policy carries from step to step, and networks that are run step by step or unrolled.

A state is a dict of tensors, one or more for each layer with memory, named by the layer's place in the network: for
example `{"2.hidden": [S, B, H]}`. Every tensor leads with `[S, B, ...]` in a stack and with `[B, ...]` in the network
of one member. A network without memory has the state `{}`.

A layer has memory where its class has the three methods of `RecurrentLayer`. Any other layer has `forward` alone, which
is applied to all rows and times at once.
"""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rlab.errors import RlabError

State = dict[str, Tensor]


@runtime_checkable
class RecurrentLayer(Protocol):
    """A layer with memory, stacked (rows `[S, B]`) or plain (rows `[B]`); its state has names of its own."""

    def initial_state(self, rows: int) -> State:
        """The state at the beginning of an episode, for `rows` rows (of each member)."""
        ...

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: `x [S, B, D]` and the state before it give the output `[S, B, H]` and the state after it."""
        ...

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """T steps in a row: `x [S, B, T, D]` gives `[S, B, T, H]` and the last state; where `begins [S, B, T]` is
        true, the state before that step is the initial one."""
        ...


@runtime_checkable
class RunsAhead(Protocol):
    """A layer with memory that has a faster way than one step after another for `unroll_ahead`."""

    def unroll_ahead(self, x: Tensor, ahead: Tensor, state: State, begins: Tensor) -> tuple[Tensor, Tensor]:
        """T steps `x [S, B, T, D]` as `unroll`, and from the state after each of them one step with `ahead
        [S, B, T, D]` that none follows: `[S, B, T, H]` of both."""
        ...


def is_recurrent(layer: nn.Module) -> bool:
    """Whether a layer has memory."""
    return _is_recurrent_class(type(layer))


# Kept, since each layer of a network is asked at each step, and a protocol takes 17 us to answer.
_is_recurrent_class: Callable[[type], bool] = functools.cache(lambda kind: issubclass(kind, RecurrentLayer))


def has_memory(network: nn.Module) -> bool:
    """Whether a network has memory.

    Raises:
        RlabError: a layer with memory is inside another layer, such as a stream of `dueling`.
    """
    outer = {id(layer) for layer in network.children() if is_recurrent(layer)}
    for name, layer in network.named_modules():
        if is_recurrent(layer) and id(layer) not in outer:
            raise RlabError(
                f"the layer with memory {name!r} ({type(layer).__name__}) is inside another layer; a policy needs it "
                "in the outer sequence of its network."
            )
    return bool(outer)


def initial_state(network: nn.Module, rows: int) -> State:
    """The state at the beginning of an episode, for `rows` rows (of each member)."""
    state: State = {}
    for name, layer in _layers(network):
        if is_recurrent(layer):
            state |= _named(name, layer.initial_state(rows))
    return state


def step(network: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One step of a sequence of layers: features `x [S, B, ...]` give `[S, B, width]` and the next state."""
    following: State = {}
    for name, layer in _layers(network):
        if is_recurrent(layer):
            x, after = layer.step(x, _of(name, state))
            following |= _named(name, after)
        else:
            x = layer(x)
    return x, following


def unroll(network: nn.Module, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
    """T steps in a row: features `x [S, B * T, ...]` give `[S, B * T, width]` and the last state.

    Args:
        x: the T steps of a row are neighbours.
        state: before the first step.
        begins: `[S, B, T]` bool; the state before such a step is the initial one.
    """
    following: State = {}
    rows_axis = begins.ndim - 2  # 1 in a stack, 0 in the network of one member
    for name, layer in _layers(network):
        if is_recurrent(layer):
            sequence = x.unflatten(rows_axis, begins.shape[-2:])
            y, after = layer.unroll(sequence, _of(name, state), begins)
            x = y.flatten(rows_axis, rows_axis + 1)
            following |= _named(name, after)
        else:
            x = layer(x)
    return x, following


def unroll_ahead(network: nn.Module, x: Tensor, ahead: Tensor, state: State, begins: Tensor) -> tuple[Tensor, Tensor]:
    """T steps in a row as `unroll`, and from the state after each of them one step that none follows: features `x` and
    `ahead`, `[S, B * T, ...]` each, give the outputs `[S, B * T, width]` of both."""
    rows_axis = begins.ndim - 2
    for name, layer in _layers(network):
        if not is_recurrent(layer):
            x, ahead = layer(x), layer(ahead)
            continue
        run = layer.unroll_ahead if isinstance(layer, RunsAhead) else partial(step_ahead, layer)
        x, ahead = (each.unflatten(rows_axis, begins.shape[-2:]) for each in (x, ahead))
        both = run(x, ahead, _of(name, state), begins)
        x, ahead = (each.flatten(rows_axis, rows_axis + 1) for each in both)
    return x, ahead


def step_ahead(layer: RecurrentLayer, x: Tensor, ahead: Tensor, state: State, begins: Tensor) -> tuple[Tensor, Tensor]:
    """`RunsAhead.unroll_ahead` of any layer with memory, one step after another."""
    rows_axis, outputs, states = begins.ndim - 2, [], []
    initial = layer.initial_state(begins.shape[rows_axis])
    for now, begin in zip(x.unbind(rows_axis + 1), begins.unbind(-1), strict=True):
        y, state = layer.step(now, reset(state, initial, begin))
        outputs.append(y)
        states.append(state)
    after = {key: torch.stack([each[key] for each in states], rows_axis + 1) for key in state}
    after = {key: value.flatten(rows_axis, rows_axis + 1) for key, value in after.items()}
    y, _ = layer.step(ahead.flatten(rows_axis, rows_axis + 1), after)
    return torch.stack(outputs, rows_axis + 1), y.unflatten(rows_axis, begins.shape[-2:])


def take(state: State, index: Any) -> State:
    """The rows of a state that `index` selects on the leading axes, as `tensor[index]` does."""
    return {name: tensor[index] for name, tensor in state.items()}


def reset(state: State, initial: State, begins: Tensor) -> State:
    """The state with its rows set to those of `initial` where `begins` (`[S, B]`, or `[B]` of one member) is true."""
    return {
        name: torch.where(begins.reshape(*begins.shape, *(1,) * (tensor.ndim - begins.ndim)), initial[name], tensor)
        for name, tensor in state.items()
    }


def _layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from network.named_children()


def _named(layer: str, state: State) -> State:
    return {f"{layer}.{name}": tensor for name, tensor in state.items()}


def _of(layer: str, state: State) -> State:
    prefix = f"{layer}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
