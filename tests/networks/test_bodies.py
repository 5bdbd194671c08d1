"""Bodies are chosen from the observation space, and what has none is refused in one clear line."""

import pytest
import torch

from rlab.errors import UsageError
from rlab.networks.bodies import (
    BodySettings,
    actor_network_spec,
    critic_head_spec,
    critic_like,
    q_network_spec,
)
from rlab.networks.spaces import Box, Discrete, Masked
from rlab.networks.spec import build

VECTOR = Box((4,), "float32", -1.0, 1.0)


def image(height, width, channels, dtype="uint8"):
    return Box((height, width, channels), dtype, 0.0, 255.0)


def kinds(spec):
    return [layer.kind for layer in spec.layers]


def linear_sizes(layers):
    return [(layer.args["in_features"], layer.args["out_features"]) for layer in layers if layer.kind == "linear"]


def convolutions(spec):
    names = ("in_channels", "out_channels", "kernel_size", "stride")
    return [tuple(layer.args[name] for name in names) for layer in spec.layers if layer.kind == "conv2d"]


def test_a_vector_gets_two_hidden_layers_of_64():
    spec = q_network_spec(VECTOR, 2, BodySettings())
    assert kinds(spec) == ["linear", "relu", "linear", "relu", "linear"]
    assert linear_sizes(spec.layers) == [(4, 64), (64, 64), (64, 2)]


def test_every_setting_has_its_place():
    body = BodySettings(hidden=(8, 6), activation="tanh", layer_norm=True, dropout=0.1, init="he")
    spec = q_network_spec(VECTOR, 2, body)
    hidden = ["linear", "layer_norm", "tanh", "dropout"]
    assert kinds(spec) == [*hidden, *hidden, "linear"]
    assert [layer.args.get("init") for layer in spec.layers if layer.kind == "linear"] == ["he"] * 3
    assert spec.layers[1].args == {"features": 8}
    assert spec.layers[3].args == {"p": 0.1}


def test_ten_by_ten_bits_get_the_small_cnn():
    spec = q_network_spec(image(10, 10, 4, "bool"), 6, BodySettings())
    assert kinds(spec) == ["conv2d", "relu", "flatten", "linear", "relu", "linear"]
    assert convolutions(spec) == [(4, 16, 3, 1)]
    assert linear_sizes(spec.layers) == [(16 * 8 * 8, 128), (128, 6)]


def test_atari_frames_get_the_cnn_of_the_nature_paper():
    spec = q_network_spec(image(84, 84, 4), 18, BodySettings())
    assert convolutions(spec) == [(4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
    assert linear_sizes(spec.layers) == [(64 * 7 * 7, 512), (512, 18)]
    # 8224 + 32832 + 36928 in the convolutions, 1606144 and 9234 behind them: the well-known 1.7 million
    assert sum(p[0].numel() for p in build(spec, [0]).parameters()) == 1_693_362


@pytest.mark.parametrize(
    ("height", "width", "layers", "features"),
    [(36, 36, 3, 64), (36, 90, 3, 64 * 1 * 7), (35, 84, 1, 16 * 33 * 82), (3, 3, 1, 16), (3, 40, 1, 16 * 38)],
)
def test_the_shorter_side_decides_and_the_smallest_images_still_fit(height, width, layers, features):
    spec = q_network_spec(image(height, width, 1), 2, BodySettings(hidden=(5,)))
    assert len(convolutions(spec)) == layers
    assert linear_sizes(spec.layers) == [(features, 5), (5, 2)]


def test_dueling_splits_the_last_hidden_layer():
    spec = q_network_spec(VECTOR, 3, BodySettings(hidden=(8, 6)), dueling=True)
    assert kinds(spec) == ["linear", "relu", "dueling"]
    assert linear_sizes(spec.layers) == [(4, 8)]
    assert linear_sizes(spec.layers[-1].args["value"]) == [(8, 6), (6, 1)]
    assert linear_sizes(spec.layers[-1].args["advantage"]) == [(8, 6), (6, 3)]


@pytest.mark.parametrize("dueling", [False, True])
def test_no_hidden_layer_is_a_linear_network(dueling):
    assert len(q_network_spec(VECTOR, 3, BodySettings(hidden=()), dueling).layers) == 1


@pytest.mark.parametrize(
    ("space", "features"),
    [
        (Box((10, 10, 1), "float32", 0.0, float("inf")), 100),  # numbers without bounds are not pixels
        (Box((2, 9, 1), "float32", 0.0, 1.0), 18),  # too small for a convolution
        (Box((5, 5), "uint8", 0.0, 255.0), 25),
        (Box((), "float32", 0.0, 1.0), 1),
        (Discrete(16), 16),
        (Masked(VECTOR, 3), 4),
    ],
    ids=str,
)
def test_what_is_no_image_is_a_vector(space, features):
    spec = q_network_spec(space, 2, BodySettings(hidden=(8,)))
    assert linear_sizes(spec.layers) == [(features, 8), (8, 2)]


def test_an_actor_ends_in_small_weights_and_a_critic_in_one_value():
    body = BodySettings(hidden=(8, 6), activation="tanh", init="orthogonal", gain=2**0.5)
    actor = actor_network_spec(VECTOR, 4, body)
    critic = critic_like(actor)
    assert kinds(actor) == kinds(critic) == ["linear", "tanh", "linear", "tanh", "linear"]
    assert linear_sizes(actor.layers) == [(4, 8), (8, 6), (6, 4)]
    assert linear_sizes(critic.layers) == [(4, 8), (8, 6), (6, 1)]
    assert [layer.args["init"] for layer in actor.layers if layer.kind == "linear"] == ["orthogonal"] * 3
    assert [layer.args.get("gain", 1.0) for layer in actor.layers if layer.kind == "linear"] == [2**0.5, 2**0.5, 0.01]
    assert [layer.args.get("gain", 1.0) for layer in critic.layers if layer.kind == "linear"] == [2**0.5, 2**0.5, 1.0]
    rows = build(actor, [0])[4].weight[0].T  # [4, 6]
    assert torch.linalg.norm(rows, dim=1).tolist() == pytest.approx([0.01] * 4)


@pytest.mark.parametrize("free", [False, True])
def test_a_free_deviation_takes_half_of_an_actors_outputs(free):
    spec = actor_network_spec(VECTOR, 6, BodySettings(hidden=(8,)), log_std=-0.7 if free else None)
    assert linear_sizes(spec.layers)[-1] == (8, 3 if free else 6)
    outputs = build(spec, [0, 1])(torch.randn(2, 5, 4))
    assert outputs.shape == (2, 5, 6)
    assert bool((outputs[..., 3:] == -0.7).all()) is free


@pytest.mark.parametrize("space", [VECTOR, image(10, 10, 4, "bool")])
@pytest.mark.parametrize("log_std", [None, 0.0])
def test_a_critics_head_fits_on_the_last_features_of_an_actor(space, log_std):
    actor = actor_network_spec(space, 4, BodySettings(hidden=(8, 6), init="he"), log_std=log_std)
    head = critic_head_spec(actor, 0.5)
    assert [(layer.kind, layer.args) for layer in head.layers] == [
        ("linear", {"in_features": 6, "out_features": 1, "init": "he", "gain": 0.5})
    ]


def test_a_q_network_keeps_its_last_layers_gain_at_one():
    for dueling in (False, True):
        spec = q_network_spec(VECTOR, 3, BodySettings(hidden=(8,), gain=2.0), dueling)
        streams = spec.layers[-1].args if dueling else {"": spec.layers}
        for layers in streams.values():
            assert [layer.args.get("gain", 1.0) for layer in layers if layer.kind == "linear"] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (image(2, 10, 1), "an image of 2x10 is too small for a 3x3 convolution. Flatten it with --wrapper Flatten"),
        (Discrete(10**9), "observations Discrete(n=1000000000, start=0) would be 1000000000 features; more than"),
    ],
    ids=str,
)
def test_what_has_no_body_is_refused_in_one_line(space, message):
    with pytest.raises(UsageError) as caught:
        q_network_spec(space, 2, BodySettings())
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BodySettings(activation="rely"), r"unknown activation 'rely'\. Did you mean 'relu'\?"),
        (BodySettings(dropout=1.0), r"dropout 1\.0 must be a share in \[0, 1\)"),
        (BodySettings(dropout=-0.1), r"dropout -0\.1 must be a share in \[0, 1\)"),
        (BodySettings(hidden=(64, 0)), r"hidden widths \(64, 0\) must all be 1 or more"),
        (BodySettings(gain=0.0), r"gain 0\.0 of the hidden layers must be above 0"),
        (BodySettings(gain=float("nan")), r"gain nan of the hidden layers must be above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(body, message):
    with pytest.raises(UsageError, match=message):
        q_network_spec(VECTOR, 2, body)
