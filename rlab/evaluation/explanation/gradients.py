"""Explanations by gradients, with respect to the features that the network reads."""

import numpy as np
import torch
from torch import Tensor

from rlab.evaluation.explanation.players import Players
from rlab.evaluation.explanation.question import NUMBERS_AT_ONCE, Question, States, batches
from rlab.networks import memory
from rlab.networks.memory import State

NODES = 32  # on the way from a background to the state explained
ROWS_AT_ONCE = 2048


def gradients_of(question: Question, features: Tensor, state: State, weights: Tensor) -> Tensor:
    """The gradient of each of the K numbers explained at `features [B, *features]`: `[B, K, *features]`.

    All zeros where the network passes none on, as layers that only round do.
    """
    with torch.enable_grad():
        features = features.detach().requires_grad_()
        explained = question.explained(features, state, weights)  # [B, K]
        if not explained.requires_grad:
            return features.new_zeros(len(features), weights.shape[1], *features.shape[1:])
        parts = range(explained.shape[1])
        found = [
            torch.autograd.grad(explained[:, part].sum(), features, retain_graph=True, materialize_grads=True)[0]
            for part in parts
        ]
    return torch.stack(found, dim=1)


def saliency(question: Question, states: States, spread: Tensor) -> np.ndarray:
    """How much each of the K numbers explained changes where a player does by a standard deviation, at first order:
    `[N, n, K]` (Simonyan et al. 2014, in comparable units).

    Args:
        spread: standard deviation of each feature over visited states, `[*features]`.
    """
    found = gradients_of(question, states.features, states.state, states.contrast.weights)
    return by_player(question.players, (found.abs() * spread).double())


def integrated_gradients(question: Question, states: States) -> np.ndarray:
    """Integrated gradients (Sundararajan et al. 2017) from each background to the state, as mean over backgrounds
    (Erion et al. 2021): `[N, n, K]`.

    In theory a state's add up to what its Shapley values do. The integral is by Gauss-Legendre quadrature; kinks of the
    network leave an error.
    """
    nodes, weight = np.polynomial.legendre.leggauss(NODES)
    alpha = torch.from_numpy((nodes + 1) / 2).float()
    density = torch.from_numpy(weight / 2)
    count, background = len(states), question.background
    path = len(background) * NODES
    rows_at_once = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // states.features[0].numel()))
    total = []
    for some in batches(count, max(1, rows_at_once // path)):
        own = states.features[some].unsqueeze(1).unsqueeze(1)  # [b, 1, 1, *features]
        way = own - background.unsqueeze(1)  # [b, R, 1, *features]
        share = alpha.reshape(-1, *(1,) * (own.ndim - 3))
        points = (background.unsqueeze(1) + share * way).flatten(0, 2)  # [b * R * nodes, *features]
        rows = torch.arange(some.start, some.stop).repeat_interleave(path)
        state, weights = memory.take(states.state, rows), states.contrast.weights[rows]
        found = torch.cat(
            [
                gradients_of(question, points[part], memory.take(state, part), weights[part])
                for part in batches(len(points), rows_at_once)
            ]
        )
        found = found.reshape(-1, len(background), NODES, *found.shape[1:]).double()  # [b, R, nodes, K, *features]
        mean = torch.tensordot(found.movedim(2, -1), density, dims=1)  # [b, R, K, *features]
        total.append((mean * way.double()).mean(dim=1))
    return by_player(question.players, torch.cat(total))


def by_player(players: Players, features: Tensor) -> np.ndarray:
    """Sums over the features of each player, `[N, K, *features]` to `[N, n, K]`."""
    flat = features.flatten(2)
    owner = torch.from_numpy(players.owner).flatten()
    sums = flat.new_zeros(*flat.shape[:2], len(players.names)).index_add_(2, owner, flat)
    return sums.transpose(1, 2).numpy()
