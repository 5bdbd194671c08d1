"""What cannot be fitted is said in one line, before anything is learned; and the losses on numbers worked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from rlab.errors import UsageError
from rlab.learning.supervised import SupervisedSettings
from rlab.learning.supervised_fit import fit
from rlab.learning.supervised_losses import (
    LOSSES,
    balanced_weights,
    check_class_weights,
    correct,
    cross_entropy,
    huber,
    squared,
)
from rlab.networks.spec import LayerSpec, NetworkSpec, build

LINE = NetworkSpec((LayerSpec("linear", {"in_features": 2, "out_features": 2}),))
X, Y = np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])


def test_cross_entropy_on_numbers_worked_by_hand():
    logits = torch.tensor([[1.0, 1.0], [1.0, 3.0]]).log()  # probabilities 1/2 1/2 and 1/4 3/4
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(cross_entropy(logits, labels), -torch.log(torch.tensor([0.5, 0.75])))
    # smoothing 0.2: 0.8 of the label's surprise and 0.1 of each class's
    expected = -0.9 * np.log(0.75) - 0.1 * np.log(0.25)
    assert cross_entropy(logits, labels, 0.2)[1].item() == pytest.approx(expected)
    weights = torch.tensor([2.0, 0.5])
    assert cross_entropy(logits, labels, class_weights=weights).tolist() == pytest.approx(
        [2.0 * np.log(2), -0.5 * np.log(0.75)]
    )
    assert correct(logits, torch.tensor([1, 1])).tolist() == [0.0, 1.0]  # a tie is the first class's


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torch_s_with_any_leading_axes(smoothing, weighted):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(5, (2, 3, 4), generator=generator)
    weights = torch.rand(5, generator=generator) if weighted else None
    expected = nn.functional.cross_entropy(
        logits.flatten(0, 2), labels.flatten(), weights, reduction="none", label_smoothing=smoothing
    )
    torch.testing.assert_close(cross_entropy(logits, labels, smoothing, weights).flatten(), expected)


def test_errors_of_numbers_on_numbers_worked_by_hand():
    prediction, target = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.5, 3.0], [1.0, 1.0]])
    assert squared(prediction, target).tolist() == [(0.125 + 4.5) / 2, 0.0]
    assert huber(prediction, target).tolist() == [(0.125 + 2.5) / 2, 0.0]  # 3 - 1/2 beyond the threshold


@pytest.mark.parametrize("name", ["squared", "huber"])
def test_shapes_that_would_broadcast_are_an_error(name):
    with pytest.raises(ValueError, match="must have one shape"):
        LOSSES[name](torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match="must have one shape but for the last axis"):
        cross_entropy(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64))


def test_balanced_weights_leave_the_mean_over_the_rows_at_one():
    labels = np.array([0, 0, 0, 2])
    weights = balanced_weights(labels, 4)
    assert weights.tolist() == [4 / (2 * 3), 0.0, 4 / (2 * 1), 0.0]
    assert weights[labels].mean() == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "crossentropy"}, "unknown loss 'crossentropy'. Did you mean 'cross_entropy'?"),
        ({"epochs": 0}, "epochs 0 must be 1 or more."),
        ({"batch_size": 0}, "batch_size 0 must be 1 or more."),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0 must be in [0, 1)."),
        ({"label_smoothing": float("nan")}, "label_smoothing nan must be in [0, 1)."),
        ({"validation_fraction": -0.1}, "validation_fraction -0.1 must be in [0, 1)."),
        ({"patience": 0}, "patience 0 must be 1 validation or more"),
        ({"class_weights": "balance"}, "unknown class_weights 'balance'. Did you mean 'balanced'?"),
        ({"class_weights": (1.0, -1.0)}, "class weights (1.0, -1.0) must be 0 or more."),
        ({"loss": "huber", "label_smoothing": 0.1}, "label_smoothing and class_weights are for loss cross_entropy"),
        ({"loss": "squared", "class_weights": "balanced"}, "are for loss cross_entropy, not squared."),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'. Did you mean 'adam'?"),
        ({"lr_schedule": "cosin"}, "Did you mean 'cosine'?"),
        ({"augmentation": "flop"}, "unknown augmentation 'flop'. Did you mean 'flip'?"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(UsageError) as caught:
        SupervisedSettings(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(LINE, X, np.array([0, 1, 2, 0])), "label 2 is outside 0 .. 1: the network has 2 outputs."),
        (lambda: fit(LINE, X, np.array([0, 1, -1, 0])), "label -1 is outside 0 .. 1"),
        (lambda: fit(LINE, X, Y, validation=(X, Y + 5)), "label 6 is outside 0 .. 1"),
        (lambda: fit(LINE, X, Y.astype(float)), "class labels must be integers, not float64; the losses for numbers"),
        (lambda: fit(LINE, X, Y[:3]), "inputs [4, 2] and targets [3] must have the same number of rows"),
        (lambda: fit(LINE, X[:, :1], Y), "the network cannot read inputs of shape [1]: "),
        (lambda: fit(LINE, X, np.zeros((4, 3), int)), "targets of shape [3] do not fit a network with outputs [2]"),
        (
            lambda: fit(LINE, X, np.zeros((4, 3)), SupervisedSettings(loss="squared")),
            "targets of shape [3] do not fit a network with outputs [2] under the loss squared.",
        ),
        (
            lambda: fit(LINE, X, np.zeros(4), SupervisedSettings(loss="huber")),
            "targets of shape [] do not fit a network with outputs [2] under the loss huber.",
        ),
        (lambda: fit(nn.Linear(2, 2), X, Y, seeds=(0, 1)), "a plain module is one member and there are 2 seeds."),
        (lambda: fit(build(LINE, (0, 1, 2)), X, Y, seeds=(0, 1)), "a stack of 3 networks does not fit 2 seeds."),
        (lambda: fit(nn.Flatten(), X, Y), "the network has no trainable parameter."),
        (lambda: fit(LINE, X, Y, SupervisedSettings(class_weights=(1.0, 1.0, 1.0))), "3 class weights do not fit 2"),
        (lambda: fit(LINE, X, Y, SupervisedSettings(patience=3)), "early stopping needs held-out rows"),
        (lambda: fit(LINE, X[:1], Y[:1], SupervisedSettings(validation_fraction=0.2)), "a single example cannot be"),
        (lambda: check_class_weights((0.0, 0.0), 2), "class weights (0.0, 0.0) must be 0 or more, and one of them"),
    ],
)
def test_what_does_not_fit_together_is_said_in_one_line(call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
