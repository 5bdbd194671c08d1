"""Recurrent units whose gates come out of linear layers, which are rounded, factorised and pruned as any others."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from rlab.compression.quantized_layers import CompressedLayer, replaced
from rlab.networks.attention import stacked_members
from rlab.networks.branches import Streams
from rlab.networks.layers import StackedLinear
from rlab.networks.memory import State
from rlab.networks.registry import LayerKind, register
from rlab.networks.sequences import LastGRU, LastLSTM, StackedGRU, StackedLSTM
from rlab.networks.spec import StackedNetwork
from rlab.networks.unit_sequences import GRUSequence, LSTMSequence, gru_cell, lstm_cell

STATES = {"gru": ("hidden",), "lstm": ("hidden", "cell")}  # the parts of the state; the first is the output


class LinearUnit(Streams):
    """A GRU or an LSTM (`StackedGRU`, `StackedLSTM`), G gates of which are the sums of two networks' outputs.

    Args:
        inputs: from D to G H numbers, of a step's input; torch's order of gates.
        hidden: from H to G H numbers, of the hidden state before the step.
        cell: `gru` or `lstm`.
        size: H.
    """

    def __init__(self, inputs: nn.Module, hidden: nn.Module, cell: str, size: int) -> None:
        super().__init__()
        self.inputs, self.hidden, self.cell, self.size = inputs, hidden, cell, size
        self.names = STATES[cell]

    def streams(self) -> dict[str, nn.Module]:
        return {"inputs": self.inputs, "hidden": self.hidden}

    def rebuilt(self, streams: Sequence[nn.Module]) -> Self:
        inputs, hidden = streams
        return type(self)(inputs, hidden, self.cell, self.size)

    def initial_state(self, rows: int) -> State:
        """Zeros `[S, B, H]`."""
        members = stacked_members(self.hidden)
        lead = (rows,) if members is None else (members, rows)
        some = next(self.hidden.parameters(), torch.empty(0))
        return {name: some.new_zeros(*lead, self.size) for name in self.names}

    def forward(self, x: Tensor) -> Tensor:
        """`[S, B, T, D]`, which begins an episode, to `[S, B, T, H]`."""
        y, _ = self.unroll(x, self.initial_state(x.shape[-3]), x.new_zeros(x.shape[:-1], dtype=torch.bool))
        return y

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`[S, B, D]` to `[S, B, H]`, and the next state."""
        state = self._next(self.inputs(x), state)
        return state["hidden"], state

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """`[S, B, T, D]` to `[S, B, T, H]` and the last state; zeros before a step where `begins [S, B, T]` is true."""
        now = self.inputs(x.flatten(-3, -2)).unflatten(-2, x.shape[-3:-1])  # [S, B, T, G H]
        weights = _weights(self.hidden)
        if weights is not None:
            return self._unrolled(now, state, begins, *weights)
        outputs = []
        for each, begin in zip(now.unbind(dim=-2), begins.unbind(dim=-1), strict=True):
            state = {name: value.masked_fill(begin.unsqueeze(-1), 0.0) for name, value in state.items()}
            state = self._next(each, state)
            outputs.append(state["hidden"])
        return torch.stack(outputs, dim=-2), state

    def _next(self, now: Tensor, state: State) -> State:
        before = self.hidden(state["hidden"])
        if self.cell == "gru":
            return {"hidden": gru_cell(now, before, state["hidden"])[0]}
        hidden, cell, _ = lstm_cell(now + before, state["cell"])
        return {"hidden": hidden, "cell": cell}

    def _unrolled(
        self, now: Tensor, state: State, begins: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, State]:
        """By the functions that the whole units use."""
        inputs, marks = now.movedim(-2, 0), begins.movedim(-1, 0).unsqueeze(-1)
        if self.cell == "gru":
            outputs = GRUSequence.apply(inputs, weight, bias, state["hidden"], marks)
            return outputs.movedim(0, -2), {"hidden": outputs[-1]}
        outputs, cell = LSTMSequence.apply(inputs, weight, bias, state["hidden"], state["cell"], marks)
        return outputs.movedim(0, -2), {"hidden": outputs[-1], "cell": cell}

    def extra_repr(self) -> str:
        return f"cell={self.cell!r}, size={self.size}"


def opened(network: nn.Module) -> nn.Module:
    """A copy, plain or a stack, with a `LinearUnit` in the place of every recurrent unit; outputs are equal."""
    return replaced(network, lambda layer: OPENED[type(layer)](layer) if type(layer) in OPENED else None)


def _weights(network: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The weights `[S, H, G H]` and biases `[S, 1, G H]` of a stack that is one linear layer and multiplies what it
    reads as it is; None of any other network."""
    layers = list(network.children())
    layer = layers[0] if len(layers) == 1 else None
    if type(layer) is StackedLinear:
        return layer.weight, layer.bias
    if isinstance(layer, CompressedLayer) and layer.members is not None and not layer.rounds_inputs:
        return layer.dense().mT, layer.bias.unsqueeze(1)
    return None


def _open_stack(unit: StackedGRU | StackedLSTM) -> LinearUnit:
    networks = []
    for weight, bias in ((unit.weight_ih, unit.bias_ih), (unit.weight_hh, unit.bias_hh)):
        layer = StackedLinear(*weight.shape).to(weight)
        layer.load_state_dict({"weight": weight, "bias": bias})
        networks.append(StackedNetwork(layer))
    inputs, hidden = networks
    return LinearUnit(inputs, hidden, "gru" if isinstance(unit, StackedGRU) else "lstm", unit.weight_hh.shape[1])


def _open_plain(layer: LastGRU | LastLSTM) -> LinearUnit:
    networks = []
    for name in ("ih", "hh"):
        weight, bias = (layer.unit.get_parameter(f"{kind}_{name}_l0") for kind in ("weight", "bias"))
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0]).to(weight)
        linear.load_state_dict({"weight": weight, "bias": bias})
        networks.append(nn.Sequential(linear))
    inputs, hidden = networks
    return LinearUnit(inputs, hidden, "gru" if isinstance(layer, LastGRU) else "lstm", layer.unit.hidden_size)


OPENED: dict[type[nn.Module], Callable[[Any], LinearUnit]] = {
    StackedGRU: _open_stack,
    StackedLSTM: _open_stack,
    LastGRU: _open_plain,
    LastLSTM: _open_plain,
}

register(
    LayerKind(
        "linear_unit",
        lambda members, **args: LinearUnit(**args),
        LinearUnit,
        LinearUnit,
        lambda layer: {"cell": layer.cell, "size": layer.size},
    )
)
