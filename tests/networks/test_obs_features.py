"""What of an observation is watched for drift."""

import numpy as np
import pytest

from rlab.networks.obs_features import MOST_FEATURES, ObsFeatures, can_be_watched
from rlab.networks.spaces import Box, Dict, Discrete, Masked, MultiBinary, MultiDiscrete, Space, Tuple, pack

VECTOR = Box((3,), "float32", -1.0, 1.0)


def test_numbers_stay_as_they_are_and_are_named_by_their_place() -> None:
    features = ObsFeatures(Box((2, 2), "float64", -1.0, 1.0))
    assert features.names == ("obs[0,0]", "obs[0,1]", "obs[1,0]", "obs[1,1]")
    found = features(np.array([[[1.7e9, 2.0], [3.0, 4.0]]]))
    assert (found.dtype, found.tolist()) == (np.float64, [[1.7e9, 2.0, 3.0, 4.0]])
    assert ObsFeatures(Box((), "float32", 0.0, 1.0)).names == ("obs",)


def test_an_integer_is_watched_by_the_frequency_of_each_value() -> None:
    features = ObsFeatures(Discrete(3, start=2))
    assert features.names == ("obs=2", "obs=3", "obs=4")
    assert features(np.array([4, 2])).tolist() == [[0, 0, 1], [1, 0, 0]]
    several = ObsFeatures(MultiDiscrete((2, 3), (0, 5), (2,)))
    assert several.names == ("obs[0]=0", "obs[0]=1", "obs[1]=5", "obs[1]=6", "obs[1]=7")
    assert several(np.array([[1, 5]])).tolist() == [[0, 1, 1, 0, 0]]


def test_a_dict_is_watched_part_by_part_and_its_mask_is_left_out() -> None:
    inner = Dict(
        (("speed", VECTOR), ("gear", Discrete(2)), ("pair", Tuple((Box((), "float32", 0, 9), MultiBinary((2,))))))
    )
    space = Masked(inner, 2)
    obs = {"speed": np.array([1.0, 2.0, 3.0]), "gear": 1, "pair": (np.float32(7.0), np.array([1, 0]))}
    features = ObsFeatures(space)
    assert features.names == (
        *("obs.speed[0]", "obs.speed[1]", "obs.speed[2]", "obs.gear=0", "obs.gear=1"),
        *("obs.pair.0", "obs.pair.1[0]", "obs.pair.1[1]"),
    )
    assert features(pack(space, obs, np.array([1, 0]))[None]).tolist() == [[1, 2, 3, 0, 1, 7, 1, 0]]


@pytest.mark.parametrize("first", [False, True])
def test_an_image_is_watched_by_mean_and_spread_of_each_channel(first: bool) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 1], image[::2, :, 2] = 5, 200  # every second row: mean 100, standard deviation 100
    space = Box((3, 4, 4) if first else (4, 4, 3), "uint8", 0, 255)
    features = ObsFeatures(space)
    assert features.names == tuple(f"obs channel {c} {what}" for what in ("mean", "std") for c in range(3))
    rows = np.moveaxis(image, -1, 0)[None] if first else image[None]
    assert features(rows).tolist() == [[0, 5, 100, 0, 0, 100]]


@pytest.mark.parametrize(
    ("space", "watched"),
    [
        (Box((MOST_FEATURES,), "float32", 0.0, 1.0), True),
        (Box((MOST_FEATURES + 1,), "float32", 0.0, 1.0), False),
        (Discrete(10**9), False),
        (Box((210, 160, 3), "uint8", 0, 255), True),
        (Masked(VECTOR, 10_000), True),
    ],
    ids=str,
)
def test_what_has_too_many_features_is_not_watched(space: Space, watched: bool) -> None:
    assert can_be_watched(space) is watched
    if watched:
        assert ObsFeatures(space)(np.zeros((0, *space.shape))).shape == (0, len(ObsFeatures(space).names))
