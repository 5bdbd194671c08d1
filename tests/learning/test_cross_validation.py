"""Cross-validation: every row is held out once, from a network that never saw it, and folds do not mix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlab.errors import UsageError
from rlab.experience.examples import Examples
from rlab.learning.cross_validation import cross_validate, fold_of_rows
from rlab.learning.supervised import SupervisedSettings
from rlab.learning.supervised_fit import fit_examples
from rlab.networks.spec import LayerSpec, NetworkSpec

SPEC = NetworkSpec(
    (
        LayerSpec("linear", {"in_features": 3, "out_features": 8}),
        LayerSpec("relu"),
        LayerSpec("dropout", {"p": 0.1}),
        LayerSpec("linear", {"in_features": 8, "out_features": 2}),
    )
)
SETTINGS = SupervisedSettings(epochs=6, batch_size=8, learning_rate=0.02, class_weights="balanced")


def data(rows=43):
    inputs = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    return inputs, (inputs[:, 0] > 0.3).astype(np.int64)


@given(st.lists(st.integers(0, 3), min_size=5, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_folds_hold_every_row_once_and_every_class_alike(labels, folds, seed):
    labels = np.array(labels)
    fold = fold_of_rows(labels, folds, seed)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.sum() == len(labels)
    assert sizes.max() - sizes.min() <= 1
    for c in set(labels.tolist()):
        per_fold = np.bincount(fold[labels == c], minlength=folds)
        assert per_fold.max() - per_fold.min() <= 1


def test_a_row_s_prediction_comes_from_the_network_that_did_not_learn_from_it():
    inputs, labels = data()
    found = cross_validate(SPEC, inputs, labels, SETTINGS, folds=4, seeds=(1, 2))
    assert found.outputs.shape == (2, 43, 2)
    assert len(found.fitted) == 1
    everything = found.fitted[0].outputs(inputs)  # [K * F, R, 2]
    assert len(everything) == 8
    for k in range(2):
        own = everything[k * 4 + found.fold[k], np.arange(43)]
        np.testing.assert_allclose(found.outputs[k], own, atol=1e-6)
        right = found.outputs[k].argmax(axis=-1) == labels
        accuracy = [right[found.fold[k] == f].mean() for f in range(4)]
        assert found.metrics["accuracy"][k] == pytest.approx(accuracy)
    assert found.metrics["loss"].shape == (2, 4)
    assert (found.fold[0] != found.fold[1]).any()


def test_a_label_that_is_turned_changes_every_network_but_the_one_it_is_held_out_from():
    inputs, labels = data()
    turned = labels.copy()
    before = cross_validate(SPEC, inputs, labels, SupervisedSettings(epochs=2, batch_size=8), folds=3)
    row = int(np.flatnonzero(labels == 0)[0])
    turned[row] = 1
    same_folds = Examples([0] * 3, inputs, turned, rows=[np.flatnonzero(before.fold[0] != fold) for fold in range(3)])
    after = fit_examples(SPEC, same_folds, SupervisedSettings(epochs=2, batch_size=8))
    differs = [
        not torch.allclose(a, b, atol=1e-6)
        for a, b in zip(before.fitted[0].network[0].weight, after.network[0].weight, strict=True)
    ]
    assert differs == [fold != before.fold[0, row] for fold in range(3)]


def test_a_fold_in_the_stack_learns_what_it_learns_alone():
    inputs, labels = data()
    found = cross_validate(SPEC, inputs, labels, SETTINGS, folds=3, seeds=(1, 2))
    # 43 rows in three folds: the first has 15, so its network learns from 28 while the others' have 29, 28
    kept = [np.flatnonzero(found.fold[1] != fold) for fold in range(3)]
    most = max(len(rows) for rows in kept)
    for fold, rows in enumerate(kept):
        if len(rows) < most:
            continue  # alone its budget would be one of fewer rows
        alone = fit_examples(SPEC, Examples([2], inputs, labels, rows=[rows]), SETTINGS)
        np.testing.assert_allclose(
            alone.outputs(inputs)[0], found.fitted[0].outputs(inputs)[3 + fold], atol=1e-4, rtol=1e-3
        )


def test_plain_modules_are_made_and_fitted_one_after_the_other():
    made = []

    def make(seed):
        torch.manual_seed(seed)
        made.append(seed)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    inputs, labels = data()
    settings = SupervisedSettings(epochs=15, batch_size=8, learning_rate=0.02, validation_fraction=0.2, patience=3)
    found = cross_validate(make, inputs, labels, settings, folds=3, seeds=(1, 2))
    assert made == [1, 1, 1, 2, 2, 2]
    assert len(found.fitted) == 6
    assert found.metrics["accuracy"].shape == (2, 3)
    assert found.metrics["accuracy"].mean() > 0.7
    for k in range(2):
        rows = found.fold[k] == 1
        expected = found.fitted[k * 3 + 1].outputs(inputs[rows])[0]
        np.testing.assert_allclose(found.outputs[k, rows], expected, atol=1e-6)


def test_numbers_can_be_cross_validated_too():
    inputs, _ = data()
    spec = NetworkSpec((LayerSpec("linear", {"in_features": 3, "out_features": 1}),))
    settings = SupervisedSettings(loss="squared", epochs=200, batch_size=16, learning_rate=0.05)
    found = cross_validate(spec, inputs, inputs @ np.array([1.0, -2.0, 0.5]), settings)
    assert found.metrics["absolute_error"].max() < 1e-3
    assert found.outputs.shape == (1, 43, 1)


@pytest.mark.parametrize("folds", [1, 44])
def test_folds_that_cannot_be_are_refused(folds):
    with pytest.raises(UsageError, match=f"^{folds} folds of 43 rows are impossible; use 2 folds or more"):
        cross_validate(SPEC, *data(), folds=folds)
