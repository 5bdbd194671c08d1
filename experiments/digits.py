"""Handwritten digits, 8 x 8 pixels: how many does a small convolutional network read that it has not learned from?

scikit-learn's copy of the UCI test set (1797 images, 10 classes), 5-fold cross-validation for every seed, all folds of
a seed as one stack. Then one network learns from everything, is saved and loaded again, and must answer the same.

The images fill their frame, so that moving them by a pixel cuts strokes off: augmentation lowered the accuracy.

    python -m rlab.experiments.digits
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from rlab import api, supervised
from rlab.evaluation.classification import report
from rlab.supervised import SupervisedSettings

SEEDS = (1, 2, 3, 4, 5)  # the settings were chosen on the folds of seed 0
FOLDS = 5
GOAL = 0.99  # mean accuracy over folds
NETWORK: dict[str, Any] = {"convolutions": ((32, 3, 1), (64, 3, 1)), "hidden": (128,), "dropout": 0.3}
# Adam, batches of 64
SETTINGS = SupervisedSettings(epochs=40, learning_rate=2e-3, lr_schedule="cosine", label_smoothing=0.1)
# Mean accuracy over the folds of seed 0, on which the settings were chosen; what is not named is as above. They are
# other folds of the same images, so what the five seeds find is not wholly independent of the choice.
TRIED = {
    "20 epochs, smoothing 0.05": 0.9855,
    "20 epochs, smoothing 0.05, augmentation shift:1": 0.9755,
    "20 epochs, smoothing 0.05, augmentation crop:1": 0.9733,
    "20 epochs, smoothing 0.05, dropout 0.5": 0.9827,
    "20 epochs, smoothing 0": 0.9789,
    "40 epochs, smoothing 0.05": 0.9900,
    "as above": 0.9911,
    "augmentation shift:1": 0.9833,
    "dropout 0.5": 0.9894,
    "60 epochs, dropout 0.5": 0.9917,
    "a third convolution of 64 channels": 0.9894,
}


def images() -> tuple[np.ndarray, np.ndarray]:
    """Images `[R, 1, 8, 8]` in [0, 1] and their labels `[R]`."""
    found = load_digits()
    return (found.images[:, None] / 16.0).astype(np.float32), found.target


def survives_the_disk(inputs: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a network that was saved and loaded again gives the same outputs to the bit."""
    spec = supervised.image_network((1, 8, 8), 10, **NETWORK)
    fitted = supervised.fit(spec, inputs, labels, SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        supervised.save_network(Path(folder) / "digits", fitted.network, spec, fitted.seeds, {"rows": len(labels)})
        again = supervised.load_network(Path(folder) / "digits")
    with torch.no_grad():
        outputs = again.network(torch.from_numpy(inputs).unsqueeze(0)).numpy()
    return bool((outputs == fitted.outputs(inputs)).all())


def main() -> None:
    """Measure, print, record."""
    inputs, labels = images()
    began = time.perf_counter()
    with supervised.torch_settings(threads=1):
        spec = supervised.image_network((1, 8, 8), 10, **NETWORK)
        runs = [supervised.cross_validate(spec, inputs, labels, SETTINGS, FOLDS, (seed,)) for seed in SEEDS]
        seconds = time.perf_counter() - began
        same = survives_the_disk(inputs, labels)
    per_fold = np.concatenate([run.metrics["accuracy"] for run in runs])  # [K, F]
    reports = [report(labels, torch.from_numpy(run.outputs[0]).softmax(dim=-1).numpy()) for run in runs]
    result = {
        "format": 1,
        "data": "sklearn.datasets.load_digits",
        "network": spec.to_json(),
        "settings": {name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__},
        "seeds": SEEDS,
        "accuracy_per_fold": {seed: folds.tolist() for seed, folds in zip(SEEDS, per_fold, strict=True)},
        "accuracy": {"mean": per_fold.mean(), "per_seed": per_fold.mean(axis=1).tolist(), "worst_fold": per_fold.min()},
        "macro_f1_per_seed": [found["macro"]["f1"] for found in reports],
        "roc_auc_per_seed": [found["roc_auc"] for found in reports],
        "confusion_of_first_seed": reports[0]["confusion"],
        "same_outputs_after_saving_and_loading": same,
        "goal": GOAL,
        "holds": bool(per_fold.mean() >= GOAL and same),
        "tried": TRIED,
        "seconds_of_all_seeds": round(seconds, 1),
        "hardware": api.hardware(),
        "versions": api.versions(),
    }
    Path(__file__).with_suffix(".result.json").write_text(json.dumps(result, indent=2) + "\n")
    for seed, folds in zip(SEEDS, per_fold, strict=True):
        print(f"seed {seed}: accuracy {folds.mean():.4f}, folds {', '.join(f'{a:.4f}' for a in folds)}")
    print(f"mean over {per_fold.size} folds {per_fold.mean():.4f} in {seconds:.0f} s; same after saving: {same}")


if __name__ == "__main__":
    main()
