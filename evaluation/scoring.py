"""The paper's scores: accuracy (IEMOCAP) or weighted accuracy (MOSEI) and F1 per emotion, at thresholds given
beforehand.

Thresholds come from the bundle, where validation put them. V2EM's public ``--test`` tunes them on the test set
instead, which flatters its figures; that is not done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Per emotion, 0..1, in the order of the labels; ``mean_*`` are their plain means, as the paper averages."""

    accuracy: tuple[float, ...]
    weighted_accuracy: tuple[float, ...]
    f1: tuple[float, ...]

    @property
    def mean_accuracy(self) -> float:
        """Mean of ``accuracy``."""
        return float(np.mean(self.accuracy))

    @property
    def mean_weighted_accuracy(self) -> float:
        """Mean of ``weighted_accuracy``."""
        return float(np.mean(self.weighted_accuracy))

    @property
    def mean_f1(self) -> float:
        """Mean of ``f1``."""
        return float(np.mean(self.f1))


def score(logits: NDArray[np.float32], truths: NDArray[np.int64], thresholds: Sequence[float]) -> Scores:
    """Scores of ``logits`` [samples, emotions] against ``truths`` (0 or 1, same shape).

    An emotion is told when its probability is over (not at) its threshold. F1 without a true or told sample is 0;
    weighted accuracy = (TP * N/P + TN) / (2N), its rates being 0 for a class that does not occur.
    """
    with np.errstate(over="ignore"):
        told = 1 / (1 + np.exp(-logits.astype(np.float32))) > np.asarray(thresholds, np.float64)
    true = truths.astype(bool)
    tp, tn = (told & true).sum(0), (~told & ~true).sum(0)
    positives, negatives = true.sum(0), (~true).sum(0)
    wrong = len(true) - tp - tn
    recall, specificity = tp / np.maximum(positives, 1), tn / np.maximum(negatives, 1)
    return Scores(
        accuracy=tuple(((tp + tn) / len(true)).tolist()),
        weighted_accuracy=tuple(((recall + specificity) / 2).tolist()),
        f1=tuple((2 * tp / np.maximum(2 * tp + wrong, 1)).tolist()),
    )
