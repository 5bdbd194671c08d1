"""What the beginning of a run says of shapes; parameter numbers are weights plus biases, worked by hand."""

import pytest

from rlab.networks.bodies import BodySettings, q_network_spec
from rlab.networks.policy import PolicySpec, build_policy
from rlab.networks.spaces import Box, Discrete, Masked
from rlab.networks.summary import shapes

VECTOR = Box((4,), "float32", -1.0, 1.0)
IMAGE = Box((8, 8, 3), "uint8", 0.0, 255.0)


def lines(obs_space, scaling="none", scale=None, dueling=False):
    network = q_network_spec(obs_space, 2, BodySettings(hidden=(5,)), dueling)
    preprocess = {"scaling": scaling, "scale": scale}
    policy = build_policy(PolicySpec(obs_space, Discrete(2), preprocess, network, {"kind": "q"}), (0, 1, 2))
    return shapes(policy, {"q_network": policy.network})


def test_layers_are_shown_with_the_parameters_of_one_member():
    # 4 * 5 + 5 = 25; 5 * 2 + 2 = 12
    assert lines(VECTOR) == [
        "observation Box((4,), float32): the network sees 4 numbers, as they are",
        "action Discrete(n=2, start=0): head q",
        "network q_network: linear 4->5 (25), relu, linear 5->2 (12); 37 parameters per member",
    ]


def test_streams_are_shown_inside_their_layer():
    # each stream has a hidden layer of its own, 4 * 5 + 5 = 25; the value 5 * 1 + 1 = 6, the advantages 5 * 2 + 2 = 12
    streams = "linear 4->5 (25), relu, linear 5->1 (6) | linear 4->5 (25), relu, linear 5->2 (12)"
    assert lines(VECTOR, dueling=True)[2] == f"network q_network: dueling [{streams}] (68); 68 parameters per member"


@pytest.mark.parametrize(
    ("space", "scaling", "scale", "words"),
    [
        (VECTOR, "fixed", (2.0, 2.0, 2.0, 2.0), "the network sees 4 numbers, divided by fixed numbers"),
        (VECTOR, "running", None, "4 numbers, less their running mean, over their running deviation"),
        (Masked(VECTOR, 2), "none", None, "4 numbers, as they are, and a mask of 2 actions"),
        (Discrete(7), "none", None, "7 numbers, as they are"),
        (IMAGE, "none", None, "an image (3, 8, 8), pixels divided by their bound"),
    ],
)
def test_the_first_line_says_what_becomes_of_an_observation(space, scaling, scale, words):
    assert words in lines(space, scaling, scale)[0]


def test_convolutions_show_channels_size_and_stride():
    (line,) = lines(IMAGE)[2:]
    assert "conv2d 3->" in line
    assert "flatten" in line
