"""What a policy says over two numbers of its observation, the rest held as it was in one state."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlab.evaluation.explanation.question import ROWS_AT_ONCE, Question, States, batches
from rlab.evaluation.explanation.target import ACTION, ADVANTAGE
from rlab.networks import memory
from rlab.networks.heads import BernoulliHead

CELLS = 41  # along each axis
MOST_PARTS = 4  # of an action with several parts
REACH = (0.005, 0.995)  # quantiles of the visited values that an axis reaches to


@dataclass(frozen=True, eq=False)
class Field:
    """One number at each cell, or one option."""

    name: str
    values: np.ndarray  # [CELLS, CELLS], y before x; of options integers from 0
    options: tuple[str, ...] = ()  # names; (): these are numbers
    unit: str = ""
    about_zero: bool = False  # whether 0 is what its numbers are read against


@dataclass(frozen=True, eq=False)
class Map:
    """Fields over the same two numbers."""

    players: tuple[int, int]  # of the x and the y axis
    x: np.ndarray  # [CELLS] the middle of each cell, in the env's units
    y: np.ndarray  # [CELLS]
    fields: tuple[Field, ...]
    visited: np.ndarray  # [M, 2] where the policy was
    held: tuple[int, int]  # episode seed and step of the state that gives all other numbers

    def to_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Plain numbers."""
        fields = [
            {"name": each.name, "unit": each.unit, "options": list(each.options), "values": each.values.tolist()}
            for each in self.fields
        ]
        axes = {"x": names[self.players[0]], "y": names[self.players[1]]}
        grid = {"x_values": self.x.tolist(), "y_values": self.y.tolist()}
        return {**axes, **grid, "held_at": {"episode": self.held[0], "step": self.held[1]}, "fields": fields}


def can_map(question: Question, visited: States, player: int) -> bool:
    """Whether a player is a number that was not the same in all states."""
    element = int(question.players.element[player])
    if element < 0:
        return False
    low, high = _reach(_values(visited, element))
    return bool(low < high)


def values_of(question: Question, visited: States, player: int) -> int:
    """How many different values a player's number had."""
    return len(np.unique(_values(visited, int(question.players.element[player]))))


@torch.no_grad()
def map_of(question: Question, visited: States, players: tuple[int, int]) -> Map:
    """The map over two players for which `can_map` holds.

    All other numbers, and the memory, are held as in the visited state that is nearest to the medians of all.
    """
    elements = [int(question.players.element[player]) for player in players]
    values = [_values(visited, element) for element in elements]
    x, y = (np.linspace(*_reach(each), CELLS) for each in values)
    middle = visited.at([_most_usual(visited)])
    flat = middle.obs.flatten(1).double().expand(CELLS * CELLS, -1).clone()
    flat[:, elements[0]] = torch.from_numpy(np.tile(x, CELLS))
    flat[:, elements[1]] = torch.from_numpy(np.repeat(y, CELLS))
    obs = flat.to(middle.obs.dtype).reshape(-1, *middle.obs.shape[1:])
    outputs = torch.cat([_outputs(question, obs[some], middle) for some in batches(len(obs), ROWS_AT_ONCE)])
    mask = question.policy.preprocess.mask(obs)
    fields = tuple(
        Field(name, found.reshape(CELLS, CELLS).numpy(), options, unit, about_zero)
        for name, found, options, unit, about_zero in _fields(question, outputs, mask)
    )
    held = int(middle.episode[0]), int(middle.step[0])
    return Map(players, x, y, fields, np.stack(values, axis=-1), held)


def _fields(
    question: Question, outputs: Tensor, mask: Tensor | None
) -> list[tuple[str, Tensor, tuple[str, ...], str, bool]]:
    """Name, values `[CELLS^2]`, names of options, unit and whether it is read against 0."""
    target = question.target
    scores = target.scores(outputs)
    if target.kind == ACTION:
        return [
            (part or "action", scores[:, index], (), target.unit, True)
            for index, part in enumerate(target.parts[:MOST_PARTS])
        ]
    if isinstance(target.head, BernoulliHead):
        chance = scores.sigmoid()
        return [
            (f"probability of {part or 'the bit'}", chance[:, index], (), "", False)
            for index, part in enumerate(target.parts[:MOST_PARTS])
        ]
    contrast = target.contrast(scores, mask)
    found = []
    for part, label in enumerate(target.parts[:MOST_PARTS]):
        found.append((label or "greedy action", contrast.chosen[:, part], target.options(part), "", False))
    gap = (contrast.weights * scores.unsqueeze(-2)).sum(dim=-1)  # [cells, K]
    if target.kind == ADVANTAGE:
        allowed = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        found.append(("value: the largest Q", allowed.amax(dim=-1), (), target.unit, False))
        found.append(("advantage over the runner-up", gap[:, 0], (), target.unit, False))
    elif len(target.parts) == 1:
        allowed = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        found.append(("probability of the greedy action", allowed.softmax(dim=-1).amax(dim=-1), (), "", False))
    return found


def _outputs(question: Question, obs: Tensor, middle: States) -> Tensor:
    policy = question.policy
    features = policy.preprocess(obs)
    if not policy.has_memory:
        found: Tensor = policy.network(features)
        return found
    state = {name: tensor.expand(len(obs), *tensor.shape[1:]) for name, tensor in middle.state.items()}
    return memory.step(policy.network, features, state)[0]


def _values(visited: States, element: int) -> np.ndarray:
    found: np.ndarray = visited.obs.flatten(1)[:, element].double().numpy()
    return found


def _reach(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, REACH)
    return float(low), float(high)


def _most_usual(visited: States) -> int:
    """The state nearest to the medians of the features, in standard deviations."""
    features = visited.features.flatten(1).double()
    spread = features.std(dim=0, correction=0).clamp(min=1e-12)
    return int(((features - features.median(dim=0).values) / spread).square().sum(dim=-1).argmin())
