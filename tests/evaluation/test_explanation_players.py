"""The parts of an observation that are explained one by one."""

from typing import Any

import numpy as np
import pytest
import torch

from rlab.errors import UsageError
from rlab.evaluation.explanation.players import players_of
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Space, Tuple, pack

IMAGE = Box((10, 12, 3), "uint8", 0, 255)
EVERYTHING = Dict(
    (
        ("arm", Box((2,), "float32", -1.0, 1.0)),
        ("bits", MultiBinary((2,))),
        ("camera", IMAGE),
        ("pair", Tuple((Discrete(3, 1), MultiDiscrete((2, 4), (0, 0), (2,))))),
    )
)


def test_numbers_choices_bits_and_patches_are_players_and_a_mask_is_not() -> None:
    found = players_of(Masked(EVERYTHING, 5))
    names = list(found.names)
    assert names[:4] == ["arm[0]", "arm[1]", "bits[0]", "bits[1]"]
    # 12 pixels in at most 8 patches: 2 pixels each, 5 rows of 6 patches
    assert names[4] == "camera, rows 0-1, columns 0-1"
    assert names[33] == "camera, rows 8-9, columns 10-11"
    assert names[34:] == ["pair/0", "pair/1[0]", "pair/1[1]"]
    assert found.owner.shape == (2 + 2 + 360 + 3 + 6,)
    assert found.owner[-9:].tolist() == [34] * 3 + [35] * 2 + [36] * 4  # one-hot features
    assert found.element.tolist() == [0, 1] + [-1] * 35  # the numbers of a Box alone can be the axis of a map
    assert found.grid is None


@pytest.mark.parametrize(
    "space",
    [
        EVERYTHING,
        Masked(EVERYTHING, 5),
        IMAGE,
        Box((2, 10, 12), "uint8", 0, 255),
        Box((10, 12, 1), "uint8", 0, 255),
        Box((3, 2), "float64", -np.inf, np.inf),
        Discrete(4),
    ],
    ids=str,
)
def test_a_feature_depends_on_the_elements_of_its_player_alone(space: Space) -> None:
    players = players_of(space)
    preprocess = Preprocess(space, "none", None, None)
    rng = np.random.default_rng(0)
    one, other = (torch.from_numpy(np.asarray(packed(space, rng))) for _ in range(2))
    features = [preprocess(each.unsqueeze(0))[0] for each in (one, other)]
    assert players.owner.shape == features[0].shape
    assert players.owner.flags.writeable  # torch takes no other
    assert set(np.unique(players.owner)) == set(range(len(players.names)))
    for element in range(one.numel()):
        mixed = one.clone().flatten()
        mixed[element] = other.flatten()[element]
        changed = preprocess(mixed.reshape(one.shape).unsqueeze(0))[0] != features[0]
        assert len(np.unique(players.owner[changed.numpy()])) <= 1


def packed(space: Space, rng: np.random.Generator) -> Any:
    mask = np.ones(5) if isinstance(space, Masked) else None
    inner = space.obs if isinstance(space, Masked) else space
    return pack(space, drawn(inner, rng), mask)


def drawn(space: Space, rng: np.random.Generator) -> Any:
    if isinstance(space, Dict):
        return {name: drawn(part, rng) for name, part in space.items}
    if isinstance(space, Tuple):
        return tuple(drawn(part, rng) for part in space.items)
    if isinstance(space, Discrete):
        return space.start + rng.integers(space.n)
    if isinstance(space, MultiDiscrete):
        return rng.integers(space.nvec)
    if isinstance(space, MultiBinary):
        return rng.integers(2, size=space.shape)
    assert isinstance(space, Box)
    return rng.integers(0, 255, space.shape) if space.is_image else rng.normal(size=space.shape)


def test_the_patches_of_an_image_are_alike_in_all_channels_wherever_those_are() -> None:
    last, first = players_of(IMAGE), players_of(Box((3, 10, 12), "uint8", 0, 255))
    assert last.names[:2] == ("rows 0-1, columns 0-1", "rows 0-1, columns 2-3")
    assert last.grid == first.grid == (5, 6)
    assert last.owner.shape == (3, 10, 12)
    assert (last.owner == first.owner).all()
    assert last.owner[:, 9, 11].tolist() == [29] * 3


def test_names_can_be_given_for_one_frame_or_for_all() -> None:
    stack = Box((4,), "float32", -1.0, 1.0, frames=2)
    assert players_of(stack).names == ("obs[0], 1 step ago", "obs[1], 1 step ago", "obs[0]", "obs[1]")
    assert players_of(stack, ["x", "v"]).names == ("x, 1 step ago", "v, 1 step ago", "x", "v")
    assert players_of(stack, ["a", "b", "c", "d"]).names == ("a", "b", "c", "d")
    with pytest.raises(UsageError, match=r"--features has 3 names; the observation has 2, or 4 for 2 frames: obs\[0\]"):
        players_of(stack, ["a", "b", "c"])


def test_the_axes_of_a_map_are_two_different_numbers() -> None:
    players = players_of(EVERYTHING)
    assert players.axes(()) == ()
    assert players.axes(("arm[1]", "arm[0]")) == (1, 0)
    with pytest.raises(UsageError, match="--axes takes two different features, not 1"):
        players.axes(("arm[0]", "arm[0]"))
    with pytest.raises(UsageError, match="the feature 'pair/0' is not a number: it cannot be an axis of a map"):
        players.axes(("arm[0]", "pair/0"))
    with pytest.raises(UsageError, match=r"unknown feature 'arm\[2\]'. Did you mean 'arm\["):
        players.axes(("arm[0]", "arm[2]"))


def test_neighbours_in_a_long_vector_are_one_player() -> None:
    found = players_of(Box((600,), "float32", -1.0, 1.0))
    assert found.names[:2] == ("obs[0-2]", "obs[3-5]")
    assert len(found.names) == 200
    assert (found.element == -1).all()
