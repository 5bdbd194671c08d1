"""Metrics of classification: numbers worked by hand, and equal to scikit-learn's on anything."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlab.errors import UsageError
from rlab.evaluation.classification import (
    accuracy,
    averaged,
    confusion_matrix,
    f1,
    precision,
    recall,
    report,
    roc_auc,
)

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0])
MATRIX = np.array([[2, 1, 0], [1, 1, 0], [1, 0, 0]])


def test_the_numbers_of_six_rows_worked_by_hand():
    assert (confusion_matrix(LABELS, PREDICTED) == MATRIX).all()
    assert accuracy(LABELS, PREDICTED) == 3 / 6
    assert precision(MATRIX).tolist() == [2 / 4, 1 / 2, 0.0]  # nobody was taken for class 2
    assert recall(MATRIX).tolist() == [2 / 3, 1 / 2, 0.0]
    assert f1(MATRIX) == pytest.approx([4 / 7, 1 / 2, 0.0])  # 2 TP / (2 TP + FP + FN)
    assert averaged(MATRIX, "macro")["recall"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert averaged(MATRIX, "weighted")["precision"] == pytest.approx((3 * 0.5 + 2 * 0.5 + 0) / 6)
    assert averaged(MATRIX, "micro") == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_the_area_under_the_roc_curve_is_the_share_of_pairs_in_order():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    assert roc_auc(labels, scores) == 3.5 / 4  # one of the four pairs is a tie
    assert roc_auc(labels, -scores) == 0.5 / 4
    assert roc_auc(labels, np.stack([1 - scores, scores], axis=1)) == 3.5 / 4
    assert roc_auc(labels, np.zeros(4)) == 0.5


def test_the_area_is_not_defined_without_pairs():
    assert np.isnan(roc_auc(np.array([1, 1]), np.array([0.0, 1.0])))
    assert np.isnan(roc_auc(np.array([0, 1]), np.eye(3)[:2]))
    assert report(np.array([0, 1]), np.eye(3)[:2])["roc_auc"] is None


def test_a_report_is_strict_json_and_says_it_all():
    scores = np.eye(3)[PREDICTED]
    found = report(LABELS, scores)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["confusion"] == MATRIX.tolist()
    assert found["support"] == [3, 2, 1]
    assert (found["rows"], found["accuracy"]) == (6, 0.5)
    assert found["macro"] == averaged(MATRIX, "macro")
    assert found["per_class"]["recall"] == [2 / 3, 1 / 2, 0.0]


def test_two_logits_are_ranked_by_their_difference():
    labels = np.array([0, 1, 1])
    logits = np.array([[5.0, 3.0], [-9.0, -2.0], [0.0, 1.0]])  # differences -2, 7, 1: all pairs in order
    assert report(labels, logits)["roc_auc"] == 1.0
    assert roc_auc(labels, logits) == 0.0  # by the second column alone they are not


CASES = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=40),
    )
)


@given(CASES)
def test_counts_equal_scikit_learns_on_any_labels(case):
    metrics = pytest.importorskip("sklearn.metrics")
    classes, rows = case
    labels, predicted = np.array(rows).T
    names = list(range(classes))
    matrix = confusion_matrix(labels, predicted, classes)
    assert (matrix == metrics.confusion_matrix(labels, predicted, labels=names)).all()
    assert accuracy(labels, predicted) == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    for average in ("macro", "micro", "weighted", None):
        expected = metrics.precision_recall_fscore_support(
            labels, predicted, labels=names, average=average, zero_division=0
        )[:3]
        if average is None:
            found = [precision(matrix), recall(matrix), f1(matrix)]
        else:
            found = [averaged(matrix, average)[name] for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])), min_size=2, max_size=40).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_the_area_equals_scikit_learns_also_with_ties(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores = np.array([label for label, _ in rows]), np.array([score for _, score in rows])
    assert roc_auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)


@given(st.integers(3, 5), st.integers(0, 1000))
def test_one_against_the_rest_equals_scikit_learns(classes, seed):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(classes, size=20)])
    scores = generator.integers(1, 4, size=(len(labels), classes)).astype(float)  # many ties
    scores /= scores.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert roc_auc(labels, scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(np.array([0, 1]), np.array([0])), "labels [2] and predictions [1] must both be [R]"),
        (lambda: accuracy(np.array([], int), np.array([], int)), "R 1 or more"),
        (lambda: confusion_matrix(np.array([0, 3]), np.array([0, 1]), 2), "label 3 is outside 0 .. 1."),
        (lambda: confusion_matrix(np.array([0, 1]), np.array([0, -1]), 2), "prediction -1 is outside 0 .. 1."),
        (lambda: accuracy(np.array([0.0]), np.array([0.0])), "must be integers, not float64"),
        (lambda: averaged(MATRIX, "marco"), "unknown average 'marco'. Did you mean 'macro'?"),
        (lambda: roc_auc(np.array([0, 1]), np.array([0.5])), "scores [1] do not fit labels [2]"),
        (lambda: roc_auc(np.array([0, 1]), np.array([0.5, np.nan])), "scores hold NaN"),
        (lambda: report(np.array([0, 1]), np.array([0.5, 1.0])), "scores must be [R, C], not [2]."),
    ],
)
def test_what_cannot_be_counted_is_refused_in_one_line(call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
