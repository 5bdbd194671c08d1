"""Recurrent units over a whole sequence, with gradients written out: autograd's own, one small operation after another,
take twice as long on a CPU (128 steps of 64 units for 2 rows of 2 members, forward and backward: 8 ms against 16).

Both work on stacks. Time leads here, so that a step is one stretch of memory: the input's part of the gates is
`[T, S, B, G H]`, with its bias; `begins [T, S, B, 1]` is true where the state before a step is zero.
"""

from typing import Any

import torch
from torch import Tensor

Grads = tuple[Tensor | None, ...]


def gru_cell(now: Tensor, before: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The next hidden state, the gates r and z side by side, and n, from the parts of the gates `[..., 3 H]` that the
    input and the state give; the formulas are in `StackedGRU`."""
    width = hidden.shape[-1]
    gates = torch.sigmoid(now[..., : 2 * width] + before[..., : 2 * width])
    new = torch.tanh(torch.addcmul(now[..., 2 * width :], gates[..., :width], before[..., 2 * width :]))
    return torch.lerp(new, hidden, gates[..., width:]), gates, new


def lstm_cell(sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The next hidden state, the next cell, and i, f, g, o, from the sums `[..., 4 H]` before the gates; the formulas
    are in `StackedLSTM`."""
    enter, forget, new, leave = sums.chunk(4, dim=-1)  # torch's order
    enter, forget, new, leave = enter.sigmoid(), forget.sigmoid(), new.tanh(), leave.sigmoid()
    cell = torch.addcmul(forget * cell, enter, new)
    return leave * cell.tanh(), cell, (enter, forget, new, leave)


class GRUSequence(torch.autograd.Function):
    """`(inputs [T, S, B, 3 H], weight [S, H, 3 H], bias [S, 1, 3 H], hidden [S, B, H], begins)` to all hidden states
    `[T, S, B, H]`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor, begins: Tensor | None
    ) -> Tensor:
        states, gates, news, befores, outputs = [], [], [], [], []
        for t, now in enumerate(inputs.unbind()):
            hidden = hidden if begins is None else hidden.masked_fill(begins[t], 0.0)
            before = torch.baddbmm(bias, hidden, weight)
            states.append(hidden)
            hidden, gate, new = gru_cell(now, before, hidden)
            outputs.append(hidden)
            gates.append(gate)
            news.append(new)
            befores.append(before[..., 2 * hidden.shape[-1] :])
        kept = [torch.stack(each) for each in (states, gates, news, befores)]
        ctx.save_for_backward(weight, begins, *kept)
        return torch.stack(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        weight, begins, state, gate, new, before = ctx.saved_tensors
        (grad,) = grads
        reset, update = gate.chunk(2, dim=-1)
        # By what the gradient of a hidden state is multiplied to be that of the sums before n, r and z, of all times.
        of_new = (1.0 - update) * (1.0 - new.square())
        of_reset = of_new * before * reset * (1.0 - reset)
        of_update = (state - new) * update * (1.0 - update)
        factors = torch.stack([of_reset, of_update, of_new * reset], dim=-2)  # [T, S, B, 3, H]
        back, after, hiddens, sums = weight.mT, torch.zeros_like(state[0]), [], []
        for t in reversed(range(len(grad))):
            of_hidden = grad[t] + after
            of_sums = (of_hidden.unsqueeze(-2) * factors[t]).flatten(-2)
            after = torch.baddbmm(of_hidden * update[t], of_sums, back)
            after = after if begins is None else after.masked_fill(begins[t], 0.0)
            hiddens.append(of_hidden)
            sums.append(of_sums)
        of_hidden, of_sums = torch.stack(hiddens[::-1]), torch.stack(sums[::-1])
        of_inputs = torch.cat([of_sums[..., : -new.shape[-1]], of_hidden * of_new], dim=-1)
        return of_inputs, *_of_weights(state, of_sums), after, None


class LSTMSequence(torch.autograd.Function):
    """`(inputs [T, S, B, 4 H], weight [S, H, 4 H], bias [S, 1, 4 H], hidden and cell [S, B, H], begins)` to all hidden
    states `[T, S, B, H]` and the last cell."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor, begins: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        states, cells, nexts, gates, outputs = [], [], [], [], []
        for t, now in enumerate(inputs.unbind()):
            if begins is not None:
                hidden, cell = hidden.masked_fill(begins[t], 0.0), cell.masked_fill(begins[t], 0.0)
            states.append(hidden)
            cells.append(cell)
            hidden, cell, gate = lstm_cell(now + torch.baddbmm(bias, hidden, weight), cell)
            outputs.append(hidden)
            nexts.append(cell)
            gates.append(torch.stack(gate))
        kept = [torch.stack(each) for each in (states, cells, nexts, gates)]
        ctx.save_for_backward(weight, begins, *kept)
        return torch.stack(outputs), cell

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        weight, begins, state, cell, after_cell, gate = ctx.saved_tensors
        grad, of_cell = grads
        enter, forget, new, leave = gate.unbind(dim=1)
        squashed = after_cell.tanh()
        through = leave * (1.0 - squashed.square())  # from the hidden state to the cell
        of_leave = squashed * leave * (1.0 - leave)
        factors = [new * enter * (1.0 - enter), cell * forget * (1.0 - forget), enter * (1.0 - new.square())]
        factor = torch.stack(factors, dim=-2)  # [T, S, B, 3, H]
        back, after, sums = weight.mT, torch.zeros_like(state[0]), []
        for t in reversed(range(len(grad))):
            of_hidden = grad[t] + after
            of_cell = torch.addcmul(of_cell, of_hidden, through[t])
            inner = (of_cell.unsqueeze(-2) * factor[t]).flatten(-2)
            of_sums = torch.cat([inner, of_hidden * of_leave[t]], dim=-1)
            after, of_cell = torch.bmm(of_sums, back), of_cell * forget[t]
            if begins is not None:
                after, of_cell = after.masked_fill(begins[t], 0.0), of_cell.masked_fill(begins[t], 0.0)
            sums.append(of_sums)
        of_sums = torch.stack(sums[::-1])
        return of_sums, *_of_weights(state, of_sums), after, of_cell, None


def _of_weights(state: Tensor, of_sums: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `weight` and `bias`, over all times and rows at once."""
    states, sums = (x.transpose(0, 1).flatten(1, 2) for x in (state, of_sums))  # [S, T * B, ...]
    return torch.bmm(states.mT, sums), sums.sum(dim=1, keepdim=True)
