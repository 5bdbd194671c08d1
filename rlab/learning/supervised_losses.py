"""Losses of supervised learning: predictions and targets in, one value per row out, on trailing dimensions."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlab.errors import UsageError
from rlab.learning import returns


def cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Minus the log-likelihood of each label under softmax(logits): `[..., C]` and `[...]` to `[...]`.

    With smoothing e and class weights w it is `(1 - e) w_y (-log p_y) + e / C sum_c w_c (-log p_c)`, as in
    `torch.nn.functional.cross_entropy`. Smoothing: Szegedy et al. (2016), section 7; they have e = 0.1.

    Args:
        labels: integers `0 .. C - 1`.
        class_weights: of any shape that broadcasts to that of `logits`, such as `[C]` or `[S, 1, C]`.

    Raises:
        ValueError: the shapes differ; broadcast, they would be a matrix of losses and no error.
    """
    if labels.shape != logits.shape[:-1]:
        found = f"{tuple(labels.shape)} and {tuple(logits.shape)}"
        raise ValueError(f"labels and logits must have one shape but for the last axis of the logits, not {found}")
    surprise = -logits.log_softmax(dim=-1)  # [..., C]
    if class_weights is not None:
        surprise = surprise * class_weights
    taken = surprise.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if smoothing == 0.0:
        return taken
    return (1.0 - smoothing) * taken + smoothing * surprise.mean(dim=-1)


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, a mean over the outputs: `[..., D]` twice to `[...]`. Its gradient is the error itself.

    Raises:
        ValueError: the shapes differ.
    """
    return returns.squared(_error(prediction, target)).mean(dim=-1)


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Huber (1964) with threshold 1, a mean over the outputs: `[..., D]` twice to `[...]`.

    Raises:
        ValueError: the shapes differ.
    """
    return returns.huber(_error(prediction, target)).mean(dim=-1)


LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "squared": squared, "huber": huber}


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Class weights `[C]` under which every class that occurs has the same weight: `n / (C' n_c)`, 0 for one that does
    not.

    King and Zeng (2001), as scikit-learn's "balanced"; C' is the number of classes that occur. The mean over the rows
    of `labels` is 1.
    """
    count = np.bincount(labels.reshape(-1), minlength=classes)
    share = count * np.count_nonzero(count)
    return np.divide(labels.size, share, out=np.zeros(classes), where=count > 0)


def check_class_weights(weights: Sequence[float], classes: int) -> None:
    """Raise UsageError unless there is one weight of 0 or more for each class, and one above 0."""
    if len(weights) != classes:
        raise UsageError(f"{len(weights)} class weights do not fit {classes} classes; give one for each.")
    if not all(0.0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise UsageError(f"class weights {tuple(weights)} must be 0 or more, and one of them above 0.")


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raise UsageError where labels are not integers in `0 .. classes - 1`."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"class labels must be integers, not {labels.dtype}; the losses for numbers: squared, huber.")
    if labels.min() < 0 or labels.max() >= classes:
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise UsageError(
            f"label {worst} is outside 0 .. {classes - 1}: the network has {classes} outputs. Count classes from 0, or "
            "give it more outputs."
        )


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.shape != target.shape:
        raise ValueError(f"predictions {tuple(prediction.shape)} and targets {tuple(target.shape)} must have one shape")
    return target - prediction


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit is the label's, else 0: `[..., C]` and `[...]` to `[...]`."""
    return (logits.argmax(dim=-1) == labels).to(torch.float32)
