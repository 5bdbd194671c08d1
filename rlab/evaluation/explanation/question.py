"""A policy as a function of the features that its network reads, at states that were visited."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlab.evaluation.explanation.players import Players
from rlab.evaluation.explanation.shapley import Game
from rlab.evaluation.explanation.target import Contrast, Target
from rlab.networks import memory
from rlab.networks.memory import State
from rlab.networks.policy import MemberPolicy

ROWS_AT_ONCE = 4096  # of the network
NUMBERS_AT_ONCE = 2**22  # of features: 16 MiB


@dataclass(frozen=True, eq=False)
class States:
    """N states that a policy visited, as the network reads them."""

    obs: Tensor  # [N, *obs] in array form
    features: Tensor  # [N, *features] float32
    state: State  # of the policy's memory before each of them, tensors [N, ...]; {} without memory
    contrast: Contrast  # [N, K, W] and [N, K]
    scores: Tensor  # [N, W]
    episode: np.ndarray  # [N] seed
    step: np.ndarray  # [N] env steps since it began
    returns: np.ndarray  # [E] of all episodes that were played to find them

    def __len__(self) -> int:
        return len(self.obs)

    def at(self, rows: Sequence[int] | np.ndarray) -> "States":
        """Some of them, in this order."""
        index = torch.as_tensor(np.asarray(rows, np.int64))
        contrast = Contrast(*(each[index] for each in self.contrast))
        obs, features, scores = (each[index] for each in (self.obs, self.features, self.scores))
        state = memory.take(self.state, index)
        return States(obs, features, state, contrast, scores, self.episode[rows], self.step[rows], self.returns)


@dataclass(frozen=True, eq=False)
class Question:
    """Why one policy acts as it does, where what it does not see is taken from R states of a background."""

    policy: MemberPolicy
    target: Target
    players: Players
    background: Tensor  # [R, *features]

    def scores(self, features: Tensor, state: State) -> Tensor:
        """What the head says of `features [B, *features]`, `[B, W]`; the gradient passes."""
        network = self.policy.network
        outputs = memory.step(network, features, state)[0] if self.policy.has_memory else network(features)
        return self.target.scores(outputs)

    def explained(self, features: Tensor, state: State, weights: Tensor) -> Tensor:
        """The K numbers explained, `[B, K]`, with `weights [B, K, W]` of the states explained."""
        return (weights * self.scores(features, state).unsqueeze(-2)).sum(dim=-1)

    def game(self, states: States, row: int) -> Game:
        """The game of one state: the policy's memory is held as it was there."""
        own, state = states.features[row], memory.take(states.state, slice(row, row + 1))
        weights = states.contrast.weights[row : row + 1]

        @torch.no_grad()
        def play(present: np.ndarray) -> np.ndarray:
            background, count = self.background.unsqueeze(1), present.shape[1]
            parts = []
            for some in np.split(present, _cuts(count, len(background), own.numel()), axis=1):
                shown = torch.from_numpy(some)[..., self._owner]  # [R or 1, c, *features]
                mixed = torch.where(shown, own, background).flatten(0, 1)
                found = self.explained(mixed, _repeated(state, len(mixed)), weights)
                parts.append(found.double().reshape(len(background), -1, weights.shape[1]))
            return torch.cat(parts, dim=1).numpy()

        return play

    @property
    def _owner(self) -> Tensor:
        return torch.from_numpy(self.players.owner)


def batches(count: int, size: int) -> Iterator[slice]:
    """Neighbouring rows, so many at once."""
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def _cuts(count: int, rounds: int, numbers: int) -> list[int]:
    """Where `count` coalitions of `rounds` rows each are cut, so that no part is too large for the memory."""
    each = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // numbers) // rounds)
    return list(range(each, count, each))


def _repeated(state: State, rows: int) -> State:
    """The state of one row for all of them."""
    return {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in state.items()}
