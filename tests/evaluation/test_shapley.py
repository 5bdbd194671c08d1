"""Shapley values: by hand, against captum, and what they add up to."""

import numpy as np
import pytest
import torch
from torch import nn

from rlab.evaluation.explanation.shapley import Game, coalitions, exact_values, sampled_values, shapley_values


def network(features: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, 2)).double()


def game_of(net: nn.Module, own: torch.Tensor, backgrounds: torch.Tensor) -> Game:
    """One player for each input of the network."""

    @torch.no_grad()
    def play(present: np.ndarray) -> np.ndarray:
        mixed = torch.where(torch.from_numpy(present), own, backgrounds[:, None])
        return np.asarray(net(mixed).numpy())

    return play


def inputs(features: int, rows: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_glove_game_has_its_values_of_the_textbook() -> None:
    # The first player has a left glove, the others right ones; a pair is worth 1. In 4 of the 6 orders the first
    # player completes the pair, in 1 of 6 each of the others.
    values = np.array([float(each[0] and (each[1] or each[2])) for each in coalitions(3)])
    found = exact_values(values[:, None])
    assert found.values[:, 0] == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=1e-15)
    assert (found.whole, found.without) == (1.0, 0.0)


def test_a_player_alone_gets_everything() -> None:
    assert exact_values(np.array([[2.0, 1.0], [5.0, -1.0]])).values.tolist() == [[3.0, -2.0]]


def test_exact_values_are_those_of_captum_that_plays_every_order() -> None:
    captum = pytest.importorskip("captum.attr")
    net, own, background = network(5), inputs(5, 1), inputs(5, 1, seed=2)
    found = exact_values(game_of(net, own, background)(coalitions(5)[None])[0])
    for part in range(2):
        theirs = captum.ShapleyValues(net).attribute(own, background, target=part, perturbations_per_eval=32)
        assert found.values[:, part] == pytest.approx(
            theirs[0].numpy(), abs=1e-6
        )  # captum adds up 120 orders in float32


def test_exact_values_are_those_that_captum_samples_within_its_error() -> None:
    captum = pytest.importorskip("captum.attr")
    net, own, background = network(8), inputs(8, 1), inputs(8, 1, seed=2)
    found = exact_values(game_of(net, own, background)(coalitions(8)[None])[0]).values[:, 0]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sampler = captum.ShapleyValueSampling(net)
        runs = [
            sampler.attribute(own, background, target=0, n_samples=20, perturbations_per_eval=8)[0].detach().numpy()
            for _ in range(20)
        ]
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(20)
    assert (np.abs(np.mean(runs, axis=0) - found) < 4.5 * error).all()  # Student's t of 19: 2e-3 for all eight


@pytest.mark.parametrize("rounds", [1, 6])
def test_sampled_values_are_exact_within_their_own_errors_and_add_up(rounds: int) -> None:
    net, own, backgrounds = network(8), inputs(8, 1), inputs(8, rounds, seed=2)
    game, rng = game_of(net, own, backgrounds), np.random.default_rng(4)
    exact = exact_values(game(coalitions(8)[None]).mean(axis=0))
    found = [sampled_values(game, np.argsort(rng.random((rounds, 12, 8)), axis=-1)) for _ in range(50)]
    off = np.array([(each.values - exact.values) / each.error for each in found])
    assert 0.8 < np.sqrt(np.mean(off**2)) < 1.3  # 1, were the errors known and not estimated from few orders
    assert np.abs(off.mean(axis=0)).max() * np.sqrt(50) < 4.5
    for each in found:
        assert each.values.sum(axis=0) == pytest.approx(each.whole - each.without, abs=1e-12)
        assert each.whole - each.without == pytest.approx(exact.whole - exact.without, abs=1e-12)


def test_the_values_of_many_backgrounds_are_the_means_over_each() -> None:
    net, own, backgrounds = network(4), inputs(4, 1), inputs(4, 5, seed=2)
    rng = np.random.default_rng(0)
    together = shapley_values(game_of(net, own, backgrounds), 4, 5, 1, rng)
    alone = [shapley_values(game_of(net, own, each[None]), 4, 1, 1, rng).values for each in backgrounds]
    assert together.values == pytest.approx(np.mean(alone, axis=0), abs=1e-12)
    assert together.values.sum(axis=0) == pytest.approx(together.whole - together.without, abs=1e-12)


def test_more_than_twelve_players_are_sampled_before_each_background_alike() -> None:
    asked: list[tuple[int, ...]] = []

    def game(present: np.ndarray) -> np.ndarray:
        asked.append(present.shape)
        return present.sum(axis=-1, keepdims=True, dtype=float)  # every player adds 1, in any order

    found = shapley_values(game, 13, 4, 9, np.random.default_rng(0))
    assert asked == [(4, 2 * 2 * 14, 13)]  # 9 orders become 16: 2 and their reverses for each background
    assert found.values.tolist() == [[1.0]] * 13
    assert found.error.tolist() == [[0.0]] * 13
