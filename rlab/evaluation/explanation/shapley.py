"""Shapley values (Shapley 1953) of games with n players, exact for few players, else from sampled orders.

A coalition is a row of n bools: true where a player is present. A game's value is K numbers. Where a game is played
before R backgrounds, its value is the mean over them: the value of a coalition is what a policy says where the players
present are those of the observation explained and all others are those of a background (Lundberg and Lee 2017, with
the interventional expectation of Janzing et al. 2020).

The values of all players add up to the value of all of them less that of none, whatever the game is.
"""

from collections.abc import Callable
from math import factorial
from typing import NamedTuple

import numpy as np

EXACT = 12  # players; 2^12 coalitions
# Coalitions [r, c, n], of which r is R or 1 for all backgrounds alike, to the game's values [R, c, K] in float64.
Game = Callable[[np.ndarray], np.ndarray]


class Shares(NamedTuple):
    """What each of n players adds to each of K numbers."""

    values: np.ndarray  # [n, K]; they add up to `whole` less `without`
    error: np.ndarray  # [n, K] standard errors; 0 where they are exact
    whole: np.ndarray  # [K] with all players
    without: np.ndarray  # [K] with none


def shapley_values(game: Game, players: int, backgrounds: int, orders: int, rng: np.random.Generator) -> Shares:
    """Exact up to `EXACT` players; beyond them from `orders` random orders or more: as many as make the same even
    number for each of the R backgrounds."""
    if players <= EXACT:
        return exact_values(game(coalitions(players)[None]).mean(axis=0))
    each = -(-orders // (2 * backgrounds))
    return sampled_values(game, np.argsort(rng.random((backgrounds, each, players)), axis=-1))


def coalitions(players: int) -> np.ndarray:
    """All of them, `[2^n, n]`: player i is present in those whose number has bit i."""
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)


def exact_values(values: np.ndarray) -> Shares:
    """Shapley values of a game with the values `[2^n, K]`, in the order of `coalitions`.

    A player's is the mean of what it adds to a coalition: over the coalition's sizes, and for each over the coalitions
    of that size.
    """
    players = len(values).bit_length() - 1
    cube = values.reshape(*(2,) * players, -1)  # the last bit is the first axis
    sizes = np.arange(2 ** (players - 1), dtype=np.int64)
    present = sum((sizes >> bit & 1 for bit in range(players - 1)), start=np.zeros_like(sizes))
    weight = np.array([factorial(s) * factorial(players - 1 - s) / factorial(players) for s in range(players)])
    found = []
    for player in range(players):
        axis = players - 1 - player
        added = cube.take(1, axis) - cube.take(0, axis)  # [2, ..., 2, K], of the coalitions without the player
        found.append(weight[present] @ added.reshape(len(sizes), -1))
    shares = np.stack(found)
    return Shares(shares, np.zeros_like(shares), values[-1], values[0])


def sampled_values(game: Game, orders: np.ndarray) -> Shares:
    """Shapley values and their standard errors, from players that come one after the other.

    What a player adds when it comes, as mean over orders, is its Shapley value (Castro et al. 2009). Every order is
    also played backwards, which makes the error smaller (Mitchell et al. 2022).

    Args:
        orders: permutations of the players `[R, m, n]`: m for each background, so that all backgrounds count alike.
            With two or more for each background the errors are those of the orders alone; with one they hold the
            spread over backgrounds as well, and are too large.
    """
    rounds, each, players = orders.shape
    both = np.stack([orders, orders[..., ::-1]], axis=2)  # [R, m, 2, n]
    place = np.argsort(both, axis=-1)  # when each player comes
    present = place[..., None, :] < np.arange(players + 1)[:, None]  # [R, m, 2, n + 1, n]
    values = game(present.reshape(rounds, -1, players)).reshape(*both.shape[:3], players + 1, -1)
    added = np.diff(values, axis=3)  # [R, m, 2, n, K], in the order in which they come
    added = np.take_along_axis(added, place[..., None], axis=3).mean(axis=2)  # [R, m, n, K], by player
    mean = added.mean(axis=(0, 1))
    if each > 1:
        error = np.sqrt(added.var(axis=1, ddof=1).mean(axis=0) / (rounds * each))
    else:
        error = np.sqrt(added[:, 0].var(axis=0, ddof=1) / rounds) if rounds > 1 else np.full_like(mean, np.nan)
    ends = values.mean(axis=(0, 1, 2))  # [n + 1, K]
    return Shares(mean, error, ends[-1], ends[0])
