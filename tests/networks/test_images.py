"""Images: which Boxes are some, where their channels are, what their pixels are divided by, and one branch for each of
them among other parts."""

import json

import numpy as np
import pytest
import torch

from rlab.errors import UsageError
from rlab.learning.adapters import with_lora
from rlab.networks.bodies import BodySettings, actor_network_spec, critic_like, q_network_spec
from rlab.networks.describe import spec_of
from rlab.networks.images import image_notes, image_parts
from rlab.networks.merging import merged
from rlab.networks.preprocess import Preprocess
from rlab.networks.spaces import Box, Dict, Discrete, Masked, Tuple, feature_shape, pack, space_from_json
from rlab.networks.spec import NetworkSpec, build
from rlab.networks.stacking import stack, unstack

INF = float("inf")


def pixels(*shape, dtype="uint8", low=0.0, high=255.0):
    return Box(shape, dtype, low, high)


def features(space, obs, scaling="none"):
    """What the network sees of one observation."""
    return Preprocess(space, scaling, None, None)(torch.from_numpy(pack(space, obs)))


# ---- where the channels are ----


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((4, 36, 36), (4, 36, 36)),  # two sides alike, few channels before them
        ((1, 84, 84), (1, 84, 84)),
        ((3, 210, 160), (3, 210, 160)),
        ((12, 36, 36), (12, 36, 36)),
        ((2, 7, 6), (2, 7, 6)),
        ((36, 36, 4), (4, 36, 36)),
        ((210, 160, 3), (3, 210, 160)),
        ((10, 10, 4), (4, 10, 10)),  # MinAtar's
        ((10, 10, 10), (10, 10, 10)),  # a cube is taken as Gymnasium has images: channels last
        ((8, 8, 111), (111, 8, 8)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_the_shape_tells_where_the_channels_are(shape, seen, dtype):
    space = pixels(*shape, dtype=dtype, high=1.0)
    assert feature_shape(space) == seen
    obs = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    first = obs if space.channels == "first" else np.moveaxis(obs, -1, 0)
    assert np.array_equal(features(space, obs).numpy(), first.astype(np.float32))


@pytest.mark.parametrize("shape", [(12, 36, 12), (36, 12, 12), (10, 5, 20), (60, 80, 90)])
def test_a_shape_that_leaves_it_open_is_refused_and_the_line_says_what_to_do(shape):
    with pytest.raises(UsageError) as caught:
        q_network_spec(pixels(*shape), 2, BodySettings())
    assert str(caught.value) == (
        f"an image of shape {shape} may have its channels first or last. --wrapper ChannelsLast moves them from the "
        "first axis to the last one; --wrapper ChannelsLast:axis=2 says that they are last."
    )


def test_channels_that_are_stated_are_not_guessed():
    a, b, c = 12, 36, 12
    assert feature_shape(Box((a, b, c), "uint8", 0.0, 255.0, "last")) == (c, a, b)
    assert feature_shape(Box((a, b, c), "uint8", 0.0, 255.0, "first")) == (a, b, c)


def test_what_is_not_as_usual_is_said():
    assert image_notes(pixels(84, 84, 4)) == ()
    assert image_notes(Dict((("eye", pixels(4, 36, 36)),))) == (
        "an image (4, 36, 36) (part 'eye') is taken with its channels first: 4 channels of 36x36; --wrapper "
        "ChannelsLast:axis=2,key=eye if not so",
    )
    (cube,) = image_notes(Masked(pixels(4, 4, 4), 2))
    assert "last: 4 channels of 4x4; --wrapper ChannelsLast if not so" in cube


@pytest.mark.parametrize(
    ("space", "note"),
    [
        (
            pixels(84, 84),
            "an array (84, 84) of uint8 is taken as 7056 plain numbers, not as an image; --wrapper "
            "FrameStack:frames=4 makes an image of 4 frames",
        ),
        (
            pixels(4, 32, 32, 3),
            "an array (4, 32, 32, 3) of uint8 is taken as 12288 plain numbers, not as an image; --wrapper ChannelsLast "
            "makes one image of 4 frames",
        ),
        (
            pixels(18, 10, 10, dtype="float32", high=1.0),
            "an array (18, 10, 10) of float32 is taken as 1800 plain numbers, not as an image; --wrapper ChannelsLast "
            "if its first axis holds the channels, ChannelsLast:axis=2 if its last one does",
        ),
        (
            Tuple((Discrete(2), Dict((("view", pixels(84, 84)),)))),
            "an array (84, 84) of uint8 (part '1/view') is taken as 7056 plain numbers, not as an image; an axis for "
            "the channels, (84, 84, 1), makes it one",
        ),
    ],
)
def test_what_looks_like_an_image_and_is_taken_as_numbers_is_said_with_the_way_to_make_it_one(space, note):
    assert image_notes(space) == (note,)


def test_tables_that_are_hardly_images_are_not_spoken_of():
    for space in (pixels(6, 7), pixels(12), pixels(84, 84, dtype="float32"), pixels(1, 2, 9, dtype="float32")):
        assert image_notes(space) == ()


def test_the_place_of_the_channels_travels_with_a_policy_and_older_files_have_them_last():
    space = pixels(4, 36, 36)
    written = json.loads(json.dumps(space.to_json()))
    assert space_from_json(written).channels == "first"
    assert "channels" not in Box((4,), "float32", 0.0, 1.0).to_json()
    del written["channels"]
    assert (space_from_json(written).channels, space_from_json(written) == space) == ("last", True)
    floats = pixels(9, 9, 2, dtype="float32", high=1.0).to_json()
    del floats["channels"]
    assert not space_from_json(floats).is_image


# ---- what pixels are divided by ----


@pytest.mark.parametrize(
    ("dtype", "low", "high", "value", "seen"),
    [
        ("uint8", 0, 255, 255, 1.0),
        ("uint8", 0, 1, 1, 1.0),
        ("uint8", 0, 4, 3, 0.75),
        ("uint8", 100, 200, 150, 0.75),
        ("int8", -8, 4, -4, -0.5),
        ("int64", 0, 10, 5, 0.5),
        ("float32", 0.0, 1.0, 0.25, 0.25),
        ("float64", 0.0, 255.0, 51.0, 0.2),
        ("float32", -1.0, 1.0, -0.5, -0.5),
        ("bool", 0, 1, True, 1.0),
    ],
)
def test_pixels_are_divided_by_the_larger_bound(dtype, low, high, value, seen):
    space = pixels(5, 6, 1, dtype=dtype, low=float(low), high=float(high))
    x = features(space, np.full((5, 6, 1), value, dtype))
    assert (x.shape, x.dtype) == ((1, 5, 6), torch.float32)
    assert x.unique().tolist() == pytest.approx([seen])
    inside = Dict((("view", space), ("x", Box((1,), "float32", -INF, INF))))
    assert features(inside, {"view": np.full((5, 6, 1), value, dtype), "x": [9.0]})[:30].unique().tolist() == (
        pytest.approx([seen])
    )


def test_bounds_of_their_own_divide_each_pixel_by_its_own():
    high = tuple(float(1 + i) for i in range(4 * 3 * 2))
    obs = np.arange(1, 25, dtype=np.uint8).reshape(4, 3, 2)
    for space in (pixels(4, 3, 2, high=high), Masked(pixels(4, 3, 2, high=high), 2)):
        assert torch.equal(features(space, obs).flatten(-3), torch.ones(24).expand_as(features(space, obs).flatten(-3)))
    stacked = Preprocess(pixels(4, 3, 2, high=high), "none", None, 2)
    assert not stacked.state_dict()  # it follows from the space
    batch = torch.from_numpy(np.stack([obs, 2 * obs]))
    assert torch.equal(stacked.unstack(1)(batch), stacked(batch.expand(2, 2, 4, 3, 2))[1])


# ---- images among other parts ----

SCENE = Dict(
    (
        ("speed", Box((2,), "float32", -INF, INF)),
        ("front", pixels(40, 40, 3)),
        ("gear", Discrete(3)),
        ("back", pixels(1, 5, 6, dtype="float32", high=1.0)),
        ("dot", pixels(2, 2, 1)),  # too small for a convolution: its pixels are numbers like others
        ("load", Box((), "float32", 0.0, 9.0)),
    )
)


def kinds(layers):
    return [layer.kind for layer in layers]


def test_each_image_gets_convolutions_and_the_rest_goes_beside_them():
    spec = q_network_spec(SCENE, 5, BodySettings())
    assert kinds(spec.layers) == ["branches", "linear", "relu", "linear", "relu", "linear"]
    front, back, rest = spec.layers[0].args["branches"]
    assert kinds(front) == ["pick_image", *["conv2d", "relu"] * 3, "flatten", "linear", "relu"]
    assert kinds(back) == ["pick_image", "conv2d", "relu", "flatten", "linear", "relu"]
    assert front[0].args == {"first": 2, "shape": (40, 40, 3), "channels": "last"}
    assert back[0].args == {"first": 4805, "shape": (1, 5, 6), "channels": "first"}
    assert rest[0].args == {"ranges": ((0, 2), (4802, 4805), (4835, 4840))}
    assert spec.layers[1].args["in_features"] == 256 + 128 + 10
    assert [layer.args["out_features"] for layer in (front[-2], back[-2])] == [256, 128]
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_branches_see_the_pixels_and_numbers_that_are_theirs():
    """Convolutions that sum: with weights of 1 and biases of 0, a branch says what is in its image and nothing else."""
    space = Tuple((Box((2,), "float32", -INF, INF), pixels(3, 3, 2), Discrete(2)))
    network = build(q_network_spec(space, 1, BodySettings(hidden=())), [0])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.0 if "bias" in name else 1.0)
    image = np.zeros((3, 3, 2), np.uint8)
    image[1, 2, 1] = 51  # 0.2 after the division
    x = Preprocess(space, "none", None, 1)(torch.from_numpy(pack(space, ((2.0, 3.0), image, 1)))[None, None])
    # 16 channels of one pixel, each 0.2; 128 units, each 3.2; then 2 + 3 + one-hot 1
    assert network(x).item() == pytest.approx(128 * 16 * 0.2 + 6.0, rel=1e-5)


def test_only_images_are_branches_and_images_alone_too():
    assert image_parts(Dict((("a", Box((9, 9, 1), "float32", -INF, INF)), ("b", Discrete(2))))) == ()
    assert kinds(q_network_spec(Dict((("a", pixels(3, 3, 1)),)), 2, BodySettings()).layers)[0] == "branches"
    assert image_parts(Masked(pixels(9, 9, 1), 3)) == ()  # one image alone stays an image
    with pytest.raises(UsageError) as caught:
        q_network_spec(Dict((("a", pixels(12, 36, 12)),)), 2, BodySettings())
    assert str(caught.value) == (
        "an image of shape (12, 36, 12) may have its channels first or last. --wrapper ChannelsLast:key=a moves them "
        "from the first axis to the last one; --wrapper ChannelsLast:axis=2,key=a says that they are last."
    )


def test_a_branched_network_leaves_the_stack_comes_back_and_tells_its_spec():
    spec = actor_network_spec(Masked(SCENE, 5), 5, BodySettings(hidden=(8,), init="orthogonal"))
    network = build(spec, [3, 4]).eval()
    assert spec_of(network) == spec
    x = torch.rand(2, 6, 4840)
    plain = [unstack(network, member) for member in range(2)]
    torch.testing.assert_close(torch.stack([p(x[i]) for i, p in enumerate(plain)]), network(x), rtol=1e-5, atol=1e-6)
    again = stack(plain)
    assert torch.equal(again(x), network(x))
    assert again.state_dict().keys() == network.state_dict().keys()
    critic = critic_like(spec)
    assert kinds(critic.layers)[0] == "branches"
    assert build(critic, [0])(x[:1]).shape == (1, 6, 1)
    adapted = build(with_lora(spec, 2, 4.0), [3, 4]).eval()
    assert {"0.branches.0.1.weight", "0.branches.0.8.down"} & set(adapted.state_dict())
    torch.testing.assert_close(merged(adapted)(x), adapted(x), rtol=1e-5, atol=1e-6)
