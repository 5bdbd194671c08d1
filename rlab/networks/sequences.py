"""Layers for sequences, with a seed axis: token embeddings and gated recurrent units.

Called on a whole sequence, a recurrent layer begins with a hidden state of zeros; `step` and `unroll` take and give
the state (`rlab.networks.memory`). Sequences of unequal length are padded at the front, so that the last hidden state
is that of the last token.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from rlab.errors import RlabError
from rlab.networks.layers import StackedLayer
from rlab.networks.memory import State
from rlab.networks.registry import LayerKind, register


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


class LastGRU(nn.Module):
    """`torch.nn.GRU` of one layer: `[B, T, D]` to its last state `[B, H]`, or with `sequence` to all `[B, T, H]`.

    Its state as a layer with memory is `hidden [B, H]`.
    """

    def __init__(self, in_features: int, hidden: int, sequence: bool = False) -> None:
        super().__init__()
        self.sequence = sequence
        self.gru = nn.GRU(in_features, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.gru(x)
        y: Tensor = states if self.sequence else last.squeeze(0)
        return y

    def initial_state(self, rows: int) -> State:
        """`hidden [B, H]` of zeros."""
        return {"hidden": self.gru.get_parameter("weight_hh_l0").new_zeros(rows, self.gru.hidden_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`[B, D]` to `[B, H]`, which is also the next state."""
        _, last = self.gru(x.unsqueeze(1), state["hidden"].unsqueeze(0))
        return last[0], {"hidden": last[0]}

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """`[B, T, D]` to `[B, T, H]` and the last state; zeros before a step where `begins [B, T]` is true."""
        states = []
        for now, begin in zip(x.unbind(dim=1), begins.unbind(dim=1), strict=True):
            _, state = self.step(now, {"hidden": state["hidden"].masked_fill(begin.unsqueeze(-1), 0.0)})
            states.append(state["hidden"])
        return torch.stack(states, dim=1), state

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.gru!r}, sequence={self.sequence})"  # one line, with every setting


class StackedGRU(StackedLayer):
    """Gated recurrent units (Cho et al. 2014) in the form of `torch.nn.GRU`:

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    A call takes `[S, B, T, D]`, begins with a hidden state of zeros and gives the last hidden state `[S, B, H]`, or
    with `sequence` all of them `[S, B, T, H]`. As a layer with memory it gives the hidden state of every step, whatever
    `sequence` is; its state is `hidden [S, B, H]`. The gates are side by side in this order: `weight_ih [S, D, 3 H]`,
    `weight_hh [S, H, 3 H]`, `bias_ih` and `bias_hh [S, 1, 3 H]`.
    """

    transposed = ("weight_ih", "weight_hh")

    def __init__(self, members: int, in_features: int, hidden: int, sequence: bool = False) -> None:
        super().__init__()
        self.sequence = sequence
        self.weight_ih = nn.Parameter(torch.empty(members, in_features, 3 * hidden))
        self.weight_hh = nn.Parameter(torch.empty(members, hidden, 3 * hidden))
        self.bias_ih = nn.Parameter(torch.empty(members, 1, 3 * hidden))
        self.bias_hh = nn.Parameter(torch.empty(members, 1, 3 * hidden))

    def forward(self, x: Tensor) -> Tensor:
        states = self._run(x, self.initial_state(x.shape[1])["hidden"], None)
        return torch.stack(states, dim=2) if self.sequence else states[-1]

    def initial_state(self, rows: int) -> State:
        """`hidden [S, B, H]` of zeros."""
        members, hidden, _ = self.weight_hh.shape
        return {"hidden": self.weight_hh.new_zeros(members, rows, hidden)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`[S, B, D]` to `[S, B, H]`, which is also the next state."""
        hidden = self._next(torch.baddbmm(self.bias_ih, x, self.weight_ih), state["hidden"])
        return hidden, {"hidden": hidden}

    def unroll(self, x: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """`[S, B, T, D]` to `[S, B, T, H]` and the last state; zeros before a step where `begins [S, B, T]` is true."""
        states = self._run(x, state["hidden"], begins)
        return torch.stack(states, dim=2), {"hidden": states[-1]}

    def _run(self, x: Tensor, state: Tensor, begins: Tensor | None) -> list[Tensor]:
        """The hidden state `[S, B, H]` after each of T steps."""
        # The input's part of the gates, for all times at once: [S, B, T, 3 H].
        inputs = torch.baddbmm(self.bias_ih, x.flatten(1, 2), self.weight_ih).unflatten(1, x.shape[1:3])
        states = []
        for t, now in enumerate(inputs.unbind(dim=2)):
            if begins is not None:
                state = state.masked_fill(begins[:, :, t].unsqueeze(-1), 0.0)
            state = self._next(now, state)
            states.append(state)
        return states

    def _next(self, now: Tensor, state: Tensor) -> Tensor:
        """The hidden state `[S, B, H]` after `state`, from the input's part of the gates `[S, B, 3 H]`."""
        hidden = state.shape[-1]
        before = torch.baddbmm(self.bias_hh, state, self.weight_hh)  # [S, B, 3 H]
        gates = torch.sigmoid(now[..., : 2 * hidden] + before[..., : 2 * hidden])
        reset, update = gates[..., :hidden], gates[..., hidden:]
        new = torch.tanh(torch.addcmul(now[..., 2 * hidden :], reset, before[..., 2 * hidden :]))
        return torch.lerp(new, state, update)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Fresh weights, member i's from `generators[i]`: uniform within 1 / sqrt(H), as torch has them."""
        bound = 1.0 / math.sqrt(self.weight_hh.shape[1])
        for i, generator in enumerate(generators):
            for tensor in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh):
                tensor[i].uniform_(-bound, bound, generator=generator)

    def _plain(self) -> LastGRU:
        return LastGRU(self.weight_ih.shape[1], self.weight_hh.shape[1], self.sequence)

    @classmethod
    def _of(cls, members: int, plain: LastGRU) -> Self:
        return cls(members, plain.gru.input_size, plain.gru.hidden_size, plain.sequence)


def _embedding_settings(layer: Any) -> dict[str, Any]:
    _, tokens, features = layer.weight.shape
    return {"num_embeddings": tokens, "features": features, "padding_index": layer.padding_index}


def _gru_settings(layer: Any) -> dict[str, Any]:
    _, in_features, _ = layer.weight_ih.shape
    return {"in_features": in_features, "hidden": layer.weight_hh.shape[1], "sequence": layer.sequence}


register(LayerKind("embedding", StackedEmbedding, StackedEmbedding, nn.Embedding, _embedding_settings))
register(LayerKind("gru", StackedGRU, StackedGRU, LastGRU, _gru_settings))
