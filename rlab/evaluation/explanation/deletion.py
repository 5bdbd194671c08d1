"""Does an explanation mean anything? Players are taken away in the order that it gives, and in random order.

An explanation that knows what matters takes the policy's reason away sooner than chance does (Samek et al. 2017;
Petsiuk et al. 2018, there with the area under the curve).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlab.evaluation.explanation.question import Question, States
from rlab.evaluation.stats import Interval, mean_interval

RANDOM_ORDERS = 8  # for each state
STEPS = 12  # at most; of many players several are taken away at once
ENOUGH = 6  # episodes: the 95 % interval of fewer holds the true value too seldom
SHOWN, WORSE, NOT_SHOWN, TOO_FEW = "means something", "worse than chance", "no difference shown", "too few episodes"


@dataclass(frozen=True, eq=False)
class Deletion:
    """What one method's order does to one part of the action, as means over states."""

    method: str
    part: str
    curve: np.ndarray  # [steps + 1] what is explained, from nothing taken away to everything
    random: np.ndarray  # [steps + 1] of random orders
    gain: Interval | float  # mean height of `random` less that of `curve`; a plain number of a single episode
    episodes: int  # that the states are from

    @property
    def verdict(self) -> str:
        """Of `SHOWN`, `WORSE`, `NOT_SHOWN` and `TOO_FEW`."""
        if self.episodes < ENOUGH or not isinstance(self.gain, Interval):
            return TOO_FEW
        return SHOWN if self.gain.low > 0 else WORSE if self.gain.high < 0 else NOT_SHOWN

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        interval = self.gain if isinstance(self.gain, Interval) else None
        return {
            "method": self.method,
            "part": self.part,
            "verdict": self.verdict,
            "episodes": self.episodes,
            "gain": self.gain if interval is None else interval.estimate,
            "ci95": None if interval is None else [interval.low, interval.high],
            "curve": self.curve.tolist(),
            "random": self.random.tolist(),
        }


def deletions(
    question: Question, states: States, methods: dict[str, np.ndarray], base: np.ndarray, rng: np.random.Generator
) -> list[Deletion]:
    """The test of every method and part of the action.

    The interval is over episodes, since states of one episode are alike.

    Args:
        methods: attributions `[N, n, K]` by name; those of the largest values go first. Of continuous actions, which
            may be larger or smaller than at the background, those that push it the way that it went.
        base: what is explained at the background, `[N, K]`.
    """
    parts, players = len(question.target.parts), len(question.players.names)
    counts = np.unique(np.linspace(0, players, min(players, STEPS) + 1).round().astype(int))
    sign = _signs(question, states, base)  # [N, K]
    by_chance = np.empty((len(states), len(counts), parts))
    in_order = {name: np.empty_like(by_chance) for name in methods}
    for row in range(len(states)):
        game = question.game(states, row)
        random = np.argsort(rng.random((RANDOM_ORDERS, players)), axis=-1)
        ordered = {
            name: np.argsort(-(found[row] * sign[row]), axis=0, kind="stable").T for name, found in methods.items()
        }
        together = np.concatenate([random, *ordered.values()])  # [orders, n]
        place = np.argsort(together, axis=-1)
        present = place[:, None, :] >= counts[:, None]  # [orders, steps + 1, n]
        values = game(present.reshape(1, -1, players)).mean(axis=0).reshape(len(together), len(counts), parts)
        by_chance[row] = values[:RANDOM_ORDERS].mean(axis=0)
        for index, name in enumerate(methods):
            first = RANDOM_ORDERS + index * parts
            in_order[name][row] = np.stack([values[first + part, :, part] for part in range(parts)], axis=-1)
    found = []
    for name, curves in in_order.items():
        gain = np.trapezoid((by_chance - curves) * sign[:, None], counts / players, axis=1)  # [N, K]
        for part, label in enumerate(question.target.parts):
            defined = states.contrast.defined[:, part].numpy()
            if not defined.any():
                continue
            curve, random = ((values * sign[:, None])[defined, :, part].mean(axis=0) for values in (curves, by_chance))
            episode = states.episode[defined]
            over = _over_episodes(gain[defined, part], episode)
            found.append(Deletion(name, label, curve, random, over, len(np.unique(episode))))
    return found


def _signs(question: Question, states: States, base: np.ndarray) -> np.ndarray:
    """+1 where the attribution that speaks for the action is the largest, -1 where it is the smallest, `[N, K]`."""
    if states.contrast.chosen.min() >= 0:  # choices are explained by differences, which are positive
        return np.ones(base.shape)
    value = (states.contrast.weights * states.scores.unsqueeze(-2)).sum(dim=-1).double().numpy()
    return np.where(value >= base, 1.0, -1.0)


def _over_episodes(values: np.ndarray, episode: np.ndarray) -> Interval | float:
    means = [values[episode == each].mean() for each in np.unique(episode)]
    return mean_interval(means) if len(means) > 1 else float(means[0])
