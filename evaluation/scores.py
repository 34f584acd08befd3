"""Scores of logits against the truth, and the thresholds that go with them: the paper's, equal to scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.evaluation.scoring import score
from mmx.runtime.fusion import sigmoid

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
METRICS = ("accuracy", "weighted_accuracy", "recall", "precision", "f1", "auc")


@dataclass(frozen=True)
class Scorecard:
    """Per emotion, 0..1, in the order of the labels.

    An emotion is told when its probability is over (not at) its threshold. ``weighted_accuracy`` is the paper's
    equation 7, ``(TP * N/P + TN) / 2N``, which is scikit-learn's balanced accuracy. A recall, precision or F1 with
    nothing to divide by is 0; an AUC without both kinds of samples is NaN and left out of the mean.
    """

    labels: tuple[str, ...]
    accuracy: tuple[float, ...]
    weighted_accuracy: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    f1: tuple[float, ...]
    auc: tuple[float, ...]

    def mean(self, metric: str) -> float:
        """The plain mean over emotions, as the paper averages; NaN where no emotion has the metric."""
        values = np.array(getattr(self, metric))
        known = values[np.isfinite(values)]
        return float(known.mean()) if known.size else float("nan")


def scorecard(
    logits: NDArray[np.float32], truths: NDArray[np.int64], thresholds: Sequence[float], labels: Sequence[str]
) -> Scorecard:
    """Score ``logits`` [samples, labels] against ``truths`` (0 or 1, same shape)."""
    shared = score(logits, truths, thresholds)
    probability = sigmoid(logits.astype(np.float64))
    told, true = probability > np.asarray(thresholds), truths.astype(bool)
    hits = (told & true).sum(0)
    return Scorecard(
        labels=tuple(labels),
        accuracy=shared.accuracy,
        weighted_accuracy=shared.weighted_accuracy,
        recall=tuple((hits / np.maximum(true.sum(0), 1)).tolist()),
        precision=tuple((hits / np.maximum(told.sum(0), 1)).tolist()),
        f1=shared.f1,
        auc=tuple(auc(logits[:, label], true[:, label]) for label in range(truths.shape[1])),
    )


def choose_thresholds(logits: NDArray[np.float32], truths: NDArray[np.int64]) -> tuple[float, ...]:
    """For each label the threshold of ``GRID`` with the best F1, the lowest of equals.

    Choose on the validation split. V2EM's public ``--test`` chooses on the test set, which flatters.
    """
    f1 = np.array([score(logits, truths, [threshold] * truths.shape[1]).f1 for threshold in GRID])
    return tuple(GRID[row] for row in f1.argmax(axis=0))


def auc(scores: NDArray[np.float32], true: NDArray[np.bool_]) -> float:
    """The chance that a true sample scores higher than a false one, a tie counting half; NaN if one kind is absent."""
    positives, negatives = scores[true], np.sort(scores[~true])
    if not len(positives) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).sum() / 2 / len(positives) / len(negatives))
