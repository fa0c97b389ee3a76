"""Accuracy and calibration of a classifier, and the temperature that calibrates it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from training.reports.intervals import wilson

BINS = 15
RESAMPLES = 1000
TEMPERATURES = (0.01, 100.0)

Classes = npt.NDArray[np.int64]


def fit_temperature(logits: torch.Tensor, classes: torch.Tensor) -> float:
    """The temperature with the least cross entropy (Guo et al., 2017), for ``logits`` [rows, labels].

    Targets are smoothed, after Platt (1999), by one row more that may have any label, so that rows without a
    single error do not ask for certainty. The cross entropy is convex in 1 / temperature; bisection finds its
    derivative's zero.
    """
    scores = logits.double()
    rows, labels = scores.shape
    targets = (rows * F.one_hot(classes, labels) + 1 / labels) / (rows + 1)
    wanted = (targets * scores).sum(1).mean()
    low, high = (1 / bound for bound in reversed(TEMPERATURES))
    for _ in range(60):
        middle = (low * high) ** 0.5
        given = (torch.softmax(middle * scores, 1) * scores).sum(1).mean()
        low, high = (low, middle) if given > wanted else (middle, high)
    return 1 / high


def calibration_error(probabilities: torch.Tensor, classes: torch.Tensor) -> float:
    """Expected calibration error: |accuracy - confidence| over equal bins of confidence, weighted by their rows."""
    confidence, said = probabilities.max(dim=1)
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    excess = torch.zeros(BINS).index_add_(0, bins, (said == classes).float() - confidence)
    return float(excess.abs().sum() / len(classes))


def figures(
    logits: torch.Tensor, classes: torch.Tensor, commonest: int, labels: Sequence[str], temperature: float, seed: int
) -> dict[str, Any]:
    """Figures of a head on rows it has not seen, against always saying the ``commonest`` class of the training rows.

    Ranges are 95 % of the bootstrap's, and Wilson's where that has no width. The macro F1 is over labels that occur,
    as scikit-learn's.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    right, said = classes.numpy(), logits.argmax(1).numpy()
    baseline = np.full_like(right, commonest)
    probabilities = torch.softmax(logits, 1), torch.softmax(logits / temperature, 1)
    before, after = (calibration_error(each, classes) for each in probabilities)
    accuracies, f1s = _bootstrap(right, said, len(labels), seed)
    return {
        "rows": len(right),
        "before": {
            "accuracy": _short(accuracy_score(right, baseline)),
            "macro_f1": _short(f1_score(right, baseline, average="macro", zero_division=0)),
        },
        "after": {
            "accuracy": _short(accuracy_score(right, said)),
            "accuracy_range": accuracies,
            "macro_f1": _short(f1_score(right, said, average="macro", zero_division=0)),
            "macro_f1_range": f1s,
        },
        "calibration": {"temperature": temperature, "error_before": _short(before), "error_after": _short(after)},
        "confusion": {
            "labels": list(labels),
            "rows_are_true": confusion_matrix(right, said, labels=range(len(labels))).tolist(),
        },
    }


def macro_f1(confusion: npt.NDArray[np.int64]) -> float:
    """Mean F1 of the labels that were true or said at least once."""
    twice = confusion.sum(0) + confusion.sum(1)
    seen = twice > 0
    return float((2 * confusion.diagonal()[seen] / twice[seen]).mean())


def _bootstrap(right: Classes, said: Classes, labels: int, seed: int) -> tuple[list[float], list[float]]:
    """95 % ranges of accuracy and macro F1 over rows drawn anew."""
    drawn = np.random.default_rng(seed)
    pairs = right * labels + said
    accuracies, f1s = [], []
    for _ in range(RESAMPLES):
        sample = pairs[drawn.integers(len(pairs), size=len(pairs))]
        confusion = np.bincount(sample, minlength=labels**2).reshape(labels, labels)
        accuracies.append(confusion.trace() / len(sample))
        f1s.append(macro_f1(confusion))
    return _range(accuracies, len(pairs)), _range(f1s, len(pairs))


def _range(values: Sequence[float], rows: int) -> list[float]:
    """Of ``values``, one for each sample of the rows; Wilson's where they are all the same."""
    low, high = np.percentile(values, [2.5, 97.5])
    return [_short(value) for value in (wilson(min(1.0, values[0]), rows) if high - low < 1e-9 else (low, high))]


def _short(value: float) -> float:
    return round(float(value), 4)
