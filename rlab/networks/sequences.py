"""Layers for sequences, with a seed axis: token embeddings and recurrent units.

Called on a whole sequence, a recurrent layer begins with a state of zeros; `step` and `unroll` take and give
the state (`rlab.networks.memory`). Sequences of unequal length are padded at the front, so that the last hidden state
is that of the last token.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from rlab.errors import RlabError
from rlab.networks.layers import StackedLayer
from rlab.networks.memory import State
from rlab.networks.registry import LayerKind, register
from rlab.networks.unit_sequences import GRUSequence, LSTMSequence, gru_cell, lstm_cell


class StackedEmbedding(StackedLayer):
    """Tokens `[S, B, ...]`, integers `0 .. num_embeddings - 1`, to their vectors `[S, B, ..., D]`; `weight [S, V, D]`.

    The vector of `padding_index` starts at zero and does not learn, as in `torch.nn.Embedding`.
    """

    def __init__(self, members: int, num_embeddings: int, features: int, padding_index: int | None = None) -> None:
        super().__init__()
        if padding_index is not None and not 0 <= padding_index < num_embeddings:
            raise RlabError(f"padding_index {padding_index} must be one of the {num_embeddings} tokens, from 0.")
        self.padding_index = padding_index
        self.weight = nn.Parameter(torch.empty(members, num_embeddings, features))

    def forward(self, x: Tensor) -> Tensor:
        # A gather, not one flat lookup: an unknown token must be an error, not a vector of the next member.
        index = x.flatten(1).unsqueeze(-1).expand(-1, -1, self.weight.shape[-1])
        y = self.weight.gather(1, index).unflatten(1, x.shape[1:])
        if self.padding_index is None:
            return y
        return torch.where((x == self.padding_index).unsqueeze(-1), y.detach(), y)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's from `generators[i]`: normal with deviation 1, as torch has them."""
        for i, generator in enumerate(generators):
            self.weight[i].normal_(generator=generator)
            if self.padding_index is not None:
                self.weight[i, self.padding_index] = 0.0

    def _plain(self) -> nn.Embedding:
        _, tokens, features = self.weight.shape
        return nn.Embedding(tokens, features, self.padding_index)

    @classmethod
    def _of(cls, members: int, plain: nn.Embedding) -> Self:
        return cls(members, plain.num_embeddings, plain.embedding_dim, plain.padding_idx)


class _Last(nn.Module):
    """A recurrent unit of torch with one layer: `[B, T, D]` to its last hidden state `[B, H]`, or with `sequence` to
    all of them `[B, T, H]`.

    Its state as a layer with memory is that of the stacked layer, without the axis S.
    """

    unit: nn.GRU | nn.LSTM
    names: ClassVar[tuple[str, ...]]  # of the state's tensors `[B, H]`; the first is the output

    def __init__(self, sequence: bool) -> None:
        super().__init__()
        self.sequence = sequence

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.unit(x)
        y: Tensor = states if self.sequence else (last[0] if isinstance(last, tuple) else last).squeeze(0)
        return y

    def initial_state(self, rows: int) -> State:
        """Zeros `[B, H]`."""
        weight = self.unit.get_parameter("weight_hh_l0")
        return {name: weight.new_zeros(rows, self.unit.hidden_size) for name in self.names}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`[B, D]` to `[B, H]`, and the next state."""
        # A single cell with the unit's weights: torch.export cannot follow the unit itself.
        weights = [self.unit.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        after = self._cell(x, tuple(state[name] for name in self.names), weights)
        return after[0], dict(zip(self.names, after, strict=True))

    def _cell(self, x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The next state."""
        raise NotImplementedError

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """`[B, T, D]` to `[B, T, H]` and the last state; zeros before a step where `begins [B, T]` is true."""
        outputs = []
        for now, begin in zip(x.unbind(dim=1), begins.unbind(dim=1), strict=True):
            y, state = self.step(now, {n: value.masked_fill(begin.unsqueeze(-1), 0.0) for n, value in state.items()})
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.unit!r}, sequence={self.sequence})"  # one line, with every setting


class LastGRU(_Last):
    """`torch.nn.GRU` of one layer; its state is `hidden [B, H]`."""

    names = ("hidden",)

    def __init__(self, in_features: int, hidden: int, sequence: bool = False) -> None:
        super().__init__(sequence)
        self.unit = nn.GRU(in_features, hidden, batch_first=True)

    def _cell(self, x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (torch.gru_cell(x, state[0], *weights),)


class LastLSTM(_Last):
    """`torch.nn.LSTM` of one layer; its state is `hidden [B, H]` and `cell [B, H]`."""

    names = ("hidden", "cell")

    def __init__(self, in_features: int, hidden: int, sequence: bool = False) -> None:
        super().__init__(sequence)
        self.unit = nn.LSTM(in_features, hidden, batch_first=True)

    def _cell(self, x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        after: tuple[Tensor, ...] = torch.lstm_cell(x, list(state), *weights)
        return after


class _StackedUnit(StackedLayer):
    """What stacks of recurrent units have in common.

    A call takes `[S, B, T, D]`, begins with a state of zeros and gives the last hidden state `[S, B, H]`, or with
    `sequence` all of them `[S, B, T, H]`. As a layer with memory it gives the hidden state of every step, whatever
    `sequence` is. The gates are side by side in torch's order, G of them: `weight_ih [S, D, G H]`, `weight_hh
    [S, H, G H]`, `bias_ih` and `bias_hh [S, 1, G H]`.
    """

    transposed = ("weight_ih", "weight_hh")
    plain: ClassVar[type[LastGRU] | type[LastLSTM]]
    gates: ClassVar[int]

    def __init__(self, members: int, in_features: int, hidden: int, sequence: bool = False) -> None:
        super().__init__()
        self.sequence, width = sequence, self.gates * hidden
        self.weight_ih = nn.Parameter(torch.empty(members, in_features, width))
        self.weight_hh = nn.Parameter(torch.empty(members, hidden, width))
        self.bias_ih = nn.Parameter(torch.empty(members, 1, width))
        self.bias_hh = nn.Parameter(torch.empty(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self._run(x, self.initial_state(x.shape[1]), None)
        return outputs if self.sequence else outputs[:, :, -1]

    def initial_state(self, rows: int) -> State:
        """Zeros `[S, B, H]`."""
        members, hidden, _ = self.weight_hh.shape
        return {name: self.weight_hh.new_zeros(members, rows, hidden) for name in self.plain.names}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`[S, B, D]` to `[S, B, H]`, and the next state."""
        state = self._next(torch.baddbmm(self.bias_ih, x, self.weight_ih), state)
        return state["hidden"], state

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """`[S, B, T, D]` to `[S, B, T, H]` and the last state; zeros before a step where `begins [S, B, T]` is true."""
        return self._run(x, state, begins)

    def _run(self, x: Tensor, state: State, begins: Tensor | None) -> tuple[Tensor, State]:
        """The hidden state after each of T steps `[S, B, T, H]`, and the last state."""
        # The input's part of the gates, for all times at once: [T, S, B, G H].
        inputs = torch.baddbmm(self.bias_ih, x.transpose(1, 2).flatten(1, 2), self.weight_ih)
        inputs = inputs.unflatten(1, (x.shape[2], x.shape[1])).transpose(0, 1)
        marks = None if begins is None else begins.movedim(-1, 0).unsqueeze(-1)  # [T, S, B, 1]
        outputs, state = self._unrolled(inputs, state, marks)
        return outputs.movedim(0, 2), state

    def _next(self, now: Tensor, state: State) -> State:
        """The state after `state`, from the input's part of the gates `[S, B, G H]`."""
        raise NotImplementedError

    def _unrolled(self, inputs: Tensor, state: State, begins: Tensor | None) -> tuple[Tensor, State]:
        """As `_next` for T steps, time first: the hidden states `[T, S, B, H]` and the last state."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's from `generators[i]`: uniform within 1 / sqrt(H), as torch has them."""
        bound = 1.0 / math.sqrt(self.weight_hh.shape[1])
        for i, generator in enumerate(generators):
            for tensor in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh):
                tensor[i].uniform_(-bound, bound, generator=generator)

    def _plain(self) -> LastGRU | LastLSTM:
        return self.plain(self.weight_ih.shape[1], self.weight_hh.shape[1], self.sequence)

    @classmethod
    def _of(cls, members: int, plain: LastGRU | LastLSTM) -> Self:
        return cls(members, plain.unit.input_size, plain.unit.hidden_size, plain.sequence)


class StackedGRU(_StackedUnit):
    """Gated recurrent units (Cho et al. 2014) in the form of `torch.nn.GRU`; the state is `hidden [S, B, H]`:

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h
    """

    plain, gates = LastGRU, 3

    def unroll_ahead(self, x: Tensor, ahead: Tensor, state: State, begins: Tensor) -> tuple[Tensor, Tensor]:
        """As `rlab.networks.memory.unroll_ahead`: the state after a step is its output."""
        outputs, _ = self.unroll(x, state, begins)
        y, _ = self.step(ahead.flatten(1, 2), {"hidden": outputs.flatten(1, 2)})
        return outputs, y.unflatten(1, x.shape[1:3])

    def _next(self, now: Tensor, state: State) -> State:
        before = torch.baddbmm(self.bias_hh, state["hidden"], self.weight_hh)  # [S, B, 3 H]
        return {"hidden": gru_cell(now, before, state["hidden"])[0]}

    def _unrolled(self, inputs: Tensor, state: State, begins: Tensor | None) -> tuple[Tensor, State]:
        outputs: Tensor = GRUSequence.apply(inputs, self.weight_hh, self.bias_hh, state["hidden"], begins)
        return outputs, {"hidden": outputs[-1]}


class StackedLSTM(_StackedUnit):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) in the form of
    `torch.nn.LSTM`; the state is `hidden [S, B, H]` and `cell [S, B, H]`:

        i, f, o = sigmoid(W_i x + b_i + W_h h + b_h), each with its own weights
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        c' = f * c + i * g
        h' = o * tanh(c')
    """

    plain, gates = LastLSTM, 4

    def _next(self, now: Tensor, state: State) -> State:
        sums = now + torch.baddbmm(self.bias_hh, state["hidden"], self.weight_hh)  # [S, B, 4 H]
        hidden, cell, _ = lstm_cell(sums, state["cell"])
        return {"hidden": hidden, "cell": cell}

    def _unrolled(self, inputs: Tensor, state: State, begins: Tensor | None) -> tuple[Tensor, State]:
        before = state["hidden"], state["cell"]
        outputs, cell = LSTMSequence.apply(inputs, self.weight_hh, self.bias_hh, *before, begins)
        return outputs, {"hidden": outputs[-1], "cell": cell}


def _embedding_settings(layer: Any) -> dict[str, Any]:
    _, tokens, features = layer.weight.shape
    return {"num_embeddings": tokens, "features": features, "padding_index": layer.padding_index}


def _unit_settings(layer: Any) -> dict[str, Any]:
    _, in_features, _ = layer.weight_ih.shape
    return {"in_features": in_features, "hidden": layer.weight_hh.shape[1], "sequence": layer.sequence}


register(LayerKind("embedding", StackedEmbedding, StackedEmbedding, nn.Embedding, _embedding_settings))
register(LayerKind("gru", StackedGRU, StackedGRU, LastGRU, _unit_settings))
register(LayerKind("lstm", StackedLSTM, StackedLSTM, LastLSTM, _unit_settings))
