"""Scores of logits against targets, by scikit-learn, and the thresholds that go with them.

Every score and every count of changed labels is of the same decisions: a label is predicted when its probability, in
float64, is over (not at) its threshold, as in a prediction of the runtime.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from mmx.runtime.errors import BadDataError
from mmx.runtime.fusion import sigmoid

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
UNDECIDED = 0.5  # the threshold of a label for which no data can choose one
MAX_SHIFT = 0.05  # of a probability: how far reduced precision may move it where no labels tell what that costs
METRICS = ("accuracy", "weighted_accuracy", "recall", "precision", "f1", "auc")


@dataclass(frozen=True)
class Scorecard:
    """Per label, 0..1, in the order of the labels.

    ``weighted_accuracy`` is the paper's equation 7, ``(TP * N/P + TN) / 2N``, which is scikit-learn's balanced
    accuracy; where all samples are of one class, it is the recall of that class. A recall, precision or F1 with nothing
    to divide by is 0; an AUC without both classes is NaN and left out of the mean.
    """

    labels: tuple[str, ...]
    accuracy: tuple[float, ...]
    weighted_accuracy: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    f1: tuple[float, ...]
    auc: tuple[float, ...]

    def mean(self, metric: str) -> float:
        """The plain mean over labels, as the paper averages; NaN where no label has the metric."""
        values = np.array(getattr(self, metric))
        known = values[np.isfinite(values)]
        return float(known.mean()) if known.size else float("nan")


def decisions(logits: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Which labels are predicted: bool [samples, labels] from logits of that shape.

    Raises:
        BadDataError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        sample, label = np.argwhere(~np.isfinite(logits))[0]
        raise BadDataError(
            f"logit {label} of sample {sample} is {logits[sample, label]}", "the weights or the graph are damaged"
        )
    chosen: NDArray[np.bool_] = sigmoid(logits.astype(np.float64)) > np.asarray(thresholds, np.float64)
    return chosen


def flips(logits: NDArray[np.float32], reference: NDArray[np.float32], thresholds: Sequence[float]) -> int:
    """How many decisions differ between two sets of logits.

    Raises:
        BadDataError: a logit is NaN or infinite.
    """
    return int((decisions(logits, thresholds) != decisions(reference, thresholds)).sum())


def largest_shift(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The largest change of a probability, 0..1, in float64."""
    return float(np.abs(sigmoid(logits.astype(np.float64)) - sigmoid(reference.astype(np.float64))).max())


def scorecard(
    logits: NDArray[np.float32], targets: NDArray[np.int64], thresholds: Sequence[float], labels: Sequence[str]
) -> Scorecard:
    """Score ``logits`` [samples, labels] against ``targets`` (0 or 1, same shape).

    Raises:
        BadDataError: a logit is NaN or infinite.
    """
    predicted = decisions(logits, thresholds)
    columns = [(targets[:, i], predicted[:, i], logits[:, i]) for i in range(targets.shape[1])]
    return Scorecard(
        labels=tuple(labels),
        accuracy=tuple(float(accuracy_score(true, mine)) for true, mine, _ in columns),
        weighted_accuracy=tuple(_balanced(true, mine) for true, mine, _ in columns),
        recall=tuple(float(recall_score(true, mine, zero_division=0)) for true, mine, _ in columns),
        precision=tuple(float(precision_score(true, mine, zero_division=0)) for true, mine, _ in columns),
        f1=tuple(float(f1_score(true, mine, zero_division=0)) for true, mine, _ in columns),
        auc=tuple(_auc(true, scores) for true, _, scores in columns),
    )


def choose_thresholds(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> tuple[float, ...]:
    """For each label the threshold of ``GRID`` with the best F1, the lowest of equals.

    ``UNDECIDED`` for a label whose targets are all alike (``undecided`` names them), or whose F1 is 0 everywhere.

    Choose on the validation split. V2EM's public ``--test`` chooses on the test set, which flatters.

    Raises:
        BadDataError: a logit is NaN or infinite.
    """
    chosen = []
    predicted = {threshold: decisions(logits, [threshold] * targets.shape[1]) for threshold in GRID}
    for i in range(targets.shape[1]):
        f1 = [f1_score(targets[:, i], predicted[threshold][:, i], zero_division=0) for threshold in GRID]
        known = _both_classes(targets[:, i]) and max(f1) > 0
        chosen.append(GRID[int(np.argmax(f1))] if known else UNDECIDED)
    return tuple(chosen)


def undecided(targets: NDArray[np.int64], labels: Sequence[str]) -> str | None:
    """A note for the user where ``choose_thresholds`` had nothing to choose by; None where it had."""
    lacking = [
        f"{label} ({'no' if not targets[:, i].any() else 'only'} positives)"
        for i, label in enumerate(labels)
        if not _both_classes(targets[:, i])
    ]
    if not lacking:
        return None
    return f"the validation split cannot choose a threshold for {', '.join(lacking)}: {UNDECIDED} is taken"


def _both_classes(targets: NDArray[np.int64]) -> bool:
    return 0 < int(targets.sum()) < len(targets)


def _balanced(targets: NDArray[np.int64], predicted: NDArray[np.bool_]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is predicted and never true; the docstring says what follows
        return float(balanced_accuracy_score(targets, predicted))


def _auc(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> float:
    return float(roc_auc_score(targets, scores)) if _both_classes(targets) else float("nan")
