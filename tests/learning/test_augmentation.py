"""Augmentation: what moves where, whose randomness it is, and what is left alone."""

import pytest
import torch

from rlab.errors import UsageError
from rlab.learning.augmentation import (
    AUGMENTATIONS,
    augmentation,
    gaussian_noise,
    random_crop,
    random_flip,
    random_shift,
)
from rlab.randomness import torch_stream


def generators(*seeds):
    return [torch_stream(seed, "augmentation") for seed in seeds]


def images(members=2, rows=300, height=3, width=4):
    """Each pixel says where it is: 10 * row + column + 11, which is never 0."""
    where = torch.arange(height).view(-1, 1) * 10.0 + torch.arange(width) + 11
    return where.expand(members, rows, 2, height, width).clone()


@pytest.mark.parametrize(("function", "mode"), [(random_shift, "replicate"), (random_crop, "constant")])
def test_each_image_is_its_padded_self_cropped_somewhere(function, mode):
    x = images()
    moved = function(x, generators(0, 1), 1)
    padded = torch.nn.functional.pad(x[0, :1], (1, 1, 1, 1), mode=mode)[0]  # [C, H + 2, W + 2]
    crops = {(i, j): padded[:, i : i + 3, j : j + 4] for i in range(3) for j in range(3)}
    for member in moved:
        found = [[where for where, crop in crops.items() if torch.equal(crop, image)] for image in member]
        assert all(len(where) == 1 for where in found)  # all channels of an image move together
        assert {where for (where,) in found} == set(crops)  # and every move occurs


@pytest.mark.parametrize("function", [random_shift, random_crop])
def test_moves_are_uniform(function):
    moved = function(images(1, 9000), generators(0), 1)[0, :, 0, 1, 1]  # the pixel in the middle was read from 9 places
    _, count = moved.unique(return_counts=True)
    assert len(count) == 9
    assert (count - 1000).abs().max() < 130  # four deviations of a binomial are 119


def test_a_flip_mirrors_about_half_of_the_images_left_to_right():
    x = images(1, 4000)
    flipped = random_flip(x, generators(0), 0.5)
    mirrored = (flipped == x.flip(-1)).flatten(2).all(dim=-1)
    same = (flipped == x).flatten(2).all(dim=-1)
    assert (mirrored ^ same).all()
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(random_flip(x, generators(0), 1.0), x.flip(-1))


def test_noise_has_the_deviation_that_was_asked_for():
    noisy = gaussian_noise(torch.full((2, 5000, 4), 3.0), generators(0, 1), 0.25)
    assert noisy.mean().item() == pytest.approx(3.0, abs=0.01)
    assert noisy.std().item() == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_a_member_s_draws_are_its_own(name):
    function = augmentation(name)
    x = images(3, 20)
    together, alone = function(x, generators(0, 1, 2)), function(x[:1], generators(1))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(x, images(3, 20))  # the inputs themselves stay as they are


def test_names_are_carried_out_in_their_order_with_their_numbers():
    x = images(1, 50)
    found = augmentation("shift:2, flip:1")(x, generators(0))
    assert torch.equal(found, random_shift(x, generators(0), 2).flip(-1))
    assert augmentation("none") is None


def test_images_without_channels_and_whole_numbers_move_too():
    x = images()[:, :, 0].to(torch.uint8)
    for name in ("shift:1", "crop:1", "flip"):
        moved = augmentation(name)(x, generators(0, 1))
        assert (moved.shape, moved.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("shfit:2", "unknown augmentation 'shfit'. Did you mean 'shift'?"),
        ("shift:0", "augmentation 'shift:0': shift takes a whole number of pixels from 1, such as shift:4."),
        ("crop:1.5", "crop takes a whole number of pixels from 1"),
        ("shift:inf", "shift takes a whole number"),
        ("flip:2", "flip takes a share in (0, 1], such as flip:0.5."),
        ("noise:-1", "noise takes a standard deviation above 0, such as noise:0.1."),
        ("noise:nan", "noise takes a standard deviation above 0"),
        ("noise:", "noise takes a standard deviation above 0"),
        ("shift:2,,flip", "unknown augmentation ''"),
    ],
)
def test_words_that_say_nothing_are_refused_in_one_line(words, message):
    with pytest.raises(UsageError) as caught:
        augmentation(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "x", "message"),
    [
        ("flip", torch.zeros(1, 2, 3), r"augmentation flip needs images \[..., H, W\], not inputs of shape \[3\]\."),
        ("noise", torch.zeros(1, 2, 3, dtype=torch.int64), "augmentation noise needs inputs that are real numbers"),
    ],
)
def test_inputs_that_cannot_be_augmented_are_refused(words, x, message):
    with pytest.raises(UsageError, match=message):
        augmentation(words)(x, generators(0))
