"""Metrics of classification: accuracy, precision, recall, F1, ROC-AUC and the confusion matrix.

Labels and predictions are integers `0 .. C - 1`. A share with denominator 0, such as the precision of a class that
was never predicted, is 0, which scikit-learn calls `zero_division=0`; classes that do not occur count among the C too.
"""

from typing import Any

import numpy as np

from rlab.errors import UsageError, unknown

AVERAGES = ("macro", "micro", "weighted")


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The share of rows `[R]` whose prediction is the label."""
    _check(labels, predictions)
    return float(np.mean(labels == predictions))


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int | None = None) -> np.ndarray:
    """How many rows of class i were taken for class j, `[C, C]`.

    Args:
        classes: C; None takes the largest class that occurs.

    Raises:
        UsageError: the arrays differ in shape, are empty, or hold something that is not a class.
    """
    _check(labels, predictions)
    classes = int(max(labels.max(), predictions.max())) + 1 if classes is None else classes
    for name, values in (("label", labels), ("prediction", predictions)):
        if values.min() < 0 or values.max() >= classes:
            wrong = values.min() if values.min() < 0 else values.max()
            raise UsageError(f"{name} {wrong} is outside 0 .. {classes - 1}.")
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def precision(confusion: np.ndarray) -> np.ndarray:
    """Of the rows that were taken for each class, the share that belongs to it, `[C]`."""
    return _divided(np.diag(confusion), confusion.sum(axis=0))


def recall(confusion: np.ndarray) -> np.ndarray:
    """Of the rows of each class, the share that was taken for it, `[C]`."""
    return _divided(np.diag(confusion), confusion.sum(axis=1))


def f1(confusion: np.ndarray) -> np.ndarray:
    """The harmonic mean of precision and recall of each class, `[C]`: `2 TP / (2 TP + FP + FN)`."""
    return _divided(2 * np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1))


def averaged(confusion: np.ndarray, average: str) -> dict[str, float]:
    """Precision, recall and F1 of all classes in one number each.

    `macro`: the mean over classes; `weighted`: by their number of rows; `micro`: from the counts of all classes
    together, where with one label a row all three are the accuracy.

    Raises:
        UsageError: the average is unknown.
    """
    if average not in AVERAGES:
        raise unknown("average", average, AVERAGES)
    scores = {"precision": precision(confusion), "recall": recall(confusion), "f1": f1(confusion)}
    if average == "micro":
        return dict.fromkeys(scores, float(np.trace(confusion) / confusion.sum()))
    weight = confusion.sum(axis=1) if average == "weighted" else None
    return {name: float(np.average(values, weights=weight)) for name, values in scores.items()}


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The area under the ROC curve.

    Two classes: `scores [R]` of class 1, or `[R, 2]`. It is the share of pairs, one row of each class, in which the row
    of class 1 has the higher score, a tie counting half (Hanley and McNeil 1982: Mann and Whitney's U over the pairs).
    More: `scores [R, C]`, the mean over classes of each against the rest.

    Returns:
        NaN where a class has no rows or all rows, so that there are no pairs.

    Raises:
        UsageError: the shapes do not fit, or a score is NaN.
    """
    scores = np.asarray(scores)
    if scores.ndim not in (1, 2) or len(scores) != len(labels) or (scores.ndim == 2 and scores.shape[1] < 2):
        raise UsageError(f"scores {list(scores.shape)} do not fit labels {list(labels.shape)}; expected [R] or [R, C].")
    if np.isnan(scores).any():
        raise UsageError("scores hold NaN, which has no rank.")
    if scores.ndim == 1:
        return _auc(labels == 1, scores)
    if scores.shape[1] == 2:
        return _auc(labels == 1, scores[:, 1])
    return float(np.mean([_auc(labels == c, scores[:, c]) for c in range(scores.shape[1])]))


def report(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """All of it, as JSON takes it, for `scores [R, C]`, such as logits: the prediction is the largest.

    ROC-AUC goes by ranks within a column, so one-against-rest columns should be comparable between rows: with more than
    two classes probabilities rather than logits. None where it is not defined.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise UsageError(f"scores must be [R, C], not {list(scores.shape)}.")
    predictions = scores.argmax(axis=1)
    matrix = confusion_matrix(labels, predictions, scores.shape[1])
    area = roc_auc(labels, scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)
    per_class = {"precision": precision(matrix), "recall": recall(matrix), "f1": f1(matrix)}
    return {
        "rows": len(labels),
        "accuracy": accuracy(labels, predictions),
        **{average: averaged(matrix, average) for average in AVERAGES},
        "roc_auc": None if np.isnan(area) else area,
        "per_class": {name: values.tolist() for name, values in per_class.items()},
        "support": matrix.sum(axis=1).tolist(),
        "confusion": matrix.tolist(),
    }


def _auc(positive: np.ndarray, scores: np.ndarray) -> float:
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    rank = (last - (count - 1) / 2)[inverse]  # rows with equal scores share the middle of their ranks, from 1
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _divided(share: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(share, whole, out=np.zeros(len(share)), where=whole > 0)


def _check(labels: np.ndarray, predictions: np.ndarray) -> None:
    if labels.ndim != 1 or labels.shape != predictions.shape or not len(labels):
        raise UsageError(
            f"labels {list(labels.shape)} and predictions {list(predictions.shape)} must both be [R], R 1 or more."
        )
    if not (np.issubdtype(labels.dtype, np.integer) and np.issubdtype(predictions.dtype, np.integer)):
        raise UsageError(f"labels and predictions must be integers, not {labels.dtype} and {predictions.dtype}.")
