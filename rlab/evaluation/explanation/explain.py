"""Everything that is found out about one policy's choices in states that it visited."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rlab.errors import UsageError
from rlab.evaluation.explanation.deletion import Deletion, deletions
from rlab.evaluation.explanation.gradients import integrated_gradients, saliency
from rlab.evaluation.explanation.maps import Map, can_map, map_of, values_of
from rlab.evaluation.explanation.players import Players
from rlab.evaluation.explanation.question import Question, States
from rlab.evaluation.explanation.shapley import EXACT, shapley_values
from rlab.evaluation.explanation.strip import Strip
from rlab.evaluation.explanation.target import Target
from rlab.networks.policy import MemberPolicy
from rlab.randomness import stream

FEW_VALUES = 10  # fewer different ones are no axis of a map, where there are others
MOST_NUMBERS = 1000  # of an observation that the JSON holds
SHAPLEY, GRADIENTS, SALIENCY = "Shapley values", "integrated gradients", "saliency"


@dataclass(frozen=True)
class Counts:
    """How much is computed; each is 1 or more."""

    states: int = 64  # explained
    background: int = 16  # states that stand for what is not seen
    orders: int = 64  # of players, for Shapley values that are sampled


@dataclass(frozen=True, eq=False)
class Explanation:
    """What N states say about n players and K parts of the action."""

    question: Question
    states: States
    value: np.ndarray  # [N, K] what is explained
    base: np.ndarray  # [N, K] the same at the background, on average
    methods: dict[str, np.ndarray]  # [N, n, K] by name, Shapley values first
    error: np.ndarray  # [N, n, K] standard errors of the Shapley values; 0 where they are exact
    tests: list[Deletion]
    map: Map | None
    strip: Strip | None = None

    @property
    def exact(self) -> bool:
        """Whether the Shapley values are exact."""
        return len(self.question.players.names) <= EXACT

    @cached_property
    def importance(self) -> dict[str, np.ndarray]:
        """The mean size of each method's attributions over states, `[n, K]`."""
        defined = self.states.contrast.defined.numpy()[:, None]  # [N, 1, K]
        counted = np.maximum(defined.sum(axis=0), 1)
        return {name: (np.abs(found) * defined).sum(axis=0) / counted for name, found in self.methods.items()}

    @cached_property
    def gradients_gap(self) -> float:
        """The largest difference between what integrated gradients add up to and what they should."""
        return float(np.abs(self.methods[GRADIENTS].sum(axis=1) - (self.value - self.base)).max())

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; attributions are lists `[states][features][parts]`."""
        target, players, contrast = self.question.target, self.question.players, self.states.contrast
        return {
            "explained": target.kind,
            "about": target.about,
            "unit": target.unit,
            "parts": list(target.parts),
            "features": list(players.names),
            "exact": self.exact,
            "background_states": len(self.question.background),
            "states": {
                "episode": self.states.episode.tolist(),
                "step": self.states.step.tolist(),
                "obs": self.states.obs.tolist() if self.states.obs[0].numel() <= MOST_NUMBERS else None,
                "chosen": contrast.chosen.tolist(),
                "runner_up": contrast.runner_up.tolist(),
                "value": self.value.tolist(),
                "base": self.base.tolist(),
            },
            "attributions": {name: found.tolist() for name, found in self.methods.items()},
            "shapley_standard_error": None if self.exact else self.error.tolist(),
            "mean_size": {name: found.tolist() for name, found in self.importance.items()},
            "integrated_gradients_largest_gap": self.gradients_gap,
            "deletion": [each.to_json() for each in self.tests],
            "map": None if self.map is None else self.map.to_json(players.names),
            "strip": None if self.strip is None else self.strip.to_json(),
        }


def explain(
    policy: MemberPolicy,
    target: Target,
    players: Players,
    visited: States,
    counts: Counts,
    axes: Sequence[int] = (),
    strip: Strip | None = None,
) -> Explanation:
    """Explain the policy's choices in some of the states that it visited, before a background of others.

    Args:
        axes: the two players that the map is over; (): the two that matter most.

    Raises:
        UsageError: an axis never varied, or no state leaves a choice.
    """
    rng = stream(policy.seed, "explanation")
    order = rng.permutation(len(visited))
    some = min(counts.background, max(1, len(order) // 2))
    background, rest = order[:some], order[some:] if len(order) > some else order
    rest = rest[visited.contrast.defined.any(dim=-1).numpy()[rest]]
    if not len(rest):
        raise UsageError("no state that was visited leaves the policy a choice: a mask allows one action in each.")
    states = visited.at(_in_turn(rest, visited.episode)[: counts.states])
    question = Question(policy, target, players, visited.features[background.tolist()])
    for axis in axes:
        if not can_map(question, visited, axis):
            raise UsageError(f"the feature {players.names[axis]!r} never varied: it cannot be an axis of a map.")
    shares = [
        shapley_values(question.game(states, row), len(players.names), some, counts.orders, rng)
        for row in range(len(states))
    ]
    values, error, value, base = (np.stack(each) for each in zip(*shares, strict=True))
    spread = visited.features.std(dim=0, correction=0)
    methods = {
        SHAPLEY: values,
        GRADIENTS: integrated_gradients(question, states),
        SALIENCY: saliency(question, states, spread),
    }
    tests = deletions(question, states, methods, base, rng)
    found = Explanation(question, states, value, base, methods, error, tests, None, strip)
    over = axes or _two_that_matter(found, visited)
    return replace(found, map=map_of(question, visited, (over[0], over[1]))) if len(over) == 2 else found


def _in_turn(rows: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Rows in an order in which the episodes take turns: first one of each, then a second one of each ..."""
    turn = np.zeros(len(rows), np.int64)
    for each in np.unique(episode[rows]):
        own = episode[rows] == each
        turn[own] = np.arange(own.sum())
    return rows[np.argsort(turn, kind="stable")]


def _two_that_matter(found: Explanation, visited: States) -> list[int]:
    """The players with the largest mean Shapley values among those that can be the axes of a map."""
    size = found.importance[SHAPLEY]
    share = (size / np.maximum(size.sum(axis=0), 1e-12)).mean(axis=-1)
    ranked = [int(player) for player in np.argsort(-share, kind="stable") if can_map(found.question, visited, player)]
    # Of bits and their like a map shows nothing: they come last.
    return sorted(ranked, key=lambda player: values_of(found.question, visited, player) < FEW_VALUES)[:2]
