"""Does word order reach the answer? Sentiment of made sentences in which the order of words decides.

A sentence has two clauses, such as "although the plot is not dull the cast is very bad". "but" and "although" say which
of the two decides, and "not" turns its clause around: the same words in another order have another label. An embedding
with a GRU reads them in order; the control, a network of hidden layers on the counts of words, cannot. Both have the
same sentences, updates, batches and learning rate. No test sentence is a training sentence.

    python -m rlab.experiments.text_task
"""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlab import api, supervised
from rlab.evaluation.classification import report
from rlab.randomness import stream
from rlab.supervised import SupervisedSettings

SEEDS = (0, 1, 2, 3, 4)
SENTENCES, TEST = 4_000, 1_000  # different ones; of them held out for the test
NOUNS = ("film", "plot", "cast", "music", "ending", "script")
GOOD = ("good", "great", "moving", "clever", "funny")
BAD = ("bad", "dull", "weak", "silly", "slow")
DEGREES = ("", "very", "really", "rather")
GOAL = 0.99  # mean accuracy of the GRU; the control must stay below it
PADDING = ""  # the token in front of shorter sentences
SETTINGS = SupervisedSettings(epochs=15, learning_rate=3e-3, lr_schedule="cosine")  # Adam, batches of 64


def sentence(generator: np.random.Generator) -> tuple[tuple[str, ...], int]:
    """The words of a sentence, and whether it is kind (1) or not (0)."""
    clauses, kind = [], []
    for noun in generator.choice(NOUNS, size=2, replace=False):
        good, negated = generator.integers(2, size=2)
        words = ["the", noun, "is", *["not"] * negated, generator.choice(DEGREES), generator.choice((BAD, GOOD)[good])]
        clauses.append([str(word) for word in words if word])
        kind.append(int(good != negated))
    form = generator.integers(3)
    first, second = clauses
    if form == 0:
        return (*first, "but", *second), kind[1]
    if form == 1:
        return ("although", *first, *second), kind[1]
    return (*first, "although", *second), kind[0]


def sentences(count: int, generator: np.random.Generator) -> dict[tuple[str, ...], int]:
    """So many different sentences with their labels."""
    found: dict[tuple[str, ...], int] = {}
    while len(found) < count:
        words, label = sentence(generator)
        found[words] = label
    return found


def as_arrays(found: dict[tuple[str, ...], int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Tokens `[R, T]`, padded at the front with 0; labels `[R]`; and the word of every token."""
    vocabulary = [PADDING, *sorted(set(itertools.chain.from_iterable(found)))]
    token = {word: number for number, word in enumerate(vocabulary)}
    tokens = np.zeros((len(found), max(map(len, found))), np.int64)
    for row, words in zip(tokens, found, strict=True):
        row[-len(words) :] = [token[word] for word in words]
    return tokens, np.array(list(found.values())), vocabulary


def counts_of(tokens: np.ndarray, words: int) -> np.ndarray:
    """How often each word is in each sentence, `[R, V]`: all that is left of it where order is not seen."""
    return (tokens[:, :, None] == np.arange(1, words)).sum(axis=1).astype(np.float32)


def main() -> None:
    """Measure, print, record."""
    tokens, labels, vocabulary = as_arrays(sentences(SENTENCES, stream(0, "sentences")))
    counts = counts_of(tokens, len(vocabulary))
    readers = {
        "embedding_gru": (supervised.text_network(len(vocabulary), 2, embedding=16, hidden=32), tokens),
        "bag_of_words": (supervised.vector_network(counts.shape[1], 2, hidden=(64, 64)), counts),
    }
    result: dict[str, dict[str, Any]] = {}
    for name, (spec, inputs) in readers.items():
        began = time.perf_counter()
        with supervised.torch_settings(threads=1):
            fitted = supervised.fit(spec, inputs[TEST:], labels[TEST:], SETTINGS, SEEDS)
            outputs = torch.from_numpy(fitted.outputs(inputs[:TEST])).softmax(dim=-1).numpy()  # [S, R, 2]
        reports = [report(labels[:TEST], scores) for scores in outputs]
        accuracy = [found["accuracy"] for found in reports]
        result[name] = {
            "network": spec.to_json(),
            "parameters": sum(parameter[0].numel() for parameter in fitted.network.parameters()),
            "updates": fitted.updates,
            "accuracy_per_seed": accuracy,
            "accuracy": float(np.mean(accuracy)),
            "macro_f1_per_seed": [found["macro"]["f1"] for found in reports],
            "roc_auc_per_seed": [found["roc_auc"] for found in reports],
            "train_accuracy_per_seed": fitted.history[-1]["train/accuracy"].tolist(),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(f"{name}: test accuracy {np.mean(accuracy):.4f}, seeds {', '.join(f'{a:.3f}' for a in accuracy)}")
    facts = {
        "sentences": SENTENCES,
        "test_sentences": TEST,
        "words": len(vocabulary) - 1,
        "longest": tokens.shape[1],
        "share_of_label_1_in_test": float(labels[:TEST].mean()),
        "settings": {name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__},
        "seeds": SEEDS,
    }
    holds = result["embedding_gru"]["accuracy"] >= GOAL > result["bag_of_words"]["accuracy"]
    verdict = {"goal": GOAL, "holds": holds, "hardware": api.hardware(), "versions": api.versions()}
    written = json.dumps({"format": 1, **facts, **result, **verdict}, indent=2)
    Path(__file__).with_suffix(".result.json").write_text(written + "\n")


if __name__ == "__main__":
    main()
